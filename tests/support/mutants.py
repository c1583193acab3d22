"""Broken losses for NumPy and JAX, each wrong in one believable way; `parity.check` must catch every one.

A mutant is right in everything but the mistake that its docstring names. Those for PyTorch are in mutants_formula.py
and mutants_machine.py.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

EPS = 0.1


class Mutant(NamedTuple):
    """A broken loss, the arguments that `check` is called with, and a phrase that its report must contain."""

    framework: str
    fn: Callable
    says: str
    arguments: dict[str, Any]

    def __str__(self):
        return f"{self.framework}: {self.fn.__name__}"


def optional(name):
    """The module, or None: the tables are read without their frameworks too."""
    return import_module(name) if find_spec(name) else None


def table(framework):
    """(an empty list, the decorator that adds a function to it)."""
    mutants = []

    def mutant(says="", **arguments):
        def add(fn):
            mutants.append(Mutant(framework, fn, says, arguments))
            return fn

        return add

    return mutants, mutant


# --- NumPy: (loss, gradient) ------------------------------------------------------------------------------------------

NUMPY, numpy_mutant = table("numpy")


def log_softmax(z, axis=-1):
    z = z - z.max(axis, keepdims=True)
    return z - np.log(np.exp(z).sum(axis, keepdims=True))


def refuse(y, k, ignored=-100):
    """Labels that name no class raise; the ignored ones come back as 0, with what counts."""
    counted = y != ignored
    if ((y < 0) | (y >= k))[counted].any():
        raise IndexError("a label outside the classes")
    return np.where(counted, y, 0), counted


def target(y, k, eps=EPS):
    return (1 - eps) * np.eye(k)[y] + eps / k


def exact(z, y, eps=EPS):
    """(loss, gradient) per element, unreduced, and what counts."""
    y, counted = refuse(y, z.shape[1])
    log_p, q = log_softmax(z), target(y, z.shape[1], eps)
    return -(q * log_p).sum(-1) * counted, (np.exp(log_p) - q) * counted[:, None], counted


def averaged(loss, slope, counted):
    count = max(counted.sum(), 1)
    return loss.sum() / count, slope / count


@numpy_mutant("gradients (")
def gradient_of_hard_labels(z, y):
    """p − onehot, the gradient without smoothing."""
    loss, _, counted = exact(z, y)
    return averaged(loss, exact(z, y, 0.0)[1], counted)


@numpy_mutant("gradients (")
def gradient_of_the_sum(z, y):
    """The loss is the mean, the gradient that of the sum."""
    loss, slope, counted = exact(z, y)
    return loss.sum() / max(counted.sum(), 1), slope


@numpy_mutant("label -100) at class")
def gradient_of_ignored_rows(z, y):
    """Ignored rows have no loss, but the gradient of class 0."""
    loss, _, counted = exact(z, y)
    return averaged(loss, exact(z, np.where(y == -100, 0, y))[1], counted)


@numpy_mutant("gradients (")
def gradient_over_all_entries(z, y):
    """The gradient is divided by N·K, as np.mean over the matrix does."""
    loss, slope, counted = exact(z, y)
    return loss.sum() / max(counted.sum(), 1), slope / max(counted.sum() * z.shape[1], 1)


@numpy_mutant("gradients (", reduction="sum")
def gradient_of_another_smoothing(z, y):
    """The gradient has ε/(K − 1) on the other classes, the loss ε/K."""
    return exact(z, y)[0].sum(), exact(z, y, EPS * z.shape[1] / (z.shape[1] - 1))[1]


@numpy_mutant("K − 1 others", convention="others")
def all_classes_for_the_others(z, y):
    """ε over K where the convention shares it among K − 1."""
    return averaged(*exact(z, y))


@numpy_mutant("untouched (")
def softmax_in_place(z, y):
    """The shift by the maximum is written to the caller's logits."""
    z -= z.max(-1, keepdims=True)
    return averaged(*exact(z, y))


@numpy_mutant("takes the label -1 for class 4", convention="timm")
def negative_labels_count_from_the_end(z, y):
    """NumPy's indexing takes the label −1 for the last class."""
    log_p, q = log_softmax(z), target(y, z.shape[1])
    loss = -(1 - EPS) * log_p[np.arange(len(y)), y] - EPS * log_p.mean(-1)
    return averaged(loss, np.exp(log_p) - q, np.ones(len(y)))


@numpy_mutant("strided (")
def rows_read_as_contiguous(z, y):
    """A kernel that reads the buffer and does not hear of strides."""
    return averaged(*exact(np.lib.stride_tricks.as_strided(z, strides=(z.shape[1] * z.itemsize, z.itemsize)), y))


# --- NumPy: values only -----------------------------------------------------------------------------------------------


def value(z, y, log_p):
    """The mean loss for log-probabilities that are given."""
    y, counted = refuse(y, z.shape[1])
    return -((target(y, z.shape[1]) * log_p).sum(-1) * counted).sum() / max(counted.sum(), 1)


@numpy_mutant("1.4427 times as large")
def bits(z, y):
    """Logarithms to base 2."""
    return value(z, y, log_softmax(z) / np.log(2))


@numpy_mutant("extremes (")
def probabilities_clipped(z, y):
    """p is kept above 1e-7 before the logarithm."""
    return value(z, y, np.log(np.clip(np.exp(log_softmax(z)), 1e-7, 1.0)))


@numpy_mutant("logits up to 48")
def one_maximum_for_all_rows(z, y):
    """The shift is the batch's largest logit: rows far below it underflow."""
    p = np.exp(z - z.max(initial=-np.inf))
    return value(z, y, np.log(p / p.sum(-1, keepdims=True)))


@numpy_mutant()
def half_precision_inside(z, y):
    """The log-probabilities pass through float16."""
    return value(z, y, log_softmax(z).astype(np.float16).astype(z.dtype))


@numpy_mutant("normalizer", accepts=("normalizer",))
def normalizer_not_used(z, y, normalizer=None):
    """The token count of all devices is taken, and its own is divided by."""
    return value(z, y, log_softmax(z))


# --- JAX --------------------------------------------------------------------------------------------------------------

jax = optional("jax")
jnp = jax and jax.numpy
JAX, jax_mutant = table("jax")


def jax_exact(z, y, eps=EPS, ignored=-100):
    """(loss per element, what counts): NaN for a label that names no class."""
    counted, known = (y == y) if ignored is None else (y != ignored), (y >= 0) & (y < z.shape[-1])
    log_p = jax.nn.log_softmax(z)
    own = -jnp.take_along_axis(log_p, jnp.where(known, y, 0)[..., None], -1)[..., 0]
    each = (1 - eps) * own - eps * log_p.mean(-1)
    return jnp.where(counted, jnp.where(known, each, jnp.nan), 0), counted


@jax_mutant("takes the label 5 for class 4", convention="timm")
def labels_clamped(z, y):
    """JAX's indexing takes the label K for the class K − 1."""
    log_p = jax.nn.log_softmax(z)
    return -((1 - EPS) * log_p[jnp.arange(len(y)), y] + EPS * log_p.mean(-1)).mean()


@jax_mutant("ignore_index=-100")
def one_hot_of_ignored_labels(z, y):
    """one_hot(−100) is a row of zeros, which smoothing fills with ε/K: not ignored."""
    q = (1 - EPS) * jax.nn.one_hot(y, z.shape[-1]) + EPS / z.shape[-1]
    return -(q * jax.nn.log_softmax(z)).sum(-1).mean()


@jax_mutant("ignored ones")
def mean_over_ignored_elements(z, y):
    """.mean() counts the elements that were set to 0."""
    return jax_exact(z, y)[0].mean()


@jax_mutant("values (", convention="flax-examples", reduction="sum")
def entropy_without_its_second_term(z, y):
    """The normalising constant lacks (K − 1)·ε/(K − 1)·log(ε/(K − 1))."""
    each, counted = jax_exact(z, y, EPS * z.shape[-1] / (z.shape[-1] - 1), ignored=0)
    return (each + counted * (1 - EPS) * np.log(1 - EPS)).sum()


@jax_mutant("sum to 0", convention="optax")
def gradient_stopped_at_lse(z, y):
    """The log-normaliser is taken for a constant."""
    fixed = z - jax.lax.stop_gradient(jax.scipy.special.logsumexp(z, -1, keepdims=True))
    k = z.shape[-1]
    own = jnp.where((y >= 0) & (y < k), jnp.take_along_axis(fixed, y[:, None] % k, -1)[:, 0], jnp.nan)
    return -((1 - EPS) * own + EPS * fixed.mean(-1)).mean()


@jax_mutant(convention="optax")
def logarithm_of_p_plus_little(z, y):
    """log(p + 1e-8)."""
    q = (1 - EPS) * jax.nn.one_hot(y, z.shape[-1]) + EPS / z.shape[-1]
    return -(q * jnp.log(jax.nn.softmax(z) + 1e-8)).sum(-1).mean()


@jax_mutant("computed in about", convention="optax")
def half_precision_softmax(z, y):
    """The softmax is computed in bfloat16 and cast back."""
    q = (1 - EPS) * jax.nn.one_hot(y, z.shape[-1]) + EPS / z.shape[-1]
    return -(q * jax.nn.log_softmax(z.astype(jnp.bfloat16)).astype(z.dtype)).sum(-1).mean()


@jax_mutant("z_loss", z_loss=0.01)
def lse_not_squared(z, y):
    """The z-loss adds |lse|."""
    each, counted = jax_exact(z, y)
    lse = jax.scipy.special.logsumexp(z, -1)
    return (each + 0.01 * jnp.abs(lse) * counted).sum() / jnp.maximum(counted.sum(), 1)


@jax_mutant("divides its lse² by all 12 elements", z_loss=0.01)
def z_loss_over_all_elements(z, y):
    """jnp.mean of what is 0 where ignored."""
    each, counted = jax_exact(z, y)
    squares = jax.scipy.special.logsumexp(z, -1) ** 2 * counted
    return each.sum() / jnp.maximum(counted.sum(), 1) + 0.01 * squares.mean()


@jax_mutant("sample weights", accepts=("sample_weight",), convention="keras-weighted")
def sample_weights_not_in_the_denominator(z, y, sample_weight=None):
    """The loss is weighted, its mean divides by the number of elements."""
    each, _ = jax_exact(z, y, ignored=None)
    return (each if sample_weight is None else each * sample_weight).mean()


@jax_mutant("a class masked", accepts=("class_mask",))
def mask_keeps_its_share(z, y, class_mask=None):
    """Masked classes have probability 0, but the smoothed mass is still split K ways."""
    if class_mask is None:
        each, counted = jax_exact(z, y)
        return each.sum() / jnp.maximum(counted.sum(), 1)
    z = jnp.where(class_mask, z, -jnp.inf)
    log_p = jnp.where(class_mask, jax.nn.log_softmax(z), 0)
    counted = y != -100
    own = jnp.take_along_axis(log_p, jnp.where(counted, y, 0)[:, None], -1)[:, 0]
    return -jnp.where(counted, (1 - EPS) * own + EPS * log_p.mean(-1), 0).sum() / counted.sum()


@jax_mutant("upstream (")
def upstream_lost(z, y):
    """The hand-made gradient forgets what it is multiplied by."""
    _, counted = jax_exact(z, y)
    count = jnp.maximum(counted.sum(), 1)

    def mean(z):
        return jax_exact(z, y)[0].sum() / count

    def forward(z):
        return mean(z), z

    def backward(z, upstream):
        q = (1 - EPS) * jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype) + EPS / z.shape[-1]
        return (jnp.where(counted[:, None], jax.nn.softmax(z) - q, 0) / count,)

    loss = jax.custom_vjp(mean)
    loss.defvjp(forward, backward)
    return loss(z)
