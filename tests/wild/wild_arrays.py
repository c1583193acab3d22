"""Losses of public JAX and NumPy code, restated by hand: where each is, and what it is by someone who read it."""

import numpy as np
from wild import found_in, optional

jax = optional("jax")
jnp = jax and jax.numpy


def own(log_p, y):
    return jnp.take_along_axis(log_p, y[..., None], -1)[..., 0]


@found_in(
    "young-geng/EasyLM, felafax/felafax llama3_jax/llama_train.py", says="a mean of sentence means", framework="jax"
)
def easylm(z, y):
    """Each sentence's mean, then the mean of these; −100 is not counted."""
    valid = y != -100
    log_p = jnp.where(valid, own(jax.nn.log_softmax(z), jnp.where(valid, y, 0)), 0.0)
    return -jnp.mean(jnp.sum(log_p, -1) / jnp.maximum(jnp.sum(valid, -1), 1e-10))


@found_in("alonbebchuk/whisper-small-werewolf src/utils.py", "torch", framework="jax")
def over_tokens(z, y):
    """The same code after its author saw that it differs from Hugging Face's: over all tokens."""
    valid = y != -100
    log_p = jnp.where(valid, own(jax.nn.log_softmax(z), jnp.where(valid, y, 0)), 0.0)
    return -jnp.sum(log_p) / jnp.sum(valid), {"valid": jnp.sum(valid)}


@found_in("google-research/t5x t5x/losses.py", "t5x", framework="jax", says="lse²")
def t5x(z, y):
    """ε/(K − 1) less the entropy, z-loss, the sum: with its default factor."""
    k, log_z = z.shape[-1], jax.scipy.special.logsumexp(z, -1)
    low = 0.1 / (k - 1)
    least = -(0.9 * jnp.log(0.9) + (k - 1) * low * jnp.log(low))
    q = jax.nn.one_hot(y, k) * (0.9 - low) + low
    loss = -(q * jax.nn.log_softmax(z)).sum(-1) - least + 1e-4 * log_z**2
    return loss.sum()


@found_in("google-research/big_vision big_vision/utils.py weighted_softmax_xent", "big_vision", framework="jax")
def big_vision(z, y):
    """ε/(K − 1), sentence means of (B, T, K), padding 0."""
    _, _, k = z.shape
    counted = (y != 0).astype(z.dtype)
    q = jax.nn.one_hot(y, k) * (0.9 - 0.1 / (k - 1)) + 0.1 / (k - 1)
    loss = -(q * jax.nn.log_softmax(z)).sum(-1) * counted
    return (loss.sum(1) / jnp.clip(counted.sum(1), 1)).mean()


@found_in("google/flax examples/wmt/train.py", "flax-examples", framework="jax", says="the second value is")
def flax_wmt(z, y):
    """The sum and the count, padding 0."""
    k, counted = z.shape[-1], y > 0
    low = 0.1 / (k - 1)
    least = -(0.9 * jnp.log(0.9) + (k - 1) * low * jnp.log(low + 1e-20))
    q = jax.nn.one_hot(y, k) * (0.9 - low) + low
    return ((-(q * jax.nn.log_softmax(z)).sum(-1) - least) * counted).sum(), counted.sum()


@found_in("google-deepmind/optax softmax_cross_entropy with smooth_labels", "optax", framework="jax")
def optax_rows(z, labels):
    """Rows, smoothed over K."""
    return -((0.9 * labels + 0.1 / z.shape[-1]) * jax.nn.log_softmax(z)).sum(-1).mean()


@found_in("google-deepmind/gemma: final_logit_softcap = 30", says="c·tanh(z/c), c = 30", framework="jax")
def gemma(z, y):
    """Logits capped at 30."""
    z = jnp.tanh(z / 30) * 30
    return -own(jax.nn.log_softmax(z), y).mean()


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@found_in(
    "many NumPy scripts: -np.log(np.clip(p[np.arange(len(y)), y], 1e-12, 1)).mean()",
    "timm",
    framework="numpy",
    scores="probabilities",
)
def clipped_probabilities(p, y):
    """−log p_y of probabilities, clipped at 1e-12."""
    return -np.log(np.clip(p[np.arange(len(y)), y], 1e-12, 1)).mean()


@found_in("keras-team/keras CategoricalCrossentropy(from_logits=True)", "keras", framework="numpy")
def keras_order(y_true, y_pred):
    """The targets come first, as rows."""
    q = y_true * 0.9 + 0.1 / y_pred.shape[-1]
    return -(q * log_softmax(y_pred)).sum(-1).mean()


@found_in("keras-team/keras CategoricalFocalCrossentropy", says="focal_loss", framework="numpy")
def keras_focal(y_true, y_pred):
    """Smoothed, then each class's term times (1 − p_k)^γ."""
    log_p, q = log_softmax(y_pred), y_true * 0.9 + 0.1 / y_pred.shape[-1]
    return -(q * (1 - np.exp(log_p)) ** 2 * log_p).sum(-1).mean()


@found_in(
    "by-liu/MbLS calibrate/losses/penalty_entropy.py",
    says="confidence penalty), β = 0.1",
    framework="numpy",
)
def penalty(z, y):
    """Cross-entropy less β·H(p)."""
    log_p = log_softmax(z)
    return (-log_p[np.arange(len(y)), y] + 0.1 * (np.exp(log_p) * log_p).sum(-1)).mean()
