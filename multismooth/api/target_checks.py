"""What is wrong with the targets and with the class axis that they imply; `checks` has the other arguments."""

import math

import numpy as np

from multismooth.api.argument_checks import elements_shape, existing, first, offenders, place, same_shape, warn
from multismooth.api.containers import NUMBERED
from multismooth.errors import LabelError, TargetError, complain


def kind(array_kind, dtype):
    """Targets are integers, booleans or floats."""
    if array_kind == "other":
        expected = "integer labels, or floating or boolean rows"
        raise complain("targets", expected, f"dtype {dtype}", NUMBERED, TargetError)


def class_axis(shape, target_shape, soft, axis, rows=None, slack=1e-3):
    """The class axis as a number ≥ 0. Unsaid it is the last one, unless the targets say otherwise or fit twice."""
    ndim = len(shape)
    if axis is not None:
        return place(axis, ndim, "the logits")
    if soft:
        if rows is not None and ndim > 2 and not is_distribution(rows, -1, slack):
            others = [k for k in range(1, ndim - 1) if is_distribution(rows, k, slack)]
            if others:
                raise _other_axis(shape, target_shape, others[0])
        return ndim - 1
    if ndim <= 2 and same_shape(shape[:-1], target_shape):
        return ndim - 1
    fits = [k for k in range(ndim) if same_shape(elements_shape(shape, k), target_shape)]
    if fits and ndim - 1 not in fits:
        raise _other_axis(shape, target_shape, fits[-1])
    also = [k for k in fits if 0 < k < ndim - 1]
    if ndim > 2 and ndim - 1 in fits and also:
        raise complain(
            "axis",
            "to be told the class axis, which the shapes leave open",
            f"logits {tuple(shape)} and targets {tuple(target_shape)}, which fit axis {also[0]} and axis -1",
            f"Pass axis={also[0]} or axis=-1.",
        )
    return ndim - 1


def _other_axis(shape, target_shape, axis):
    return complain(
        "targets",
        f"targets that fit logits {tuple(shape)} with classes on the last axis",
        f"shape {tuple(target_shape)}, which fits classes on axis {axis}",
        f"Pass axis={axis}.",
        TargetError,
    )


def target_shape(kind, target_shape, shape, axis):
    """Integers have the elements' shape, floating and boolean targets the logits'."""
    expected, got, shape = elements_shape(shape, axis), tuple(target_shape), tuple(shape)
    if same_shape(got, expected if kind == "integer" else shape):
        return
    labels, rows = f"integer labels of shape {expected}", f"distributions of shape {shape}"
    raise complain(
        "targets",
        labels if kind == "integer" else f"{labels}, or {rows}",
        f"shape {got}" if kind == "integer" else f"{kind} values of shape {got}",
        _fitting(kind, got, shape, axis),
        TargetError,
    )


def _fitting(kind, got, shape, axis):
    """What would make targets of a wrong shape fit."""
    if kind == "integer" and got == shape:
        return "One-hot rows must be floating or boolean: convert them, or pass the labels themselves."
    ndim, expected, steps = len(shape), elements_shape(shape, axis), []
    whole = [k for k in (axis, *range(1, ndim), 0) if elements_shape(shape, k) == got]
    thin = [k for k in (axis, *range(1, ndim), 0) if (*shape[:k], 1, *shape[k + 1 :]) == got]
    if kind == "floating" and (whole or thin or got == expected):
        steps.append("Label smoothing is for classes: for regression use a regression loss.")
        steps.append("Cast class ids to integers: targets.long() or targets.astype(int).")
    if thin and not whole:
        steps.append(f"Drop the axis of 1: targets.squeeze({-1 if thin[0] == ndim - 1 else thin[0]}).")
    found = [*whole, *thin]
    if found and axis not in found:
        steps.append(f"Pass axis={found[0]}, the class axis.")
    if not steps and math.prod(got) == math.prod(expected):
        steps.append(f"Pass targets.reshape({expected}).")
    return " ".join(steps) or f"The logits are {shape} with classes on axis {axis}; axis= names another one."


def labels(y, num_classes, ignore_index, mask=None, axis=-1, excluded=(), something=None):
    """True when every label names a class and none is ignored; LabelError when one names no class.

    `something`: where the sample weight is not 0, or None; elsewhere a label means nothing.
    """
    if y.size == 0:
        return True
    low, high = int(y.min()), int(y.max())
    ignored = ignore_index is not None and low <= ignore_index <= high and bool((y == ignore_index).any())
    counted = y != ignore_index if ignored else np.ones(y.shape, bool)
    if ignored:
        rest = y[counted]
        low, high = (int(rest.min()), int(rest.max())) if rest.size else (0, 0)
    if low >= 0 and high < num_classes and mask is None and not excluded:
        return not ignored
    counted = counted if something is None else counted & something
    bad = counted & ((y < 0) | (y >= num_classes))
    if bad.any():
        number, index = first(bad)
        value = int(y[index])
        raise complain(
            "targets",
            f"labels in [0, {num_classes})" + ("" if ignore_index is None else f" or ignore_index={ignore_index}"),
            f"{value} at {index}" + (f" and {number - 1} more" if number > 1 else ""),
            _label_remedy(value, num_classes),
            LabelError,
        )
    safe = np.where(counted, y, 0)
    for what, allowed in existing(mask, excluded, num_classes):
        if allowed.ndim > 1:
            allowed = np.take_along_axis(allowed, np.expand_dims(safe, axis), axis=axis).squeeze(axis)
        else:
            allowed = allowed[safe]
        if (counted & ~allowed).any():
            number, index = first(counted & ~allowed)
            raise _absent(what, f"{int(y[index])} at {index}, {number} in all", LabelError)
    return low >= 0 and high < num_classes and not ignored


def _absent(what, got, error=TargetError):
    remedy = "Mark such elements with ignore_index or sample_weight 0, or let the class exist."
    return complain("targets", f"only classes that `{what}` lets exist", got, remedy, error)


def soft_mass(rows, axis, mask, counted):
    """No counted soft row has mass on a class that does not exist."""
    if mask is None:
        return
    allowed = mask if mask.ndim > 1 else mask.reshape([-1 if k == axis else 1 for k in range(rows.ndim)])
    bad = (rows > 0) & ~allowed & (True if counted is None else np.expand_dims(counted, axis))
    if bad.any():
        number, index = first(bad)
        raise _absent("class_mask", f"mass {float(rows[index]):g} at {index}, {number} such entries in all")


def _label_remedy(value, num_classes):
    if value in (-1, 255):
        return f"If {value} marks elements to leave out, pass ignore_index={value}."
    if value == num_classes:
        return "Labels start at 0: subtract 1 if yours start at 1."
    return "Check the number of classes, or pass ignore_index if this value marks padding."


# How far a row of probabilities may be from one: its sum from 1, its entries below 0. Looked up by the dtype that the
# caller's own array has, because a conversion forgets how it was rounded.
TOLERANCE = {"float64": 1e-5, "float32": 1e-3, "float16": 1e-2, "bfloat16": 2.0**-6}


def tolerance(dtype):
    """`TOLERANCE` of any framework's dtype; 8 bits and fewer are coarse."""
    name = str(dtype).rpartition(".")[2]
    return 0.125 if name.startswith(("float8", "float4")) else TOLERANCE.get(name, 1e-3)


def is_distribution(rows, axis, slack, lowest=None):
    """Whether all rows sum to 1 and have no entry below `lowest` (−slack), to within `slack`."""
    with np.errstate(all="ignore"):
        total = np.sum(rows, axis=axis, dtype=np.float64)
        lowest = -slack if lowest is None else lowest
        return bool((rows >= lowest).all() and (np.abs(total - 1) <= slack).all())


def distributions(argument, rows, axis, slack, counted=None, error=TargetError):
    """Every counted row is ≥ 0 and sums to 1 within `slack`, the tolerance of its own dtype."""
    if rows.dtype == bool:
        rows = rows.astype(np.float32)
    if is_distribution(rows, axis, slack):
        return
    with np.errstate(all="ignore"):
        total, least = np.sum(rows, axis=axis, dtype=np.float64), np.min(rows, axis=axis)
        bad = ~(np.abs(total - 1) <= slack) | ~(least >= -slack)
    if counted is not None:
        bad = bad & np.broadcast_to(counted, bad.shape)
    if not bad.any():
        return
    number, index = first(bad)
    remedy = "Normalise it: prior / prior.sum(-1, keepdims=True)."
    if argument == "targets":
        remedy = (
            "Label smoothing is for classes: normalise the rows, or use a regression loss for continuous targets; "
            "rows that do not count may hold anything where sample_weight is 0."
        )
    raise complain(
        argument,
        "distributions over the classes: entries ≥ 0 that sum to 1",
        f"a row at {index} with sum {float(total[index]):.6g} and smallest entry {float(least[index]):.6g}, "
        f"{number} such in all",
        remedy,
        error,
    )


def prior_left(prior, rows_of, axis, what, allowed, counted):
    """A prior keeps mass on the classes that exist, at every counted element.

    `rows_of`: the labels of a (K, K) prior's rows, or soft rows that mix them. `allowed` is from `checks.together`.
    """
    if prior.ndim > 1 and rows_of is None:
        return
    allowed = allowed if allowed.ndim == 1 else np.moveaxis(allowed, axis, -1)
    with np.errstate(all="ignore"):
        if prior.ndim > 1 and rows_of.dtype.kind in "iu":
            labels = np.where((rows_of >= 0) & (rows_of < len(prior)), rows_of, 0)
            left = (prior @ allowed)[labels] if allowed.ndim == 1 else np.sum(allowed * prior[labels], axis=-1)
        else:
            rows = prior if prior.ndim == 1 else np.moveaxis(rows_of, axis, -1) @ prior
            left = np.sum(allowed * rows, axis=-1)
        none = np.asarray(~(left > 0))
    if none.ndim and counted is not None:
        none = none & counted
    if none.any():
        where = f" at {first(none)[1]}" if none.ndim else ""
        raise complain(
            "prior",
            f"mass on the classes that exist under `{what}`",
            f"a prior with none there{where}",
            "Give these classes mass, or let a class exist that has some.",
        )


def probabilities(row, slack, everything):
    """Logits that are all probabilities are a softmax too many; `everything` is asked for only if the first row is."""
    if not 0 <= row[0] <= 1 or abs(float(row.sum(dtype=np.float64)) - 1) > slack:
        return
    if not _probabilities(row, 0, slack) or not _probabilities(*everything(), slack):
        return
    raise complain(
        "logits",
        "unnormalised scores",
        "rows in [0, 1] that sum to 1, which look like probabilities",
        "Pass the scores from before the softmax, or log(p); validate=False if these are scores after all.",
    )


def _probabilities(rows, axis, slack):
    return bool(((rows > 0) & (rows < 1)).any()) and is_distribution(rows, axis, slack, lowest=0)


def probability(t, slack, counted):
    """Every counted target of `binary_loss` is in [0, 1], to within `slack`."""
    bad = ~((t >= -slack) & (t <= 1 + slack)) if t.dtype.kind not in "b" else np.zeros(t.shape, bool)
    bad = bad if counted is None else bad & counted
    if bad.any():
        remedy = "Targets are probabilities: 0, 1 or between. Absent ones get sample_weight 0 and may hold anything."
        raise complain("targets", "values in [0, 1]", offenders(bad, t), remedy, TargetError)


def binary_fitting(got, shape):
    """What would make the targets of `binary_loss` fit."""
    if math.prod(got) == math.prod(shape):
        return f"Pass targets.reshape({tuple(shape)})."
    return "One target for each logit: labels of classes that exclude each other belong to loss."


def largest_entry(mass, prior, labels, num_classes):
    """Warn when a smoothed target is larger at another class than at its label."""
    if prior is None:
        wrong = mass > 1
    else:
        own = prior if prior.ndim == 1 else np.diagonal(prior)
        present = np.ones(num_classes, bool) if labels is None else np.isin(np.arange(num_classes), labels)
        wrong = np.any((1 - mass + mass * own < mass * prior.max(axis=-1)) & present)
    if wrong:
        warn(
            f"label_smoothing: with these {num_classes} classes some smoothed targets are larger at another class "
            "than at the label, so the optimum predicts the wrong class. Use a smaller ε."
        )
