"""What is wrong with the arguments, said so that it can be mended. Values arrive as NumPy arrays, or None if unseen.

A backend shows values only where that needs no device synchronisation (or `validate=True` asked for it); under a
trace there are none. Shapes and dtypes are always there and always checked.
"""

import sys
import warnings

import numpy as np

from multismooth.errors import LabelError, SmoothingError, SmoothingWarning, TargetError, complain

REDUCTIONS = ("mean", "sum", "none")


def warn(text):
    """A SmoothingWarning that points at the caller's line, however deep in the package it was found."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("multismooth."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, SmoothingWarning, stacklevel=level - 1)


def first(bad):
    """(number of offenders, index of the first) of a boolean array."""
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return int(np.count_nonzero(bad)), tuple(int(i) for i in index)


def elements_shape(shape, axis):
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])


# --- axes and shapes ------------------------------------------------------------------------------------------------


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
        if rows is not None and ndim > 2 and not _distributions(rows, -1):
            others = [k for k in range(1, ndim - 1) if _distributions(rows, k)]
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


def broadcasts(argument, shape, to, what):
    """The argument's shape, padded with ones in front to the rank of `to`."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    if len(padded) != len(to) or any(n not in (1, m) for n, m in zip(padded, to, strict=True)):
        raise complain(argument, f"a shape that broadcasts to {what} {tuple(to)}", f"{tuple(shape)}", "")
    return padded


def per_class(argument, shape, num_classes, square=False):
    allowed = [(num_classes,)] + ([(num_classes, num_classes)] if square else [])
    if tuple(shape) not in allowed:
        expected = " or ".join(map(str, allowed))
        raise complain(argument, f"shape {expected}, one entry per class", f"{tuple(shape)}", "")


# --- values ---------------------------------------------------------------------------------------------------------


def labels(y, num_classes, ignore_index, mask=None, axis=-1, excluded=()):
    """True when every label names a class and none is ignored; LabelError when one names no class."""
    if y.size == 0:
        return True
    low, high = int(y.min()), int(y.max())
    inside = low >= 0 and high < num_classes
    ignored = ignore_index is not None and low <= ignore_index <= high and bool((y == ignore_index).any())
    if inside and not ignored and mask is None and not excluded:
        return True
    counted = y != ignore_index if ignored else np.ones(y.shape, bool)
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
    for what, absent in (("class_mask", mask), ("convention", _excluded(excluded, num_classes))):
        if absent is None:
            continue
        safe = np.where(counted, y, 0)
        if what == "class_mask" and absent.ndim > 1:
            allowed = np.take_along_axis(absent, np.expand_dims(safe, axis), axis=axis).squeeze(axis)
        else:
            allowed = absent[safe]
        if (counted & ~allowed).any():
            number, index = first(counted & ~allowed)
            raise complain(
                "targets",
                f"labels that `{what}` lets exist",
                f"{int(y[index])} at {index}, {number} in all",
                "Mark such elements with ignore_index or sample_weight 0, or let the class exist.",
                LabelError,
            )
    return inside and not ignored and mask is None


def _excluded(excluded, num_classes):
    return np.array([k not in excluded for k in range(num_classes)]) if excluded else None


def _label_remedy(value, num_classes):
    if value in (-1, 255):
        return f"If {value} marks elements to leave out, pass ignore_index={value}."
    if value == num_classes:
        return "Labels start at 0: subtract 1 if yours start at 1."
    return "Check the number of classes, or pass ignore_index if this value marks padding."


def _tolerance(rows):
    return 1e-6 if rows.dtype == np.float64 else 1e-3 if rows.dtype == np.float32 else 1e-2


def _distributions(rows, axis):
    with np.errstate(all="ignore"):
        total = np.sum(rows, axis=axis, dtype=np.float64)
        return bool((rows >= 0).all() and (np.abs(total - 1) <= _tolerance(rows)).all())


def distributions(argument, rows, axis, counted=None, error=TargetError):
    """Every counted row is ≥ 0 and sums to 1 within the dtype's tolerance."""
    if rows.dtype == bool:
        rows = rows.astype(np.float32)
    if _distributions(rows, axis):
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
    return bool(((rows > 0) & (rows < 1)).any()) and _distributions(rows, axis)


def smoothing_range(value):
    """label_smoothing, a number or an array, is in [0, 1]."""
    value = np.asarray(value)
    inside = (value >= 0) & (value <= 1)
    if not inside.all():
        number, index = first(~np.asarray(inside))
        got = f"{float(value[index]):g}" + (f" at {index}, {number} such in all" if value.ndim else "")
        raise complain("label_smoothing", "a number in [0, 1]", got, "0 means no smoothing.", SmoothingError)


def smoothing(value):
    """The same, and above 0.5 it is probably not meant."""
    smoothing_range(value)
    if value.size and value.max() > 0.5:
        warn(
            f"label_smoothing={float(value.max()):g} shares out more than it leaves to the label; values around 0.1 "
            "are usual. If a percentage was meant, divide by 100."
        )


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


def weights(w, label_smoothing, num_classes):
    """Class weights are finite and ≥ 0; warn when their ratio moves the smoothed optimum off the label."""
    bad = ~(np.isfinite(w) & (w >= 0))
    if bad.any():
        number, index = first(bad)
        raise complain("weight", "finite class weights ≥ 0", f"{w[index]} at {index}, {number} in all", "")
    if label_smoothing == 0 or w.max() == 0:
        return
    ratio = float(w.max()) / float(w.min()) if w.min() else float("inf")
    limit = 1 + num_classes * (1 - label_smoothing) / label_smoothing
    if ratio > limit:
        warn(
            f"weight: the largest class weight is {ratio:g} times the smallest, more than {limit:g} = 1 + K(1 − ε)/ε "
            f"for ε = {label_smoothing:g}, K = {num_classes}: for the lightest class the weighted, smoothed optimum "
            "predicts another one. Use a smaller ε or ratio."
        )


def not_negative(argument, values):
    bad = ~(values >= 0) if values.dtype != bool else np.zeros(values.shape, bool)
    if bad.any():
        number, index = first(np.asarray(bad))
        raise complain(argument, "numbers ≥ 0", f"{values[index]} at {index}, {number} in all", "")
