"""What is wrong with the targets and with the class axis that they imply; `checks` has the other arguments."""

import numpy as np

from multismooth.checks import elements_shape, existing, first, warn
from multismooth.errors import LabelError, TargetError, complain


def class_axis(shape, target_shape, soft, axis, rows=None):
    """The class axis as a number ≥ 0. Unsaid it is the last one, unless the targets say otherwise or fit twice."""
    ndim = len(shape)
    if axis is not None:
        if isinstance(axis, bool) or not isinstance(axis, int) or not -ndim <= axis < ndim:
            raise complain(
                "axis", f"an integer in [{-ndim}, {ndim})", repr(axis), "It is the class axis of the logits."
            )
        return axis % ndim
    if soft:
        if rows is not None and ndim > 2 and not is_distribution(rows, -1):
            others = [k for k in range(1, ndim - 1) if is_distribution(rows, k)]
            if others:
                raise _other_axis(shape, target_shape, others[0])
        return ndim - 1
    if ndim <= 2 and shape[:-1] == target_shape:
        return ndim - 1
    fits = [k for k in range(ndim) if elements_shape(shape, k) == tuple(target_shape)]
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
    expected, got = elements_shape(shape, axis), tuple(target_shape)
    if kind == "integer":
        if got == expected:
            return
        remedy = f"The logits are {tuple(shape)} with classes on axis {axis}."
        if got == tuple(shape):
            remedy = "One-hot rows must be floating or boolean: convert them, or pass the labels themselves."
        elif got == (*expected, 1):
            remedy = "Drop the last axis: targets.squeeze(-1) (reshape(-1) in NumPy)."
        raise complain("targets", f"integer labels of shape {expected}", f"shape {got}", remedy, TargetError)
    if got == tuple(shape):
        return
    if kind == "floating" and got in (expected, (*expected, 1)):
        raise complain(
            "targets",
            f"integer labels of shape {expected}, or distributions of shape {tuple(shape)}",
            f"floating values of shape {got}",
            "Label smoothing is for classes. Cast class ids to integers; for regression use a regression loss.",
            TargetError,
        )
    raise complain("targets", f"{kind} targets of the logits' shape {tuple(shape)}", f"shape {got}", "", TargetError)


def labels(y, num_classes, ignore_index, mask=None, axis=-1, excluded=(), something=None):
    """True when every label names a class and none is ignored; LabelError when one names no class.

    `something`: where the sample weight is not 0, or None; elsewhere a label means nothing.
    """
    if y.size == 0:
        return True
    low, high = int(y.min()), int(y.max())
    inside = low >= 0 and high < num_classes
    ignored = ignore_index is not None and low <= ignore_index <= high and bool((y == ignore_index).any())
    if inside and not ignored and mask is None and not excluded:
        return True
    counted = y != ignore_index if ignored else np.ones(y.shape, bool)
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
    return inside and not ignored


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


TOLERANCE = {"float64": 1e-5, "float32": 1e-3, "float16": 1e-2, "bfloat16": 2.0**-6}


def tolerance(dtype):
    """How far from 1 the sum of a row of probabilities may be, by the dtype that they were rounded to."""
    return TOLERANCE.get(str(dtype).rpartition(".")[2], 1e-3)


def _tolerance(rows):
    return tolerance(rows.dtype)


def is_distribution(rows, axis):
    with np.errstate(all="ignore"):
        total = np.sum(rows, axis=axis, dtype=np.float64)
        return bool((rows >= 0).all() and (np.abs(total - 1) <= _tolerance(rows)).all())


def distributions(argument, rows, axis, counted=None, error=TargetError):
    """Every counted row is ≥ 0 and sums to 1 within the dtype's tolerance."""
    if rows.dtype == bool:
        rows = rows.astype(np.float32)
    if is_distribution(rows, axis):
        return
    with np.errstate(all="ignore"):
        total = np.sum(rows, axis=axis, dtype=np.float64)
        bad = ~(np.abs(total - 1) <= _tolerance(rows)) | ~(np.min(rows, axis=axis) >= 0)
    if counted is not None:
        bad = bad & np.broadcast_to(counted, bad.shape)
    if not bad.any():
        return
    number, index = first(bad)
    lowest = float(np.min(rows, axis=axis)[index])
    raise complain(
        argument,
        "distributions over the classes: entries ≥ 0 that sum to 1",
        f"a row at {index} with sum {float(total[index]):.6g} and smallest entry {lowest:.6g}, {number} such in all",
        "Label smoothing is for classes: normalise the rows, or use a regression loss for continuous targets.",
        error,
    )


def probabilities(row, everything):
    """Logits that are all probabilities are a softmax too many; `everything` is asked for only if the first row is."""
    if not 0 <= row[0] <= 1 or abs(float(row.sum()) - 1) > 0.01:
        return
    if not _probabilities(row, 0) or not _probabilities(*everything()):
        return
    raise complain(
        "logits",
        "unnormalised scores",
        "rows in [0, 1] that sum to 1, which look like probabilities",
        "Pass the scores from before the softmax, or log(p); validate=False if these are scores after all.",
    )


def _probabilities(rows, axis):
    return bool(((rows > 0) & (rows < 1)).any()) and is_distribution(rows, axis)


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
