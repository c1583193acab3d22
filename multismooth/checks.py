"""What is wrong with the arguments beside the targets, said so that it can be mended.

Values arrive as NumPy arrays: a backend shows them only where that needs no device synchronisation (or where
`validate=True` asked for it); under a trace there are none. Shapes and dtypes are always there and always checked.
"""

import sys
import warnings

import numpy as np

from multismooth.errors import SmoothingError, SmoothingWarning, complain


def warn(text):
    """A SmoothingWarning that points at the caller's line, however deep in the package it was found."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("multismooth."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, SmoothingWarning, stacklevel=level)


def first(bad):
    """(number of offenders, index of the first) of a boolean array."""
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return int(np.count_nonzero(bad)), tuple(int(i) for i in index)


def elements_shape(shape, axis):
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])


def same_shape(shape, other):
    """Whether two shapes agree, asked size by size: a tuple of a compiler's symbols equals no tuple of numbers."""
    return len(shape) == len(other) and all(n == m for n, m in zip(shape, other, strict=True))


def broadcasts(argument, shape, to, what):
    """The argument's shape, padded with ones in front to the rank of `to`."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    if len(padded) != len(to) or not all(n == 1 or n == m for n, m in zip(padded, to, strict=True)):
        raise complain(argument, f"a shape that broadcasts to {what} {tuple(to)}", f"{tuple(shape)}", "")
    return padded


def per_class(argument, shape, num_classes, square=False):
    if not (same_shape(shape, (num_classes,)) or (square and same_shape(shape, (num_classes, num_classes)))):
        expected = f"({num_classes},)" + (f" or ({num_classes}, {num_classes})" if square else "")
        raise complain(argument, f"shape {expected}, one entry per class", f"{tuple(shape)}", "")


def existing(mask, excluded, num_classes):
    """(argument, allowed classes) for the class mask and the convention's excluded classes, where there are any."""
    if mask is not None:
        yield "class_mask", mask
    if excluded:
        yield "convention", np.array([k not in excluded for k in range(num_classes)])


def some_class(mask, axis, counted):
    """Every counted element has a class that exists."""
    bad = np.asarray(not mask.any()) if mask.ndim == 1 else ~mask.any(axis=axis) & counted
    if bad.any():
        number, index = first(bad)
        raise complain("class_mask", "at least one existing class everywhere", f"none at {index}, {number} in all", "")


def prior_left(prior, axis, mask, excluded):
    """A (K,) prior keeps mass on the classes that exist; a (K, K) one may lack it for labels that never occur."""
    if prior.ndim > 1:
        return
    for what, allowed in existing(mask, excluded, prior.shape[-1]):
        allowed = allowed if allowed.ndim == 1 else np.moveaxis(allowed, axis, -1)
        left = allowed.astype(prior.dtype) @ prior
        if allowed.any() and not (left > 0).all():
            raise complain("prior", f"mass on classes that `{what}` lets exist", "a prior with none there", "")


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


def weights(w, mass, mask, excluded):
    """Class weights are finite and ≥ 0; warn when their ratio moves the smoothed optimum off the label."""
    bad = ~(np.isfinite(w) & (w >= 0))
    if bad.any():
        number, index = first(bad)
        raise complain("weight", "finite class weights ≥ 0", f"{w[index]} at {index}, {number} in all", "")
    exists = np.ones(w.size, bool)
    for _, allowed in existing(mask, excluded, w.size):
        exists &= allowed if allowed.ndim == 1 else True
    w = w[exists]
    if mass == 0 or w.size == 0 or w.max() == 0:
        return
    ratio = float(w.max()) / float(w.min()) if w.min() else float("inf")
    limit = 1 + w.size * (1 - mass) / mass
    if ratio > limit:
        warn(
            f"weight: the largest class weight is {ratio:g} times the smallest, more than {limit:g} = 1 + K(1 − ε′)/ε′ "
            f"for ε′ = {mass:g}, K = {w.size}: for the lightest class the weighted, smoothed optimum predicts "
            "another one. Use a smaller ε or ratio."
        )


def reduction(value):
    if value not in ("mean", "sum", "none"):
        raise complain("reduction", '"mean", "sum" or "none"', repr(value), "")


def not_negative(argument, values):
    bad = ~(values >= 0) if values.dtype != bool else np.zeros(values.shape, bool)
    if bad.any():
        number, index = first(np.asarray(bad))
        raise complain(argument, "numbers ≥ 0", f"{values[index]} at {index}, {number} in all", "")
