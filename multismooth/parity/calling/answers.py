"""What calling a loss gives: its Answer, and the loss and the gradient in whatever fn returned."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

EPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-52}  # the coarsest first
NO_KEYWORDS: Mapping[str, Any] = MappingProxyType({})


class CallOptions(NamedTuple):
    """How the arrays of a call are made: the logits' dtype and strides, and fn's keyword arguments."""

    dtype: str = "float64"
    strided: bool = False
    keywords: Mapping[str, Any] = NO_KEYWORDS


class Answer(NamedTuple):
    """What one call returned: `loss` is () or (N,), `gradient` that of the summed loss or None."""

    loss: np.ndarray
    gradient: Any
    precision: float  # machine epsilon of the coarser dtype of loss and gradient
    inputs_changed: bool = False  # fn wrote to its logits or labels
    is_tuple: bool = False  # fn returned a tuple whose first entry is the loss
    noise: tuple[float, float] | None = None  # how far rounding moves loss and gradient, where it was measured
    second: Any = None  # the second entry of such a tuple, as an array, where it is no gradient


class NoLoss(TypeError):
    """fn could be called, and what it returned is no loss."""

    def __init__(self, got, remedy):
        super().__init__(got)
        self.remedy = remedy


def first(result):
    """The loss in what fn returned: itself, or the first of several. Raises NoLoss for what has none in this place."""
    if isinstance(result, Mapping):
        names = ", ".join(map(repr, list(result)[:6]))
        own = "loss" if "loss" in result else next(iter(result), "loss")
        raise NoLoss(f"a dict with {names or 'no keys'}", f'Return its loss: lambda z, y: fn(z, y)["{own}"].')
    if hasattr(result, "loss") and not hasattr(result, "shape"):
        raise NoLoss(f"a {type(result).__name__}", "Return its loss: lambda z, y: fn(z, y).loss.")
    if result is None or isinstance(result, str):
        raise NoLoss(f"{result!r}", "End the function with return loss.")
    return result[0] if isinstance(result, (tuple, list)) and result else result


def loss_and_gradient(result, logits):
    """(loss, gradient or None) of what fn returned: a loss, (loss, gradient), or (loss, anything else)."""
    loss = first(result)
    second = result[1] if isinstance(result, (tuple, list)) and len(result) > 1 else None
    is_gradient = getattr(second, "shape", None) == logits.shape and second is not logits
    return loss, second if is_gradient and bool((second != logits).any()) else None


def second_of(result, gradient):
    """The second value of a tuple as a float64 array; None where there is none, or it is the gradient or no number."""
    if gradient is not None or not isinstance(result, (tuple, list)) or len(result) < 2:
        return None
    try:
        value = result[1].detach().double() if hasattr(result[1], "detach") else result[1]
        return float64(value)
    except (TypeError, ValueError):
        return None


def float64(value):
    return np.asarray(value, dtype=np.float64)


def converted(options, convert):
    """The keyword arguments, their arrays converted; floating arrays in the dtype of the logits."""
    return {
        name: convert(value, options.dtype if value.dtype.kind == "f" else None)
        if isinstance(value, np.ndarray)
        else value
        for name, value in options.keywords.items()
    }
