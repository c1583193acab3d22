"""Correct losses for NumPy and JAX as people write them, and how settings are drawn for them.

A form is a hand-written loss that calls nothing of multismooth, the convention that it follows, and the settings that
it takes by keyword. `parity.check` must pass every form with all its drawn settings. PyTorch's are in correct_torch.py;
multismooth's own backends come with random conventions.
"""

import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
from mutants import log_softmax, optional, refuse
from random_conventions import draws

import multismooth

jax = optional("jax")
jnp = jax and jax.numpy


class Correct(NamedTuple):
    """A correct loss, and the arguments under which `check` must find it so."""

    framework: str
    name: str
    fn: Callable
    arguments: dict[str, Any]

    def __str__(self):
        return f"{self.framework}: {self.name} {self.arguments}"


class Form(NamedTuple):
    framework: str
    number: int  # how often settings are drawn
    fn: Callable
    drawn: tuple[str, ...]
    arguments: dict[str, Any]
    traced: bool = True  # by JAX, whose numbers and arrays are then arguments of programs that the draws share


K = 6  # where something is given per class
COMMON, WEIGHTED = "label_smoothing reduction", "label_smoothing reduction weight"

DRAWN = {
    "label_smoothing": lambda rng: 0.1 if rng.random() < 0.3 else round(rng.uniform(0.005, 0.5), 3),
    "reduction": lambda rng: ("mean", "sum", "none")[rng.integers(3)],
    "ignore_index": lambda rng: (-100, -1, 255, 2)[rng.integers(4)],
    "weight": lambda rng: 10 ** rng.uniform(-1, 1, K),
    "prior": lambda rng: rng.dirichlet(np.full(K, 2.0)),
    "class_mask": lambda rng: np.arange(K) != rng.integers(K),
    "z_loss": lambda rng: round(rng.uniform(0.001, 0.1), 4),
    "normalizer": lambda rng: float(rng.integers(5, 50)),
}


def table(framework):
    """(an empty list, the decorator that adds a form to it)."""
    forms = []

    def form(number, convention, drawn=COMMON, traced=True, **arguments):
        def add(fn):
            arguments["convention"] = convention
            forms.append(Form(framework, number, fn, tuple(drawn.split()), arguments, traced))
            return fn

        return add

    return forms, form


def array(framework, value):
    """What a loss of this framework closes over."""
    if not isinstance(value, np.ndarray) or framework == "numpy":
        return value
    return optional("torch").tensor(value) if framework == "torch" else jnp.asarray(value)


@cache
def with_texts(fn, texts):
    """fn of (its other settings, logits, labels), the same object for the same texts."""
    return lambda settings, z, y: fn(z, y, **dict(texts), **settings)


def with_settings(form, settings):
    """The form's function with these settings."""
    if form.framework != "jax" or not form.traced:
        return partial(form.fn, **settings)
    texts = {name: value for name, value in settings.items() if isinstance(value, str)}
    rest = {name: value for name, value in settings.items() if name not in texts}
    return jax.tree_util.Partial(with_texts(form.fn, tuple(texts.items())), rest)


def drawn(forms):
    """Every form with its draws, the same ones in every run."""
    for form in forms:
        framework, number, fn, names, arguments, _ = form
        for draw in range(number):
            rng = np.random.default_rng((draw, *map(ord, fn.__name__)))
            settings = {name: DRAWN[name](rng) for name in names}
            given = {name: array(framework, value) for name, value in settings.items()}
            yield Correct(framework, fn.__name__, with_settings(form, given), arguments | settings)


def ours(framework, number, seed):
    """multismooth's own backend under random conventions and settings."""
    module = getattr(multismooth, framework)
    for _, settings, _ in draws(number, seed):
        given = {name: array(framework, value) for name, value in settings.items()}
        function = module.loss if framework != "numpy" or "prior" in settings else module.loss_and_grad
        yield Correct(framework, f"multismooth.{framework}", partial(function, **given), settings)


def reduced(each, share, reduction):
    """A sum, the elements, or the sum over that of their shares."""
    return {"sum": each.sum, "none": lambda: each, "mean": lambda: each.sum() / share.sum()}[reduction]()


# --- NumPy ------------------------------------------------------------------------------------------------------------

NUMPY, numpy_form = table("numpy")


def numpy_rows(y, k, eps, others=False):
    return (
        (1 - eps) * np.eye(k)[y] + eps * (1 - np.eye(k)[y]) / (k - 1) if others else np.eye(k)[y] * (1 - eps) + eps / k
    )


@numpy_form(8, "torch", COMMON + " ignore_index")
def rows_and_gradient(z, y, label_smoothing, reduction, ignore_index):
    y, counted = refuse(y, z.shape[1], ignore_index)
    log_p, q = log_softmax(z), numpy_rows(y, z.shape[1], label_smoothing)
    slope = (np.exp(log_p) - q) * counted[:, None]
    loss = reduced(-(q * log_p).sum(1) * counted, counted, reduction)
    return loss, slope / counted.sum() if reduction == "mean" else slope


@numpy_form(8, "torch", WEIGHTED + " ignore_index")
def weighted_rows_and_gradient(z, y, label_smoothing, reduction, weight, ignore_index):
    y, counted = refuse(y, z.shape[1], ignore_index)
    log_p, w = log_softmax(z), weight[y] * counted
    target = weight * numpy_rows(y, z.shape[1], label_smoothing) * counted[:, None]
    slope = np.exp(log_p) * target.sum(1, keepdims=True) - target
    loss = reduced(-(target * log_p).sum(1), w, reduction)
    return loss, slope / w.sum() if reduction == "mean" else slope


@numpy_form(6, "tensor2tensor")
def divergence_and_gradient(z, y, label_smoothing, reduction):
    y, counted = refuse(y, z.shape[1], 0)
    log_p, q = log_softmax(z), numpy_rows(y, z.shape[1], label_smoothing, others=True)
    slope = (np.exp(log_p) - q) * counted[:, None]
    loss = reduced((q * (np.log(q) - log_p)).sum(1) * counted, counted, reduction)
    return loss, slope / counted.sum() if reduction == "mean" else slope


@numpy_form(8, "torch", COMMON + " ignore_index")
def values_gathered(z, y, label_smoothing, reduction, ignore_index):
    y, counted = refuse(y, z.shape[1], ignore_index)
    log_p = log_softmax(z)
    each = -(1 - label_smoothing) * log_p[np.arange(len(y)), y] - label_smoothing * log_p.mean(1)
    return reduced(each * counted, counted, reduction)


@numpy_form(4, "others", "label_smoothing")
def values_row_by_row(z, y, label_smoothing):
    y, counted = refuse(y, z.shape[1])
    total = z.dtype.type(0)
    for scores, label in zip(z[counted], y[counted], strict=True):
        gaps = np.logaddexp.reduce(scores) - scores
        total += (1 - label_smoothing) * gaps[label] + label_smoothing * np.delete(gaps, label).mean()
    return total / counted.sum()


@numpy_form(1, "keras-weighted", "", accepts=("sample_weight", "label_smoothing", "reduction"))
def values_with_sample_weights(z, y, sample_weight=None, label_smoothing=0.1, reduction="mean"):
    y, _ = refuse(y, z.shape[1], None)
    s = np.ones(len(y)) if sample_weight is None else sample_weight
    return reduced(-s * (numpy_rows(y, z.shape[1], label_smoothing) * log_softmax(z)).sum(1), s, reduction)


# --- JAX --------------------------------------------------------------------------------------------------------------

JAX, jax_form = table("jax")


@jax_form(3, "optax")
def optax_with_smoothed_rows(z, y, label_smoothing, reduction):
    import optax

    q = optax.smooth_labels(jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype), label_smoothing)
    each = optax.softmax_cross_entropy(z, q)
    return reduced(each, jnp.ones_like(each), reduction)


@jax_form(2, "torch", "label_smoothing ignore_index", skip=("bad labels",))
def optax_with_labels(z, y, label_smoothing, ignore_index):
    import optax

    counted = y != ignore_index
    own = optax.softmax_cross_entropy_with_integer_labels(z, jnp.where(counted, y, 0))
    each = (1 - label_smoothing) * own - label_smoothing * jax.nn.log_softmax(z).mean(-1)
    return (each * counted).sum() / counted.sum()


@jax_form(2, "keras", "label_smoothing", traced=False)
def keras_on_jax(z, y, label_smoothing):
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=label_smoothing)
    return loss(jax.nn.one_hot(y, z.shape[-1]), z)


@jax_form(3, "flax-examples", "label_smoothing", reduction="sum")
def divergence_of_t5(z, y, label_smoothing):
    k = z.shape[-1]
    high, low = 1 - label_smoothing, label_smoothing / (k - 1)
    least = high * jnp.log(high) + (k - 1) * low * jnp.log(low)
    q = jax.nn.one_hot(y, k, dtype=z.dtype) * (high - low) + low
    return ((least - (q * jax.nn.log_softmax(z)).sum(-1)) * (y != 0)).sum()


@jax_form(3, "torch", WEIGHTED + " ignore_index")
def guarded_gather(z, y, label_smoothing, reduction, weight, ignore_index):
    known, counted, weight = (y >= 0) & (y < K), y != ignore_index, weight.astype(z.dtype)
    log_p, label = jax.nn.log_softmax(z), jnp.where(known, y, 0)
    own = -weight[label] * jnp.take_along_axis(log_p, label[:, None], -1)[:, 0]
    each = (1 - label_smoothing) * own - label_smoothing * (weight * log_p).mean(-1)
    each = jnp.where(counted, jnp.where(known, each, jnp.nan), 0)
    return reduced(each, jnp.where(counted, weight[label], 0), reduction)
