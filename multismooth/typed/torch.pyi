# Written by tests/support/stubs.py from the signatures in multismooth/api.
from typing import Any, Literal, Protocol, TypeVar, overload

from torch import Tensor

from multismooth.api import prior_functions
from multismooth.api.options import Array, Number, Reduction, Rows
from multismooth.convention import Convention
from multismooth.problem import Terms


def binary_loss(
    logits: Tensor,
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
) -> Tensor:
    """−w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))] with q = t·(1 − ε) + ε/2: sigmoid, binary and multi-label."""

def confidence_penalty(
    logits: Tensor,
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
) -> Tensor:
    """loss − β·H(p) per element, reduced, with H(p) = −Σ_k p_k log p_k in nats: no log K, no 1/K."""

def distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
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
) -> Tensor:
    """(1 − h)·T²·KL(softmax(z_teacher/T) ‖ softmax(z/T)) + h·loss(z, y) per element, reduced."""

def focal_loss(
    logits: Tensor,
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
) -> Tensor:
    """−Σ_k w_k q_k (1 − p_k)^γ log p_k per element, reduced: smoothed first, then modulated class by class."""

def linear_loss(
    hidden: Tensor,
    classifier: Tensor,
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
    group: Any = None,
    num_classes: int | None = None,
    class_start: int | None = None,
) -> Tensor:
    """`loss(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

def linear_loss_and_grad(
    hidden: Tensor,
    classifier: Tensor,
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
    group: Any = None,
    num_classes: int | None = None,
    class_start: int | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor | None]]:
    """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`. For "none", of its sum."""

def linear_terms(
    hidden: Tensor,
    classifier: Tensor,
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
    group: Any = None,
    num_classes: int | None = None,
    class_start: int | None = None,
) -> Terms[Tensor]:
    """`terms(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

def loss(
    logits: Tensor,
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
    group: Any = None,
    num_classes: int | None = None,
    class_start: int | None = None,
) -> Tensor:
    """−Σ_k w_k q_k log softmax(logits)_k per element, reduced, with q = (1 − ε′)·t + ε′·r. In nats."""

def loss_and_grad(
    logits: Tensor,
    targets: Array,
    *,
    out: Tensor | None = None,
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
    group: Any = None,
    num_classes: int | None = None,
    class_start: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss, ∂Σloss/∂logits), the gradient (Σ_k W_k)·softmax(logits) − W in the logits' dtype."""

def margin_smoothing(
    logits: Tensor,
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
) -> Tensor:
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
) -> Tensor:
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
) -> Tensor:
    """q = (1 − ε′)·t + ε′·r as rows (N…, K), for losses that take distributions (KLDivLoss, mixup)."""

def smoothing_correction(
    hidden: Tensor,
    classifier: Tensor,
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
) -> Tensor:
    """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss."""

def terms(
    logits: Tensor,
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
    group: Any = None,
    num_classes: int | None = None,
    class_start: int | None = None,
) -> Terms[Tensor]:
    """(loss, nll, weight, lse, predicted) per element: mean loss = Σ loss / Σ weight; nll is the loss at ε = 0."""

def unigram_prior(
    targets: Array,
    num_classes: int,
    *,
    pseudo_count: float = 1.0,
    ignore_index: int | None = -100,
) -> Tensor:
    """(n_k + pseudo_count)/Σ_k (n_k + pseudo_count), n_k being how often the label k occurs: (K,), for `prior=`."""

class OnlinePrior(prior_functions.OnlinePrior[Tensor]): ...
