"""multismooth: label-smoothed classification losses that mean the same thing in PyTorch, JAX and NumPy.

`multismooth.loss(logits, targets, ...)` and its siblings choose the backend from the type of `logits`.
`multismooth.torch`, `.jax` and `.numpy` have the same functions for one backend. `import multismooth` imports no
framework.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from multismooth.convention import Convention
from multismooth.dispatch import (
    binary_loss,
    linear_loss,
    linear_loss_and_grad,
    loss,
    loss_and_grad,
    smooth_targets,
    smoothing_correction,
    terms,
)
from multismooth.errors import LabelError, MissingBackendError, SmoothingError, SmoothingWarning, TargetError
from multismooth.implementations import implementation
from multismooth.registry import conventions, register

if TYPE_CHECKING:
    from multismooth import demo, flax, jax, numpy, parity, testing, torch
    from multismooth.cpu.buffers import keep_buffers

__version__ = "0.1.0"

__all__ = [
    "Convention",
    "LabelError",
    "MissingBackendError",
    "SmoothingError",
    "SmoothingWarning",
    "TargetError",
    "binary_loss",
    "conventions",
    "demo",
    "flax",
    "implementation",
    "jax",
    "keep_buffers",
    "linear_loss",
    "linear_loss_and_grad",
    "loss",
    "loss_and_grad",
    "numpy",
    "parity",
    "register",
    "smooth_targets",
    "smoothing_correction",
    "terms",
    "testing",
    "torch",
]

_SUBMODULES = {  # name: the package that it needs
    "demo": "numpy",
    "flax": "flax",
    "jax": "jax",
    "numpy": "numpy",
    "parity": "numpy",
    "testing": "numpy",
    "torch": "torch",
}


def __getattr__(name):
    if name == "keep_buffers":
        return import_module("multismooth.cpu.buffers").keep_buffers
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__():
    return [name for name in __all__ if name not in _SUBMODULES or find_spec(_SUBMODULES[name])]
