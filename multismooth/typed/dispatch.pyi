# Written by tests/support/stubs.py from the signatures in multismooth/api.
from typing import Any, Literal, Protocol, TypeVar, overload

from numpy import floating, generic, ndarray
from numpy.typing import NDArray

from multismooth.api import prior_functions
from multismooth.api.options import Array, Number, Reduction, Rows
from multismooth.convention import Convention
from multismooth.problem import Terms

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

class Like(Protocol[A_co]):
    """An array whose operations give arrays A."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def __neg__(self) -> A_co: ...


@overload
def binary_loss(
    logits: ndarray | generic,
    targets: Array,
    *,
    label_smoothing: Number | Rows = 0.1,
    spread: Literal['half', 'all'] = "half",
    weight: Array | Rows | None = None,
    pos_weight: Number | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    label_mean: bool = False,
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> floating:
    """−w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))] with q = t·(1 − ε) + ε/2: sigmoid, binary and multi-label."""

@overload
def binary_loss(
    logits: ndarray | generic,
    targets: Array,
    *,
    label_smoothing: Number | Rows = 0.1,
    spread: Literal['half', 'all'] = "half",
    weight: Array | Rows | None = None,
    pos_weight: Number | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = None,
    reduction: Literal["none"],
    label_mean: bool = False,
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> NDArray[floating]:
    """−w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))] with q = t·(1 − ε) + ε/2: sigmoid, binary and multi-label."""

@overload
def binary_loss(
    logits: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """−w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))] with q = t·(1 − ε) + ε/2: sigmoid, binary and multi-label."""

@overload
def binary_loss(
    logits: Like[A],
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
) -> A:
    """−w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))] with q = t·(1 − ε) + ε/2: sigmoid, binary and multi-label."""

@overload
def confidence_penalty(
    logits: ndarray | generic,
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
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> floating:
    """loss − β·H(p) per element, reduced, with H(p) = −Σ_k p_k log p_k in nats: no log K, no 1/K."""

@overload
def confidence_penalty(
    logits: ndarray | generic,
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
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> NDArray[floating]:
    """loss − β·H(p) per element, reduced, with H(p) = −Σ_k p_k log p_k in nats: no log K, no 1/K."""

@overload
def confidence_penalty(
    logits: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """loss − β·H(p) per element, reduced, with H(p) = −Σ_k p_k log p_k in nats: no log K, no 1/K."""

@overload
def confidence_penalty(
    logits: Like[A],
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
) -> A:
    """loss − β·H(p) per element, reduced, with H(p) = −Σ_k p_k log p_k in nats: no log K, no 1/K."""

@overload
def distillation_loss(
    logits: ndarray | generic,
    teacher_logits: ndarray | generic,
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
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> floating:
    """(1 − h)·T²·KL(softmax(z_teacher/T) ‖ softmax(z/T)) + h·loss(z, y) per element, reduced."""

@overload
def distillation_loss(
    logits: ndarray | generic,
    teacher_logits: ndarray | generic,
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
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> NDArray[floating]:
    """(1 − h)·T²·KL(softmax(z_teacher/T) ‖ softmax(z/T)) + h·loss(z, y) per element, reduced."""

@overload
def distillation_loss(
    logits: ndarray | generic,
    teacher_logits: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """(1 − h)·T²·KL(softmax(z_teacher/T) ‖ softmax(z/T)) + h·loss(z, y) per element, reduced."""

@overload
def distillation_loss(
    logits: Like[A],
    teacher_logits: Like[A],
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
) -> A:
    """(1 − h)·T²·KL(softmax(z_teacher/T) ‖ softmax(z/T)) + h·loss(z, y) per element, reduced."""

@overload
def focal_loss(
    logits: ndarray | generic,
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
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> floating:
    """−Σ_k w_k q_k (1 − p_k)^γ log p_k per element, reduced: smoothed first, then modulated class by class."""

@overload
def focal_loss(
    logits: ndarray | generic,
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
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> NDArray[floating]:
    """−Σ_k w_k q_k (1 − p_k)^γ log p_k per element, reduced: smoothed first, then modulated class by class."""

@overload
def focal_loss(
    logits: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """−Σ_k w_k q_k (1 − p_k)^γ log p_k per element, reduced: smoothed first, then modulated class by class."""

@overload
def focal_loss(
    logits: Like[A],
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
) -> A:
    """−Σ_k w_k q_k (1 − p_k)^γ log p_k per element, reduced: smoothed first, then modulated class by class."""

@overload
def linear_loss(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    chunk_rows: int | None = None,
    accumulate: Literal['float32', 'input'] = "float32",
) -> floating:
    """`loss(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

@overload
def linear_loss(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    chunk_rows: int | None = None,
    accumulate: Literal['float32', 'input'] = "float32",
) -> NDArray[floating]:
    """`loss(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

@overload
def linear_loss(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """`loss(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

@overload
def linear_loss(
    hidden: Like[A],
    classifier: Like[A],
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
) -> A:
    """`loss(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

@overload
def linear_loss_and_grad(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    chunk_rows: int | None = None,
    accumulate: Literal['float32', 'input'] = "float32",
) -> tuple[floating, tuple[NDArray[floating], NDArray[floating], NDArray[floating] | None]]:
    """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`. For "none", of its sum."""

@overload
def linear_loss_and_grad(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
    chunk_rows: int | None = None,
    accumulate: Literal['float32', 'input'] = "float32",
) -> tuple[NDArray[floating], tuple[NDArray[floating], NDArray[floating], NDArray[floating] | None]]:
    """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`. For "none", of its sum."""

@overload
def linear_loss_and_grad(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
) -> tuple[floating | NDArray[floating], tuple[NDArray[floating], NDArray[floating], NDArray[floating] | None]]:
    """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`. For "none", of its sum."""

@overload
def linear_loss_and_grad(
    hidden: Like[A],
    classifier: Like[A],
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
) -> tuple[A, tuple[A, A, A | None]]:
    """(loss, (∂/∂hidden, ∂/∂classifier, ∂/∂bias or None)) of `linear_loss`. For "none", of its sum."""

@overload
def linear_terms(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
) -> Terms[NDArray[Any]]:
    """`terms(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

@overload
def linear_terms(
    hidden: Like[A],
    classifier: Like[A],
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
) -> Terms[A]:
    """`terms(hidden @ classifier.T + bias, targets, …)` without the whole (N, K) logits in memory."""

@overload
def loss(
    logits: ndarray | generic,
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
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> floating:
    """−Σ_k w_k q_k log softmax(logits)_k per element, reduced, with q = (1 − ε′)·t + ε′·r. In nats."""

@overload
def loss(
    logits: ndarray | generic,
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
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> NDArray[floating]:
    """−Σ_k w_k q_k log softmax(logits)_k per element, reduced, with q = (1 − ε′)·t + ε′·r. In nats."""

@overload
def loss(
    logits: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """−Σ_k w_k q_k log softmax(logits)_k per element, reduced, with q = (1 − ε′)·t + ε′·r. In nats."""

@overload
def loss(
    logits: Like[A],
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
) -> A:
    """−Σ_k w_k q_k log softmax(logits)_k per element, reduced, with q = (1 − ε′)·t + ε′·r. In nats."""

@overload
def loss_and_grad(
    logits: ndarray | generic,
    targets: Array,
    *,
    out: NDArray[floating] | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> tuple[floating, NDArray[floating]]:
    """(loss, ∂Σloss/∂logits), the gradient (Σ_k W_k)·softmax(logits) − W in the logits' dtype."""

@overload
def loss_and_grad(
    logits: ndarray | generic,
    targets: Array,
    *,
    out: NDArray[floating] | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    weight: Array | Rows | None = None,
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    z_loss: Number = 0.0,
    logit_softcap: Number | None = None,
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> tuple[NDArray[floating], NDArray[floating]]:
    """(loss, ∂Σloss/∂logits), the gradient (Σ_k W_k)·softmax(logits) − W in the logits' dtype."""

@overload
def loss_and_grad(
    logits: ndarray | generic,
    targets: Array,
    *,
    out: NDArray[floating] | None = None,
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
) -> tuple[floating | NDArray[floating], NDArray[floating]]:
    """(loss, ∂Σloss/∂logits), the gradient (Σ_k W_k)·softmax(logits) − W in the logits' dtype."""

@overload
def loss_and_grad(
    logits: Like[A],
    targets: Array,
    *,
    out: A | None = None,
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
) -> tuple[A, A]:
    """(loss, ∂Σloss/∂logits), the gradient (Σ_k W_k)·softmax(logits) − W in the logits' dtype."""

@overload
def margin_smoothing(
    logits: ndarray | generic,
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
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> floating:
    """loss + strength·mean_k max(0, max z − z_k − margin) per element, reduced."""

@overload
def margin_smoothing(
    logits: ndarray | generic,
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
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> NDArray[floating]:
    """loss + strength·mean_k max(0, max z − z_k − margin) per element, reduced."""

@overload
def margin_smoothing(
    logits: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """loss + strength·mean_k max(0, max z − z_k − margin) per element, reduced."""

@overload
def margin_smoothing(
    logits: Like[A],
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
) -> A:
    """loss + strength·mean_k max(0, max z − z_k − margin) per element, reduced."""

@overload
def normalizer(
    targets: ndarray | generic,
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
) -> NDArray[floating]:
    """What the mean of `loss` divides by: under "torch" Σ w_y of the counted labels, their number without weights."""

@overload
def normalizer(
    targets: Like[A],
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
) -> A:
    """What the mean of `loss` divides by: under "torch" Σ w_y of the counted labels, their number without weights."""

@overload
def smooth_targets(
    targets: ndarray | generic,
    num_classes: int,
    *,
    dtype: Any = None,
    axis: int = -1,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    ignore_index: int | None = -100,
) -> NDArray[floating]:
    """q = (1 − ε′)·t + ε′·r as rows (N…, K), for losses that take distributions (KLDivLoss, mixup)."""

@overload
def smooth_targets(
    targets: Like[A],
    num_classes: int,
    *,
    dtype: Any = None,
    axis: int = -1,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    prior: Array | Rows | None = None,
    class_mask: Array | Rows | None = None,
    ignore_index: int | None = -100,
) -> A:
    """q = (1 − ε′)·t + ε′·r as rows (N…, K), for losses that take distributions (KLDivLoss, mixup)."""

@overload
def smoothing_correction(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
    targets: Array,
    *,
    bias: Array | Rows | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    prior: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    reduction: Literal["mean", "sum"] = "mean",
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> floating:
    """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss."""

@overload
def smoothing_correction(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
    targets: Array,
    *,
    bias: Array | Rows | None = None,
    label_smoothing: Number | Rows = 0.1,
    convention: str | Convention = "torch",
    prior: Array | Rows | None = None,
    sample_weight: Array | Rows | None = None,
    ignore_index: int | None = -100,
    reduction: Literal["none"],
    normalizer: Number | None = None,
    axis: int | None = None,
    validate: bool | None = None,
) -> NDArray[floating]:
    """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss."""

@overload
def smoothing_correction(
    hidden: ndarray | generic,
    classifier: ndarray | generic,
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
) -> floating | NDArray[floating]:
    """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss."""

@overload
def smoothing_correction(
    hidden: Like[A],
    classifier: Like[A],
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
) -> A:
    """ε′·(x·W_y + c_y − Σ_k r_k (x·W_k + c_k)) per element, reduced: what smoothing adds to a hard-label loss."""

@overload
def terms(
    logits: ndarray | generic,
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
) -> Terms[NDArray[Any]]:
    """(loss, nll, weight, lse, predicted) per element: mean loss = Σ loss / Σ weight; nll is the loss at ε = 0."""

@overload
def terms(
    logits: Like[A],
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
) -> Terms[A]:
    """(loss, nll, weight, lse, predicted) per element: mean loss = Σ loss / Σ weight; nll is the loss at ε = 0."""

@overload
def unigram_prior(
    targets: ndarray | generic,
    num_classes: int,
    *,
    pseudo_count: float = 1.0,
    ignore_index: int | None = -100,
) -> NDArray[floating]:
    """(n_k + pseudo_count)/Σ_k (n_k + pseudo_count), n_k being how often the label k occurs: (K,), for `prior=`."""

@overload
def unigram_prior(
    targets: Like[A],
    num_classes: int,
    *,
    pseudo_count: float = 1.0,
    ignore_index: int | None = -100,
) -> A:
    """(n_k + pseudo_count)/Σ_k (n_k + pseudo_count), n_k being how often the label k occurs: (K,), for `prior=`."""
