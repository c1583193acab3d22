"""Binary and multi-label smoothing: two classes per entry, so ε/2 goes to each, or ε/K as if the labels were K classes.

q    = t·(1 − ε) + ε·u,  u = 1/2 or 1/K
loss = w·[π·q·log(1 + e^−z) + (1 − q)·log(1 + e^z)]  =  −w·[π·q·log σ(z) + (1 − q)·log(1 − σ(z))]

No summand is negative, so nothing cancels.
"""

from typing import Any, NamedTuple

from multismooth.problem import Problem
from multismooth.reduction import reciprocal, summed


class BinarySettings(NamedTuple):
    """The hashable settings of a call of `binary_loss`."""

    reduction: str
    axis: int | None  # of the labels; None where no argument needs it
    spread: str  # "half" or "all"
    label_mean: bool


class BinaryCall(NamedTuple):
    """A checked call of `binary_loss`. Each entry of the logits is an element of the Problem."""

    problem: Problem  # its weight, w, broadcasts to the logits
    pos_weight: Any  # π, broadcasts to the logits
    settings: BinarySettings


def loss(call, xp):
    """The loss of `Functions.binary_loss`, differentiable in all its arrays."""
    problem, positive, settings = call
    s, epsilon, weight = problem.sample_weight, problem.label_smoothing, problem.weight
    z, t = xp.astype(problem.logits, xp.float_of(problem.logits), copy=False), problem.targets
    if s is not None:  # an entry of weight 0 may hold NaN: 0·NaN would be NaN, so the NaN itself has to go
        z, t, epsilon, weight, positive = (
            x if x is None or isinstance(x, float) else xp.where(s != 0, x, xp.zeros_like(x))
            for x in (z, t, epsilon, weight, positive)
        )
    q = t * (1 - epsilon) + epsilon / (2 if settings.spread == "half" else xp.number(z.shape[settings.axis], z))
    on, off = q if positive is None else positive * q, 1 - q
    certain = xp.isinf(z) & (xp.where(z < 0, on, off) == 0)  # an infinite logit that the target agrees with costs 0
    z = xp.where(certain, xp.zeros_like(z), z)
    each = on * xp.softplus(-z) + off * xp.softplus(z)
    each = xp.where(certain, xp.zeros_like(z), each)
    for factor in (s, weight):
        each = each if factor is None else each * factor
    share = s
    if settings.label_mean:
        one_over_labels = _one_over_labels(s, z, settings.axis, xp)
        each = xp.sum(each * one_over_labels, axis=settings.axis)
        share = one_over_labels if s is None else s * one_over_labels
    if settings.reduction == "none":
        return each
    return xp.sum(each if settings.reduction == "sum" else each * _mean_factor(problem.normalizer, share, z, xp))


def _one_over_labels(s, z, axis, xp):
    """One over the number of an element's labels that count."""
    if s is None:
        return xp.broadcast_to(xp.constant(1 / xp.number(z.shape[axis], z), z), z.shape)
    counted = xp.astype(xp.broadcast_to(s != 0, z.shape), z.dtype)
    labels = xp.sum(counted, axis=axis, keepdims=True)
    return xp.where(labels > 0, 1 / xp.where(labels > 0, labels, xp.ones_like(labels)), xp.zeros_like(labels))


def _mean_factor(normalizer, share, z, xp):
    """The factor that makes the sum a mean."""
    if normalizer is not None:
        return reciprocal(normalizer, z, xp, lambda: 0 not in z.shape if share is None else xp.any(share != 0))
    return reciprocal(summed(1.0 if share is None else share, z, None, xp), z, xp)
