"""JAX backend: the text of `spec` under jit, differentiated by JAX itself in any mode and to any order.

>>> import jax, jax.numpy as jnp
>>> import multismooth.jax as ms
>>> gradient = jax.grad(ms.loss)(jnp.array([[2.0, 0.5, -1.0]]), jnp.array([0]), label_smoothing=0.1)
>>> [round(x, 4) for x in gradient[0].tolist()]
[-0.1477, 0.142, 0.0058]
"""

# ruff: noqa: E402 (a missing framework must be reported before anything imports it)
from typing import TYPE_CHECKING

from multismooth.errors import require

require("jax", "jax")

from multismooth.api.functions import Functions
from multismooth.api.prior_functions import online_prior
from multismooth.api.public import public
from multismooth.jax.backend import JaxBackend

__all__ = [
    "OnlinePrior",
    "binary_loss",
    "confidence_penalty",
    "distillation_loss",
    "focal_loss",
    "linear_loss",
    "linear_loss_and_grad",
    "linear_terms",
    "loss",
    "loss_and_grad",
    "margin_smoothing",
    "normalizer",
    "smooth_targets",
    "smoothing_correction",
    "terms",
    "unigram_prior",
]

_functions = Functions(JaxBackend())
if TYPE_CHECKING:
    from multismooth.typed.jax import *  # noqa: F403
else:
    loss = public(_functions.loss, __name__)
    terms = public(_functions.terms, __name__)
    loss_and_grad = public(_functions.loss_and_grad, __name__)
    smooth_targets = public(_functions.smooth_targets, __name__)
    linear_loss = public(_functions.linear_loss, __name__)
    linear_loss_and_grad = public(_functions.linear_loss_and_grad, __name__)
    linear_terms = public(_functions.linear_terms, __name__)
    smoothing_correction = public(_functions.smoothing_correction, __name__)
    binary_loss = public(_functions.binary_loss, __name__)
    focal_loss = public(_functions.focal_loss, __name__)
    confidence_penalty = public(_functions.confidence_penalty, __name__)
    margin_smoothing = public(_functions.margin_smoothing, __name__)
    distillation_loss = public(_functions.distillation_loss, __name__)
    normalizer = public(_functions.normalizer, __name__)
    unigram_prior = public(_functions.unigram_prior, __name__)
    OnlinePrior = online_prior(_functions._backend, __name__)


def __dir__():
    return __all__
