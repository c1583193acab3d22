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
    OnlinePrior,
    binary_loss,
    confidence_penalty,
    distillation_loss,
    focal_loss,
    linear_loss,
    linear_loss_and_grad,
    linear_terms,
    loss,
    loss_and_grad,
    margin_smoothing,
    normalizer,
    smooth_targets,
    smoothing_correction,
    terms,
    unigram_prior,
)
from multismooth.errors import (
    CalibrationWarning,
    LabelError,
    MissingBackendError,
    ShardError,
    SmoothingError,
    SmoothingWarning,
    TargetError,
)
from multismooth.implementations import implementation
from multismooth.registry import conventions, register

if TYPE_CHECKING:
    from multismooth import calibration, demo, flax, jax, keras, numpy, parity, testing, torch, transformers
    from multismooth.cpu.buffers import keep_buffers
    from multismooth.sweeping import Sweep, sweep

__version__ = "0.1.0"

__all__ = [
    "CalibrationWarning",
    "Convention",
    "LabelError",
    "MissingBackendError",
    "OnlinePrior",
    "ShardError",
    "SmoothingError",
    "SmoothingWarning",
    "Sweep",
    "TargetError",
    "binary_loss",
    "calibration",
    "confidence_penalty",
    "conventions",
    "demo",
    "distillation_loss",
    "flax",
    "focal_loss",
    "implementation",
    "jax",
    "keep_buffers",
    "keras",
    "linear_loss",
    "linear_loss_and_grad",
    "linear_terms",
    "loss",
    "loss_and_grad",
    "margin_smoothing",
    "normalizer",
    "numpy",
    "parity",
    "register",
    "smooth_targets",
    "smoothing_correction",
    "sweep",
    "terms",
    "testing",
    "torch",
    "transformers",
    "unigram_prior",
]

_SUBMODULES = {  # name: the package that it needs
    "calibration": "numpy",
    "demo": "numpy",
    "flax": "flax",
    "jax": "jax",
    "keras": "keras",
    "numpy": "numpy",
    "parity": "numpy",
    "testing": "numpy",
    "torch": "torch",
    "transformers": "torch",
}

_LATE = {"keep_buffers": "multismooth.cpu.buffers", "Sweep": "multismooth.sweeping", "sweep": "multismooth.sweeping"}


def __getattr__(name):
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__():
    return [name for name in __all__ if name not in _SUBMODULES or find_spec(_SUBMODULES[name])]
