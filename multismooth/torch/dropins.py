"""Drop-ins for torch's own losses: their signatures and results, class axis 1, computed by multismooth.

They differ from the originals only where those are wrong: fp16 does not overflow, an ignored or absent element leaks
no NaN, ε = NaN or −0.1 is an error. As in torch, soft targets need not be distributions and the mean over nothing
is NaN (with a gradient of 0).
"""

import math
from numbers import Real

import torch

from multismooth import checks, spec, target_checks
from multismooth.errors import complain
from multismooth.problem import Problem, Settings
from multismooth.reduction import summed
from multismooth.registry import conventions
from multismooth.torch.backend import TorchBackend
from multismooth.torch.namespace import XP

_backend = TorchBackend()


def cross_entropy(
    input: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """`torch.nn.functional.cross_entropy`: −Σ_k w_k q_k log softmax(input)_k with classes on axis 1, in nats.

    Takes and returns what torch's function does (any integer dtype of labels besides), in the input's dtype.
    Raises TargetError for labels that name no class (an IndexError too, as in torch), SmoothingError for a bad ε.

    >>> import torch
    >>> logits, labels = torch.tensor([[2.0, 0.5, -1.0]]), torch.tensor([0])
    >>> ours = cross_entropy(logits, labels, label_smoothing=0.1)
    >>> torch.allclose(ours, torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    True
    """
    reduction = _reduction(size_average, reduce, reduction)
    problem, settings = _bind(input, target, weight, ignore_index, reduction, label_smoothing)
    return _as_torch(_backend.loss(problem, settings), problem, settings, input.dtype)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, its arguments, buffers, state and repr, computed by `cross_entropy` of this module.

    >>> import torch
    >>> CrossEntropyLoss(label_smoothing=0.1)(torch.zeros(1, 4), torch.tensor([2]))
    tensor(1.3863)
    """

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


def linear_cross_entropy(
    input: torch.Tensor,
    linear_weight: torch.Tensor,
    target: torch.Tensor,
    *,
    linear_bias: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options=None,
) -> torch.Tensor:
    """`torch.nn.functional.linear_cross_entropy` (torch 2.13) on every supported torch, chunked, smoothed or not.

    `cross_entropy(linear(input, linear_weight, linear_bias), target, …)` without the (N, C) logits. `options`
    (a `torch.nn.LinearCrossEntropyOptions`) may fix the rows per chunk; chunking happens with and without it. A
    weight with more than two axes, (C, d_1, …, D), makes the logits, as the original does.

    >>> import torch
    >>> linear_cross_entropy(torch.eye(2), torch.ones(3, 2), torch.tensor([0, 2]), label_smoothing=0.1)
    tensor(1.0986)
    """
    classes, *extra, features = linear_weight.shape
    shape = (*input.shape[:-1], classes, *extra)
    soft = target.shape == torch.Size(shape)
    if soft and ignore_index is not None:
        raise complain(
            "ignore_index", "None with probability targets", repr(ignore_index), "Leave it out.", RuntimeError
        )
    ignore_index = -100 if ignore_index is None else ignore_index
    if extra:
        bias = None if linear_bias is None else linear_bias.reshape(-1)
        logits = torch.nn.functional.linear(input, linear_weight.reshape(-1, features), bias).reshape(shape)
        return cross_entropy(
            logits, target, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
    template = _backend.template(shape, input.dtype, input)
    problem, settings = _bind(template, target, weight, ignore_index, reduction, label_smoothing)
    rows = getattr(options, "batch_chunk_size", None)
    loss = _backend.linear_loss(input, linear_weight, linear_bias, rows or None, problem, settings)
    return _as_torch(loss, problem, settings, input.dtype)


def _reduction(size_average, reduce, reduction):
    """torch's two retired flags, which still win over `reduction` there."""
    if size_average is not None or reduce is not None:
        return torch.nn._reduction.legacy_get_string(size_average, reduce)
    return reduction


def _bind(logits, target, weight, ignore_index, reduction, label_smoothing):
    """Problem and Settings of a call, with the checks that torch has and none that it has not."""
    checks.reduction(reduction)
    if not isinstance(label_smoothing, (Real, torch.Tensor)) or isinstance(label_smoothing, bool):
        raise complain("label_smoothing", "a number in [0, 1]", repr(label_smoothing), "0.0 means none.", TypeError)
    label_smoothing = float(label_smoothing)
    if not 0.0 <= label_smoothing <= 0.5:
        checks.smoothing_range(label_smoothing)
    axis = min(logits.ndim - 1, 1)
    target = _backend.array(target, logits)
    kind = _backend.kind(target)
    soft = kind == "floating" and target.shape == logits.shape
    if soft and ignore_index >= 0:
        expected, remedy = "a negative number with probability targets", "They have no ignored label: leave it out."
        raise complain("ignore_index", expected, repr(ignore_index), remedy, RuntimeError)
    target_checks.target_shape("integer" if kind == "boolean" else kind, target.shape, logits.shape, axis)
    if weight is not None:
        checks.per_class("weight", weight.shape, logits.shape[axis])
    seen = None if soft else _backend.values(target, None)
    clean = seen is not None and target_checks.labels(seen, logits.shape[axis], ignore_index)
    problem = Problem(logits, target, label_smoothing, weight=weight)
    return problem, Settings(conventions["torch"], axis, soft, ignore_index, reduction, seen is not None, clean)


def _as_torch(loss, problem, settings, dtype):
    """In the input's dtype, and NaN for the mean over nothing."""
    loss = loss.to(dtype)
    if settings.reduction != "mean" or (settings.clean and problem.weight is None and problem.targets.numel()):
        return loss
    if settings.soft:
        return loss if problem.targets.numel() else loss + math.nan
    shares = spec.plan(problem._replace(logits=problem.logits.detach()), settings, XP).share
    shares = summed(shares, problem.logits, settings.axis, XP)
    return torch.where(torch.as_tensor(shares, device=loss.device) == 0, loss.new_full((), math.nan), loss)
