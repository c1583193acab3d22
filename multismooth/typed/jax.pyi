# Written by tests/support/stubs.py from the signatures in multismooth/api.
from typing import Any, Literal, Protocol, TypeVar, overload

import jax
from numpy import ndarray

from multismooth.api import prior_functions
from multismooth.api.options import Array, Number, Reduction, Rows
from multismooth.convention import Convention
from multismooth.problem import Terms


def binary_loss(
    logits: jax.Array | ndarray,
    targets: Array,
    *,
    label_smoothing: Number | Rows = 0.1,
    spread: Literal['half', 'all'] = "half",
    weight: Array | Rows | None = None,
    pos_weight: Number | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
    label_mean: bool = False,
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> jax.Array:
    """−w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))] with q = t·(1 − ε) + ε/2: sigmoid, binary and multi-label."""

def confidence_penalty(
    logits: jax.Array | ndarray,
    targets: Array,
    *,
    beta: Number = 0.1,
    label_smoothing: Number | Rows = 0.0,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> jax.Array:
    """loss − β·H(p) per element, reduced, with H(p) = −Σ_k p_k log p_k in nats: no log K, no 1/K."""

def distillation_loss(
    logits: jax.Array | ndarray,
    teacher_logits: jax.Array | ndarray,
    targets: Array | None = None,
    *,
    temperature: Number,
    hard_weight: Number = 0.0,
    label_smoothing: Number | Rows = 0.0,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> jax.Array:
    """(1 − h)·T²·KL(softmax(z_teacher/T) ‖ softmax(z/T)) + h·loss(z, y) per element, reduced."""

def focal_loss(
    logits: jax.Array | ndarray,
    targets: Array,
    *,
    gamma: Number = 2.0,
    modulation: Literal['class', 'label'] = "class",
    label_smoothing: Number | Rows = 0.0,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> jax.Array:
    """−Σ_k w_k q_k (1 − p_k)^γ log p_k per element, reduced: smoothed first, then modulated class by class."""

def linear_loss(
    hidden: jax.Array | ndarray,
    classifier: jax.Array | ndarray,
    targets: Array,
    *,
    bias: Array | Rows | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    chunk_rows: int | None = None,
    accumulate: Literal['float32', 'input'] = "float32",
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """`loss(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

def linear_loss_and_grad(
    hidden: jax.Array | ndarray,
    classifier: jax.Array | ndarray,
    targets: Array,
    *,
    bias: Array | Rows | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    chunk_rows: int | None = None,
    accumulate: Literal['float32', 'input'] = "float32",
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]]:
    """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`. For "none", of its sum."""

def linear_terms(
    hidden: jax.Array | ndarray,
    classifier: jax.Array | ndarray,
    targets: Array,
    *,
    bias: Array | Rows | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    chunk_rows: int | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Terms[jax.Array]:
    """`terms(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

def loss(
    logits: jax.Array | ndarray,
    targets: Array,
    *,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """−Σ_k w_k q_k log softmax(logits)_k per element, reduced, with q = (1 − ε′)·t + ε′·r. In nats."""

def loss_and_grad(
    logits: jax.Array | ndarray,
    targets: Array,
    *,
    out: jax.Array | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(loss, ∂Σloss/∂logits), the gradient (Σ_k W_k)·softmax(logits) − W in the logits' dtype."""

def margin_smoothing(
    logits: jax.Array | ndarray,
    targets: Array,
    *,
    margin: Number = 10.0,
    strength: Number = 0.1,
    label_smoothing: Number | Rows = 0.0,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> jax.Array:
    """loss + strength·mean_k max(0, max z − z_k − margin) per element, reduced."""

def normalizer(
    targets: Array,
    num_classes: int,
    *,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    axis: int = -1,
    group: Any = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> jax.Array:
    """What the mean of `loss` divides by: under "torch" Σ w_y of the counted labels, their number without weights."""

def smooth_targets(
    targets: Array,
    num_classes: int,
    *,
    dtype: Any = None,
    axis: int = -1,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    ignore_index: int | None = -100,
) -> jax.Array:
    """q = (1 − ε′)·t + ε′·r as rows (N…, K), for losses that take distributions (KLDivLoss, mixup)."""

def smoothing_correction(
    hidden: jax.Array | ndarray,
    classifier: jax.Array | ndarray,
    targets: Array,
    *,
    bias: Array | Rows | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    prior: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    reduction: Reduction = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> jax.Array:
    """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss."""

def terms(
    logits: jax.Array | ndarray,
    targets: Array,
    *,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Terms[jax.Array]:
    """(loss, nll, weight, lse, predicted) per element: mean loss = Σ loss / Σ weight; nll is the loss at ε = 0."""

def unigram_prior(
    targets: Array,
    num_classes: int,
    *,
    pseudo_count: float = 1.0,
    ignore_index: int | None = -100,
) -> jax.Array:
    """(n_k + pseudo_count)/Σ_k (n_k + pseudo_count), n_k being how often the label k occurs: (K,), for `prior=`."""

class OnlinePrior(prior_functions.OnlinePrior[jax.Array]): ...
