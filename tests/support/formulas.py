"""Libraries that have no record in tests/golden: their formulas, as their sources have them."""

import numpy as np
from golden_cases import cases

from multismooth import conventions
from multismooth.numpy import loss_and_grad


def log_p(z):
    z = z - z.real.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def shared_by_all(z, y, eps):
    """(1 − ε)·nll + ε·mean over the classes."""
    lp = log_p(z)
    return -(1 - eps) * lp[np.arange(len(y)), y] - eps * lp.mean(1)


def shared_by_others(z, y, eps):
    """1 − ε for the label and ε/(K − 1) for each other class."""
    q = np.full(z.shape, eps / (z.shape[1] - 1))
    q[np.arange(len(y)), y] = 1 - eps
    return -(q * log_p(z)).sum(1)


def divergence(z, y, eps):
    """The same, less the entropy of that row."""
    off = eps / (z.shape[1] - 1)
    return shared_by_others(z, y, eps) + (1 - eps) * np.log(1 - eps) + eps * np.log(off)


def torch_weights(z, y, eps, w):
    """PyTorch's: each class's own term is weighted, and the mean divides by the weights of the labels."""
    lp = log_p(z) * w
    return ((eps - 1) * lp[np.arange(len(y)), y] - eps * lp.mean(1)).sum() / w[y].sum()


def nll_weights(z, y, eps, w):
    """The label's term alone is weighted, and the mean divides by the elements."""
    lp = log_p(z)
    return ((eps - 1) * w[y] * lp[np.arange(len(y)), y] - eps * lp.mean(1)).mean()


def row_weights(z, y, eps, w):
    """Each class's own term is weighted, and the mean divides by the elements."""
    lp = log_p(z) * w
    return ((eps - 1) * lp[np.arange(len(y)), y] - eps * lp.mean(1)).mean()


# name: (loss per element, what the mean of six elements divides by when the last is ignored), or a formula with class
# weights. "caller": the number of sentences, two, which the library is given.
FORMULAS = {
    "mindspore": torch_weights,
    "flux": (shared_by_all, 6),
    "transformers-flax": (divergence, 5),
    "tensorflow-models": (divergence, 5),
    "sockeye": (shared_by_all, 5),
    "sockeye-fairseq": (shared_by_others, 5),
    "trax": (shared_by_all, 5),
    "lingvo": (shared_by_others, 5),
    "praxis": (shared_by_others, 5 + 1e-6),
    "praxis-gshard": (shared_by_all, 6),
    "gluonnlp": (shared_by_all, 6),
    "espnet-chainer": (shared_by_all, "caller"),
    "wenet": (divergence, "caller"),
    "icefall": (shared_by_all, 5),
    "speechbrain": nll_weights,
    "speechbrain-kldiv": (divergence, "caller"),
    "nemo": (shared_by_others, 5 + 1e-6),
    "nemo-nll": nll_weights,
    "composer": row_weights,
    "segmentation-models": (shared_by_all, 6),
    "pytorch-toolbelt": (shared_by_all, 6),
    "scenic": (shared_by_all, 5 + 1e-8),
    "pykeen": (shared_by_others, 6),
}
# What the z-loss of such a library divides by.
Z_LOSSES = {"praxis": 5, "praxis-gshard": 6}


def difference(name, convention=None, z_loss=0.0):
    """The largest difference, loss or gradient, between a name (or another convention) and the formula of its library.

    Six elements; the gradient of the formula is its imaginary part a tiny imaginary step away, without any rounding.
    A z_loss is for those of Z_LOSSES.
    """
    inputs = next(iter(cases().values())).inputs
    z, y, w = (np.array(inputs[key]) for key in ("logits", "targets", "class_weight"))
    formula, call = FORMULAS[name], {"weight": w}
    if not callable(formula):
        each, denominator = formula
        call = {"ignore_index": int(y[5])} | ({"normalizer": 2} if denominator == "caller" else {})

        def formula(z, y, eps, w):
            loss = each(z, y, eps)[:5].sum() / (2 if denominator == "caller" else denominator)
            lse = (z - log_p(z))[:5, 0]
            return loss + z_loss * (lse**2).sum() / Z_LOSSES.get(name, 1)

    steps = 1e-30j * np.eye(z.size).reshape(-1, *z.shape)
    slope = np.array([formula(z + step, y, 0.1, w).imag for step in steps]).reshape(z.shape) / 1e-30
    ours, gradient = loss_and_grad(z, y, convention=convention or conventions[name], z_loss=z_loss, **call)
    return max(abs(ours - formula(z, y, 0.1, w)), np.abs(gradient - slope).max())
