"""The autograd node: logits of some classes → (lse, nll, smooth) over all classes, per element.

Everything after these three numbers is arithmetic on one number per element, which autograd differentiates. So one node
serves losses, their terms, and every reduction.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from multismooth import spec
from multismooth.torch.namespace import XP
from multismooth.torch.sharding.exchange import merged
from multismooth.torch.sharding.split import SPLIT_XP, inside

ROWS = ("labels", "u", "v", "u_sum", "v_sum", "mask", "active")


class Static(NamedTuple):
    """What of a call is no tensor."""

    axis: int
    split: Any
    predicts: bool = False  # whether the class of the largest logit is asked for
    agreement: Any = None  # an exchange that must have ended before the next one


def shard_of(plan, axis, split):
    """The plan with the rows of this process's classes. Labels count from its first class."""
    rows = {name: split.part(getattr(plan, name), axis) for name in ("u", "v", "mask")}
    rows["v"] = 1 / split.count if plan.v is None else rows["v"]
    return plan._replace(labels=None if plan.labels is None else plan.labels - split.start, **rows)


def local(logits, plan, axis, predicts=False):
    """(the Statistics of the classes here, the class here of the largest logit or None) for a plan of `shard_of`."""
    z = spec.masked_logits(logits, plan, axis, XP)
    shape = (*z.shape[:axis], *z.shape[axis + 1 :])
    zero = z.new_zeros(shape)
    if z.shape[axis] == 0:
        first = torch.zeros(shape, dtype=torch.int64, device=z.device) if predicts else None
        return spec.Statistics(zero - float("inf"), zero, zero, zero, zero, zero), first
    u_sum = inside(plan.labels, z, axis).to(z.dtype) if plan.u is None else plan.u.sum(axis)
    v_sum = plan.v * z.shape[axis] if isinstance(plan.v, float) else plan.v.sum(axis)
    peak, gap = spec.peak_and_gap(z, axis, XP)
    own = plan._replace(u_sum=u_sum, v_sum=zero + v_sum)
    found = spec.statistics_of(peak, gap, torch.exp(-gap), own, axis, SPLIT_XP)
    return spec.Statistics(*(x.expand(shape) for x in found)), z.argmax(axis) if predicts else None


def whole(logits, plan, static):
    """(the Statistics of all classes, the class of the largest logit or None)."""
    part, first = local(logits, plan, static.axis, static.predicts)
    if static.agreement is not None:
        static.agreement.reached()
    return merged(part, None if first is None else first + static.split.start, static.split.groups)


def rows_gradient(logits, found, plan, axis, upstream):
    """The derivative of upstream·(lse, nll, smooth) by the logits here, in the computing dtype."""
    of_lse, of_nll, of_smooth = upstream
    z = spec.masked_logits(logits, plan, axis, XP)
    e = torch.exp(z - spec.finite(found.peak, XP).unsqueeze(axis))
    height = of_lse + of_nll * found.u_sum + of_smooth * found.v_sum
    return spec.combination(height, e, found, plan._replace(a=of_nll, b=of_smooth), axis, SPLIT_XP)


# --- a plan through a node: its tensors are saved by autograd's means, the rest as it is -----------------------------


def rows_of(plan):
    return {name: getattr(plan, name) for name in ROWS}


def tensors(rows):
    return [value for value in rows.values() if isinstance(value, torch.Tensor)]


def others(rows):
    """The rows without their tensors, which `plan_again` puts back."""
    return {name: SAVED if isinstance(value, torch.Tensor) else value for name, value in rows.items()}


def plan_again(rows, saved):
    saved = iter(saved)
    return spec.Plan(**{name: next(saved) if value is SAVED else value for name, value in rows.items()})


SAVED = "saved"


class AllClasses(torch.autograd.Function):
    """It keeps no tensor of the logits' size but the logits themselves."""

    @staticmethod
    def forward(ctx, logits, rows, static):
        plan = spec.Plan(**rows)
        found, first = whole(logits, plan, static)
        lse, nll, smooth = spec.finished(found, XP)
        ctx.save_for_backward(logits, *found, *tensors(rows))
        ctx.static, ctx.rows = static, others(rows)
        first = lse.new_zeros(0, dtype=torch.int64) if first is None else first
        ctx.mark_non_differentiable(first)
        return lse, nll, smooth, first

    @staticmethod
    @once_differentiable
    def backward(ctx, of_lse, of_nll, of_smooth, _):
        logits, *saved = ctx.saved_tensors
        plan, found = plan_again(ctx.rows, saved[6:]), spec.Statistics(*saved[:6])
        g = rows_gradient(logits, found, plan, ctx.static.axis, (of_lse, of_nll, of_smooth))
        return g.to(logits.dtype), None, None


def all_classes(logits, plan, static):
    """(lse, nll, smooth, the class of the largest logit) over all classes, for a plan of `shard_of`."""
    return AllClasses.apply(logits, rows_of(plan), static)
