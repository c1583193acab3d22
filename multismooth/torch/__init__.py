"""PyTorch backend: CPU and CUDA tensors by the same code, and drop-ins for torch's own losses.

>>> import torch
>>> import multismooth.torch as ms
>>> logits = torch.tensor([[2.0, 0.5, -1.0]], requires_grad=True)
>>> ms.loss(logits, torch.tensor([0]), label_smoothing=0.1).backward()
>>> [round(x, 4) for x in logits.grad[0].tolist()]
[-0.1477, 0.142, 0.0058]
"""

# ruff: noqa: E402 (a missing framework is reported before anything that imports it)
from typing import TYPE_CHECKING

from multismooth.errors import require

require("torch", "torch")
require("array_api_compat", "torch")

from multismooth.api.prior_functions import online_prior
from multismooth.api.public import public
from multismooth.torch.backend import functions as _functions
from multismooth.torch.dropins import CrossEntropyLoss, cross_entropy, linear_cross_entropy
from multismooth.torch.layers import LinearLoss, Loss

__all__ = [
    "CrossEntropyLoss",
    "LinearLoss",
    "Loss",
    "OnlinePrior",
    "binary_loss",
    "confidence_penalty",
    "cross_entropy",
    "distillation_loss",
    "focal_loss",
    "linear_cross_entropy",
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

if TYPE_CHECKING:
    from multismooth.typed.torch import *  # noqa: F403
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
