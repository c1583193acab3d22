"""The autograd node: logits of some classes → (lse, nll, smooth) over all classes, per element.

Everything after these numbers is arithmetic on one number per element, which autograd differentiates. So one node
serves losses, their terms, and every reduction.

A loss is linear in nll and smooth. Where nobody asks for the two apart, each process combines them before the exchange:
a·nll + b·smooth + const takes the place of nll, and smooth is 0. That is four numbers per element instead of six.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from multismooth import spec
from multismooth.plan import mapped
from multismooth.torch.namespace import XP
from multismooth.torch.sharding.exchange import Found, merged
from multismooth.torch.sharding.split import SPLIT_XP, inside

ROWS = ("labels", "u", "v", "mask", "active", "softcap")
COEFFICIENTS = ("a", "b", "const")  # of the sum that nll and smooth are combined to


class Static(NamedTuple):
    """What of a call is no tensor."""

    axis: int
    split: Any
    one_sum: bool = False  # whether nll stands for a·nll + b·smooth + const
    predicts: bool = False  # whether the class of the largest logit is asked for
    at_once: bool = False  # whether the group has met for this call before, so that one more exchange must do
    agreement: Any = None  # an exchange that must have ended before the next one


def shard_of(plan, axis, split):
    """The plan with the rows of this process's classes. Labels count from its first class."""
    rows = {name: split.part(getattr(plan, name), axis) for name in ("u", "v", "mask")}
    rows["v"] = 1 / split.classes if plan.v is None else rows["v"]
    return plan._replace(labels=None if plan.labels is None else plan.labels - split.start, **rows)


# --- blocks of elements, so that on a CPU the passes over their logits find them in its cache -----------------------

BLOCK = 2**18  # logits of a block


class Blocks:
    """Equal parts of the elements along one of their axes. One part, where the logits are few or not on a CPU."""

    def __init__(self, logits, axis):
        self.along = 0 if axis else logits.ndim - 1
        self.of_element = self.along - (self.along > axis)  # the same axis of an array without the class axis
        size = 1 if logits.ndim < 2 else logits.shape[self.along]
        whole = torch.compiler.is_compiling() or not logits.is_cpu or logits.numel() <= BLOCK or size < 2
        rows = size if whole else max(1, BLOCK * size // logits.numel())
        self.parts = None if whole else [(start, min(rows, size - start)) for start in range(0, size, rows)]

    def row(self, x, part):
        return x if x.shape[self.along] == 1 else x.narrow(self.along, *part)

    def element(self, x, part):
        return x if x.ndim == 0 or x.shape[self.of_element] == 1 else x.narrow(self.of_element, *part)

    def plan(self, plan, part):
        own = mapped(plan, lambda x: self.element(x, part), lambda x: self.row(x, part))
        all_active = own.active is not None and bool(own.active.all())  # then two passes less
        return own._replace(active=None) if all_active else own


def local(logits, plan, axis, predicts=False):
    """(the Statistics of the classes here, the class here of the largest logit or None) for a plan of `shard_of`."""
    blocks = Blocks(logits, axis)
    if blocks.parts is None:
        return local_block(logits, plan, axis, predicts)
    found = [local_block(blocks.row(logits, k), blocks.plan(plan, k), axis, predicts) for k in blocks.parts]
    statistics, first = zip(*found, strict=True)
    whole = spec.Statistics(*(torch.cat(column, blocks.of_element) for column in zip(*statistics, strict=True)))
    return whole, torch.cat(first, blocks.of_element) if predicts else None


def local_block(logits, plan, axis, predicts):
    z = spec.masked_logits(logits, plan, axis, XP)
    shape = (*z.shape[:axis], *z.shape[axis + 1 :])
    zero = z.new_zeros(shape)
    if z.shape[axis] == 0:
        first = torch.zeros(shape, dtype=torch.int64, device=z.device) if predicts else None
        return spec.Statistics(zero - float("inf"), zero, zero, zero, zero, zero), first
    u_sum = inside(plan.labels, z, axis).to(z.dtype) if plan.u is None else plan.u.sum(axis)
    v_sum = plan.v * z.shape[axis] if isinstance(plan.v, float) else plan.v.sum(axis)
    peak, first = XP.highest(z, axis) if predicts else (z.amax(axis), None)
    gap = spec.gap_to(peak, z, axis, XP)
    own = plan._replace(u_sum=u_sum, v_sum=zero + v_sum)
    found = spec.statistics_of(peak, gap, torch.exp(-gap), own, axis, SPLIT_XP)
    return spec.Statistics(*(x.expand(shape) for x in found)), first


def whole(logits, plan, added, static):
    """The Found of all classes."""
    part, first = local(logits, plan, static.axis, static.predicts)
    part = as_one_sum(part, plan) if static.one_sum else part
    if static.agreement is not None:
        static.agreement.reached()
    first = None if first is None else first + static.split.start
    return merged(Found(part, first, added), static.split.groups, static.at_once)


def as_one_sum(part, plan):
    """The Statistics with a·nll + b·smooth + const in place of nll, and with the mass of that sum."""
    loss = spec.elements(None, part.nll, part.smooth, plan, XP)
    mass = plan.a * part.u_sum + plan.b * part.v_sum
    return part._replace(nll=loss, smooth=0.0, u_sum=mass.expand(loss.shape), v_sum=0.0)


def rows_gradient(logits, found, plan, axis, upstream, one_sum):
    """The derivative of upstream·(lse, nll, smooth) by the logits here, in their dtype; `one_sum` as in Static."""
    blocks = Blocks(logits, axis)
    if blocks.parts is None:
        return block_gradient(logits, found, plan, axis, upstream, one_sum).to(logits.dtype)
    gradient = torch.empty_like(logits)
    for part in blocks.parts:
        numbers = [[blocks.element(x, part) for x in group] for group in (found, upstream)]
        own = spec.Statistics(*numbers[0]), blocks.plan(plan, part), axis, numbers[1], one_sum
        blocks.row(gradient, part).copy_(block_gradient(blocks.row(logits, part), *own))
    return gradient


def block_gradient(logits, found, plan, axis, upstream, one_sum):
    of_lse, of_nll, of_smooth = upstream
    height = of_lse + of_nll * found.u_sum + of_smooth * found.v_sum
    of_smooth = of_nll * plan.b if one_sum else of_smooth
    of_nll = of_nll * plan.a if one_sum else of_nll
    z = spec.masked_logits(logits, plan, axis, XP)
    e = torch.exp(z - spec.finite(found.peak, XP).unsqueeze(axis))
    g = spec.combination(height, e, found, plan._replace(a=of_nll, b=of_smooth), axis, SPLIT_XP)
    return spec.through_cap(g, logits, plan, axis, XP)


# --- a plan through a node: its tensors are saved by autograd's means, the rest as it is -----------------------------


def rows_of(plan, one_sum):
    return {name: getattr(plan, name) for name in (*ROWS, *(COEFFICIENTS if one_sum else ()))}


def tensors(rows):
    return [value for value in rows.values() if isinstance(value, torch.Tensor)]


def others(rows):
    """The rows without their tensors, which `plan_again` puts back."""
    return {name: SAVED if isinstance(value, torch.Tensor) else value for name, value in rows.items()}


def plan_again(rows, saved):
    saved = iter(saved)
    return spec.Plan(**{name: next(saved) if value is SAVED else value for name, value in rows.items()})


SAVED = "saved"


def outputs(found):
    """(the Statistics as tensors, what a node returns): (lse, nll, smooth, the class of the largest logit, *added)."""
    zeros = torch.zeros_like(found.statistics.peak)
    statistics = spec.Statistics(*(x if isinstance(x, torch.Tensor) else zeros for x in found.statistics))
    first = zeros.new_zeros(0, dtype=torch.int64) if found.first is None else found.first
    return statistics, (*spec.finished(statistics, XP), first, *found.added)


class AllClasses(torch.autograd.Function):
    """It keeps no tensor of the logits' size but the logits themselves."""

    @staticmethod
    def forward(ctx, logits, rows, added, static):
        statistics, results = outputs(whole(logits, spec.Plan(**rows), added, static))
        ctx.save_for_backward(logits, *statistics, *tensors(rows))
        ctx.static, ctx.rows = static, others(rows)
        ctx.mark_non_differentiable(*results[3:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, of_lse, of_nll, of_smooth, *_):
        logits, *saved = ctx.saved_tensors
        plan, found = plan_again(ctx.rows, saved[6:]), spec.Statistics(*saved[:6])
        static = ctx.static
        g = rows_gradient(logits, found, plan, static.axis, (of_lse, of_nll, of_smooth), static.one_sum)
        return g, None, None, None


def all_classes(logits, plan, added, static):
    """(lse, nll, smooth, the class of the largest logit, *added) over all classes, for a plan of `shard_of`.

    `added` are numbers per element that each process has a part of.
    """
    return AllClasses.apply(logits, rows_of(plan, static.one_sum), added, static)
