"""The checks of the targets and of the class axis that they imply. `argument_checks` has the other arguments."""

import math

import numpy as np

from multismooth.api.argument_checks import axis_index, elements_shape, existing, first, offenders, same_shape, warn
from multismooth.api.containers import NUMBERED
from multismooth.errors import LabelError, TargetError, complain


def kind(array_kind, dtype):
    """Targets must be integers, booleans or floats."""
    if array_kind == "other":
        expected = "integer labels, or floating or boolean rows"
        raise complain("targets", expected, f"dtype {dtype}", NUMBERED, TargetError)


def class_axis(shape, target_shape, soft, axis, rows=None, slack=1e-3):
    """The class axis as a number ≥ 0.

    With axis=None it is the last axis. Targets that fit another axis only, or two axes, are an error. `rows` are the
    values of soft targets, or None where they cannot be read.
    """
    ndim = len(shape)
    if axis is not None:
        return axis_index(axis, ndim, "the logits")
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
    """Integer targets must have the elements' shape, floating and boolean targets the shape of the logits."""
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
    """How to correct targets of a wrong shape."""
    if kind == "integer" and got == shape:
        return "One-hot rows must be floating or boolean: convert them, or pass the labels themselves."
    ndim, expected, steps = len(shape), elements_shape(shape, axis), []
    dropped = [k for k in (axis, *range(1, ndim), 0) if elements_shape(shape, k) == got]  # axes that got lacks
    ones = [k for k in (axis, *range(1, ndim), 0) if (*shape[:k], 1, *shape[k + 1 :]) == got]
    if kind == "floating" and (dropped or ones or got == expected):
        steps.append("Label smoothing is for classes: for regression use a regression loss.")
        steps.append("Cast class ids to integers: targets.long() or targets.astype(int).")
    if ones and not dropped:
        steps.append(f"Drop the axis of 1: targets.squeeze({-1 if ones[0] == ndim - 1 else ones[0]}).")
    fitting = [*dropped, *ones]
    if fitting and axis not in fitting:
        steps.append(f"Pass axis={fitting[0]}, the class axis.")
    if not steps and math.prod(got) == math.prod(expected):
        steps.append(f"Pass targets.reshape({expected}).")
    return " ".join(steps) or f"The logits are {shape} with classes on axis {axis}; axis= names another one."


def labels(y, num_classes, ignore_index, mask=None, axis=-1, excluded=(), weighted=None):
    """True if every label names a class and none is ignored. LabelError if a counted label names no class.

    `weighted`: the elements whose sample weight is not 0, or None for all. Other elements may have any label.
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
    counted = counted if weighted is None else counted & weighted
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
    for source, allowed in existing(mask, excluded, num_classes):
        if allowed.ndim > 1:
            allowed = np.take_along_axis(allowed, np.expand_dims(safe, axis), axis=axis).squeeze(axis)
        else:
            allowed = allowed[safe]
        if (counted & ~allowed).any():
            number, index = first(counted & ~allowed)
            raise _absent(source, f"{int(y[index])} at {index}, {number} in all", LabelError)
    return low >= 0 and high < num_classes and not ignored


def _absent(source, got, error=TargetError):
    remedy = "Mark such elements with ignore_index or sample_weight 0, or let the class exist."
    return complain("targets", f"only classes that `{source}` lets exist", got, remedy, error)


def soft_mass(rows, axis, mask, counted):
    """No counted soft row may have mass on a class that does not exist."""
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


# The tolerance for a row of probabilities: for its sum against 1, and for its entries below 0. The dtype is that of the
# caller's array, because a conversion does not undo its rounding.
TOLERANCE = {"float64": 1e-5, "float32": 1e-3, "float16": 1e-2, "bfloat16": 2.0**-6}


def tolerance(dtype):
    """`TOLERANCE` of any framework's dtype; for floats of 8 bits and fewer it is 0.125."""
    name = str(dtype).rpartition(".")[2]
    return 0.125 if name.startswith(("float8", "float4")) else TOLERANCE.get(name, 1e-3)


def is_distribution(rows, axis, slack, lowest=None):
    """Whether all rows sum to 1 within `slack` and have no entry below `lowest`, which is −slack by default."""
    with np.errstate(all="ignore"):
        total = np.sum(rows, axis=axis, dtype=np.float64)
        lowest = -slack if lowest is None else lowest
        return bool((rows >= lowest).all() and (np.abs(total - 1) <= slack).all())


def distributions(argument, rows, axis, slack, counted=None, error=TargetError):
    """Every counted row must be ≥ 0 and sum to 1 within `slack`, the tolerance of its dtype."""
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


def prior_mass(prior, targets, axis, source, allowed, counted):
    """A prior must have mass on the allowed classes at every counted element.

    `targets` pick or mix the rows of a (K, K) prior. `source`, `allowed`: from `argument_checks.allowed_classes`.
    """
    if prior.ndim > 1 and targets is None:
        return
    allowed = allowed if allowed.ndim == 1 else np.moveaxis(allowed, axis, -1)
    with np.errstate(all="ignore"):
        if prior.ndim > 1 and targets.dtype.kind in "iu":
            labels = np.where((targets >= 0) & (targets < len(prior)), targets, 0)
            mass = (prior @ allowed)[labels] if allowed.ndim == 1 else np.sum(allowed * prior[labels], axis=-1)
        else:
            rows = prior if prior.ndim == 1 else np.moveaxis(targets, axis, -1) @ prior
            mass = np.sum(allowed * rows, axis=-1)
        bad = np.asarray(~(mass > 0))
    if bad.ndim and counted is not None:
        bad = bad & counted
    if bad.any():
        where = f" at {first(bad)[1]}" if bad.ndim else ""
        raise complain(
            "prior",
            f"mass on the classes that exist under `{source}`",
            f"a prior with none there{where}",
            "Give these classes mass, or let a class exist that has some.",
        )


def probabilities(row, slack, all_logits, argument="logits"):
    """Refuse logits that are all probabilities, which means that a softmax was already applied.

    `row` is the first row. `all_logits()` returns (the values of all logits, the class axis). It is called only if the
    first row looks like probabilities.
    """
    if not 0 <= row[0] <= 1 or abs(float(row.sum(dtype=np.float64)) - 1) > slack:
        return
    if not _probabilities(row, 0, slack) or not _probabilities(*all_logits(), slack):
        return
    raise complain(
        argument,
        "unnormalised scores",
        "rows in [0, 1] that sum to 1, which look like probabilities",
        "Pass the scores from before the softmax, or log(p); validate=False if these are scores after all.",
    )


def _probabilities(rows, axis, slack):
    return bool(((rows > 0) & (rows < 1)).any()) and is_distribution(rows, axis, slack, lowest=0)


def probability(t, slack, counted):
    """Every counted target of `binary_loss` must be in [0, 1] within `slack`."""
    bad = ~((t >= -slack) & (t <= 1 + slack)) if t.dtype.kind not in "b" else np.zeros(t.shape, bool)
    bad = bad if counted is None else bad & counted
    if bad.any():
        remedy = "Targets are probabilities: 0, 1 or between. Absent ones get sample_weight 0 and may hold anything."
        raise complain("targets", "values in [0, 1]", offenders(bad, t), remedy, TargetError)


def binary_fitting(got, shape):
    """How to correct targets of `binary_loss` of a wrong shape."""
    if math.prod(got) == math.prod(shape):
        return f"Pass targets.reshape({tuple(shape)})."
    return "One target for each logit: labels of classes that exclude each other belong to loss."


def largest_entry(mass, prior, labels, num_classes):
    """Warn if a smoothed target is larger at another class than at its label."""
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
