"""The checks of all arguments except the targets. Each error says how to correct the call.

Values arrive as NumPy arrays. A backend reads them only where that needs no device synchronisation, or where the caller
passed `validate=True`; under a trace no values can be read. Shapes and dtypes are always known and always checked.
"""

import math
import sys
import warnings
from operator import index as as_index

import numpy as np

from multismooth.errors import SmoothingError, SmoothingWarning, complain


def warn(text, category=SmoothingWarning):
    """A warning that points at the line of the first caller outside this package."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("multismooth."):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def refuse_keras_order():
    """Refuse a call by a wrapper of Keras, which passes (y_true, y_pred). Shapes may fit, and the numbers too."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "multismooth":
        frame = frame.f_back
    if frame.f_globals.get("__name__", "").startswith(("keras.src.losses", "keras.losses")):
        raise complain(
            "logits",
            "the logits first, then the targets",
            "a call by Keras, which passes (y_true, y_pred)",
            "Pass loss=multismooth.keras.Loss(label_smoothing=…), or lambda y, z: multismooth.loss(z, y).",
            TypeError,
        )


def first(bad):
    """(how many entries of a boolean array are True, the index of the first)."""
    index = np.unravel_index(int(np.argmax(bad)), bad.shape)
    return int(np.count_nonzero(bad)), tuple(int(i) for i in index)


def offenders(bad, values):
    """The text for the values where `bad` is True: the first of them, its index, and how many there are."""
    number, index = first(bad)
    value = f"{float(np.broadcast_to(values, bad.shape)[index]):g}"
    return f"{value} at {index}, {number} in all" if bad.ndim else value


def elements_shape(shape, axis):
    return tuple(shape[:axis]) + tuple(shape[axis + 1 :])


# --- plain arguments ------------------------------------------------------------------------------------------------


def integer(value):
    """Any integer, NumPy's too, as a Python int. None for anything else."""
    try:
        return None if isinstance(value, (bool, np.bool_)) else as_index(value)
    except TypeError:
        return None


def positive(argument, value, remedy, convert=integer):
    number = convert(value)
    if number is None or number < 1:
        raise complain(argument, "an integer ≥ 1", repr(value), remedy)
    return number


def axis_index(axis, ndim, of):
    """The axis as a number ≥ 0. `of` names the array in the error."""
    number = integer(axis)
    if number is None or not -ndim <= number < ndim:
        remedy = f"It is the class axis of {of}; -1 is the last."
        raise complain("axis", f"an integer in [{-ndim}, {ndim})", repr(axis), remedy)
    return number % ndim


def ignored_label(value, dtype):
    """The ignored label as a Python integer, or None. It must fit into `dtype`, the widest dtype of labels."""
    if value is None:
        return None
    number, limits = integer(value), np.iinfo(dtype)
    if number is None:
        remedy = "None ignores no label. For soft targets use sample_weight."
        raise complain("ignore_index", "an integer or None", repr(value), remedy)
    if not limits.min < number < limits.max:  # a label outside the dtype is clipped to one of its limits
        expected, got = f"a label that {np.dtype(dtype).name} can hold", repr(value)
        raise complain("ignore_index", expected, got, "Mark such elements with a small negative label.")
    return number


def reduction(value):
    if not isinstance(value, str) or value not in ("mean", "sum", "none"):
        raise complain("reduction", '"mean", "sum" or "none"', repr(value), 'Per-element losses are "none".')


def validation(value):
    if value is not None and not isinstance(value, (bool, np.bool_)):
        remedy = "None checks values where that needs no synchronisation, True always, False never."
        raise complain("validate", "None, True or False", repr(value), remedy)


# --- shapes ---------------------------------------------------------------------------------------------------------


def same_shape(shape, other):
    """Whether two shapes agree, compared size by size: a tuple of a compiler's symbols never equals one of numbers."""
    if len(shape) != len(other):
        return False
    for n, m in zip(shape, other, strict=True):  # noqa: SIM110 torch.compile traces a loop in less than half the time
        if n != m:
            return False
    return True


def broadcasts(argument, shape, to, what):
    """The argument's shape, padded with ones in front to the rank of `to`."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    if len(padded) != len(to) or not all(n == 1 or n == m for n, m in zip(padded, to, strict=True)):
        expected = f"a shape that broadcasts to {what} {tuple(to)}"
        raise complain(argument, expected, f"{tuple(shape)}", _reshaped(argument, tuple(shape), tuple(to), what))
    return padded


def _reshaped(argument, shape, to, what):
    if [n for n in shape if n != 1] == [n for n in to if n != 1]:
        return f"Pass {argument}.reshape({to})."
    if shape == to[: len(shape)]:
        return f"Pass {argument}.reshape({shape + (1,) * (len(to) - len(shape))}) for one to each of the first axes."
    return f"Give it one entry for each of {what}, or axes of 1 where it is the same for all."


PER_CLASS = {
    "weight": "One weight for each element is sample_weight=; classes on another axis need axis=.",
    "prior": "A distribution of its own for each element is a soft target: mix it into the targets.",
    "bias": "It is that of the linear layer, as are the rows of the classifier.",
}


def per_class(argument, shape, num_classes, square=False):
    if not (same_shape(shape, (num_classes,)) or (square and same_shape(shape, (num_classes, num_classes)))):
        expected = f"({num_classes},)" + (f" or ({num_classes}, {num_classes})" if square else "")
        remedy = PER_CLASS[argument]
        if math.prod(shape) == num_classes:
            remedy = f"Pass {argument}.reshape({num_classes})."
        raise complain(argument, f"shape {expected}, one entry per class", f"{tuple(shape)}", remedy)


# --- values ---------------------------------------------------------------------------------------------------------


def existing(mask, excluded, num_classes):
    """(argument's name, mask of allowed classes), for the class mask and for the convention's excluded classes."""
    if mask is not None:
        yield "class_mask", mask
    if excluded:
        yield "convention", included(excluded, num_classes)


def first_element(ndim, axis):
    """The index of the first element's logits."""
    return 0 if ndim == 2 and axis == 1 else tuple(slice(None) if k == axis else 0 for k in range(ndim))


def included(excluded, num_classes):
    """The (K,) mask of the classes that a convention does not exclude."""
    return ~np.isin(np.arange(num_classes), excluded)


def allowed_classes(mask, excluded, num_classes, axis):
    """(the names of the arguments that restrict the classes, the classes that all of them allow; None: all classes)."""
    if mask is None and not excluded:
        return "", None
    restrictions = dict(existing(mask, excluded, num_classes))
    masks = list(restrictions.values())
    if len(masks) == 2 and mask.ndim > 1:
        masks[1] = masks[1].reshape([-1 if k == axis else 1 for k in range(mask.ndim)])
    return "` and `".join(restrictions), masks[0] if len(masks) == 1 else masks[0] & masks[1]


def some_class(source, mask, axis, counted):
    """Every counted element must have a class that exists and may take smoothed mass."""
    bad = np.asarray(not mask.any()) if mask.ndim == 1 else ~mask.any(axis=axis)
    if bad.ndim and counted is not None:
        bad = bad & counted
    if bad.any():
        number, index = first(bad)
        raise complain(
            "class_mask",
            f"at least one class everywhere that exists under `{source}`",
            f"none at {index}, {number} in all",
            "True is a class that exists. Elements that are to count for nothing get sample_weight 0.",
        )


def single_class(shape, axis):
    """Warn about a single class: its softmax is 1 for any logit."""
    warn(
        f"logits of shape {tuple(shape)} have one class on axis {axis}: its probability is 1 and the loss 0 whatever "
        "the logits are, so nothing is learnt. For a single score per element use binary_loss; axis= names another "
        "class axis."
    )


def smoothing_range(value, counted=None):
    """label_smoothing, a number or an array, must be in [0, 1] at every counted element."""
    if isinstance(value, float):  # under a compiler it may be a symbol, which supports no format such as :g
        got = None if 0 <= value <= 1 else f"{value}"
    else:
        bad = ~((value >= 0) & (value <= 1))
        bad = bad & counted if counted is not None and bad.any() else bad
        got = offenders(bad, value) if bad.any() else None
    if got is not None:
        raise complain("label_smoothing", "a number in [0, 1]", got, "0 means no smoothing.", SmoothingError)


def smoothing(epsilon):
    """Warn about ε above 0.5, which is probably a mistake."""
    if epsilon > 0.5:
        warn(
            f"label_smoothing={epsilon:g} shares out more than it leaves to the label; values around 0.1 "
            "are usual. If a percentage was meant, divide by 100."
        )


def largest(value, counted=None):
    """The largest ε of the counted elements; 0 if there are none."""
    if isinstance(value, float):
        return value
    value = value if counted is None else np.broadcast_to(value, counted.shape)[counted]
    return float(value.max()) if value.size else 0.0


def weights(w, mass, mask, excluded):
    """Class weights must be finite and ≥ 0. Warn if their ratio moves the smoothed optimum away from the label."""
    not_negative("weight", w)
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


NOT_NEGATIVE = {
    "weight": "0 takes the class out of the loss.",
    "pos_weight": "It multiplies the term of the positive label; 1 leaves it as it is.",
    "sample_weight": "0 takes the element out of the loss.",
    "normalizer": "It is the number to divide the sum by, such as the tokens of all accumulated batches.",
    "z_loss": "0 is no z-loss.",
}


def not_negative(argument, values, counted=None):
    """The values of the counted elements must be finite and ≥ 0."""
    values = np.asarray(values)
    bad = np.asarray(~((values >= 0) & (values < np.inf)))
    bad = bad & counted if counted is not None and bad.any() else bad
    if bad.any():
        expected = "finite numbers ≥ 0" if bad.ndim else "a finite number ≥ 0"
        raise complain(argument, expected, offenders(bad, values), NOT_NEGATIVE[argument])


def zero_weights():
    """The error for a mean whose counted labels all have class weight 0, while a smoothing term or z-loss is not 0."""
    return complain(
        "weight",
        "a class weight > 0 for some counted label, since the mean divides by their sum",
        "0 for all of them",
        'Leave such elements out with ignore_index or sample_weight 0, or use reduction="sum".',
    )


def zero_normalizer():
    """The error for a normalizer of 0 in a call with counted elements."""
    return complain(
        "normalizer",
        "a number > 0 where something is counted",
        "0",
        "Pass what the sum is to be divided by: the elements counted in all batches and processes, say.",
    )
