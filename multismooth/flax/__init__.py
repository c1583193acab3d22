"""Losses for Flax: `nnx.Loss`, and the classifier layers `nnx.LinearLoss` and `linen.LinearLoss`."""

from importlib import import_module
from typing import TYPE_CHECKING

from multismooth.errors import require

require("flax", "jax")

if TYPE_CHECKING:
    from multismooth.flax import linen, nnx

__all__ = ["linen", "nnx"]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__():
    return __all__
