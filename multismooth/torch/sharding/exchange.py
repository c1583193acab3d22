"""What the processes of a group exchange: sums, and the Statistics of their classes.

The collectives are PyTorch's functional ones, which `torch.compile` traces. What is gathered is merged alike on every
rank, in the order of the ranks, so all ranks get the same bits.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.distributed import _functional_collectives as functional

from multismooth import spec
from multismooth.torch.namespace import XP

# PyTorch 2.13 has deprecated the old name.
NEW_NAME = hasattr(functional, "all_gather_single")
all_gather = functional.all_gather_single if NEW_NAME else functional.all_gather_tensor

# Up to so many ranks one all-gather of everything; above, two all-reduces, which move fewer bytes but wait twice.
MAX_RANKS_GATHERED = 8


def gathered(x, group):
    """The tensors of all ranks of the group, which have one shape, along a new first axis."""
    if dist.get_world_size(group) == 1:
        return x.unsqueeze(0)
    return functional.wait_tensor(all_gather(x.unsqueeze(0).contiguous(), 0, group))


def reduced(x, operation, group):
    """The sum, the largest or the smallest of the tensors of all ranks: operation is "sum", "max" or "min"."""
    if dist.get_world_size(group) == 1:
        return x
    return functional.wait_tensor(functional.all_reduce(x.contiguous(), operation, group))


def summed(total, group):
    """The sum of a number over the ranks of a group, or of several groups one after the other."""
    total = total if isinstance(total, torch.Tensor) else torch.tensor(total, dtype=torch.float64)
    for own in group if isinstance(group, tuple) else (group,):
        total = Summed.apply(total, own)
    return total


class Summed(torch.autograd.Function):
    """A sum over ranks, each of which has its own part of the loss. Older PyTorch has no derivative of its own sum."""

    @staticmethod
    def forward(ctx, total, group):
        ctx.group = group
        found = reduced(total, "sum", group)
        return found.clone() if found is total else found

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        return reduced(upstream, "sum", ctx.group), None


# --- Statistics -----------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """What is exchanged of the elements' classes."""

    statistics: spec.Statistics  # fields that are plain numbers, the same on every rank, are not sent
    first: Any = None  # the class of the largest logit, the first of equals; None where nobody asks
    added: tuple[Any, ...] = ()  # further numbers, which add up

    @property
    def sums(self):
        """The names of the statistics that are sent, but the first, the peak."""
        fields = zip(self.statistics._fields, self.statistics, strict=True)
        return [name for name, value in fields if name != "peak" and isinstance(value, torch.Tensor)]


def merged(found, groups, at_once=False):
    """The Found of the classes of all ranks. at_once: one exchange for each group, whatever its size."""
    for group in groups:
        wide = dist.get_world_size(group) > MAX_RANKS_GATHERED and not at_once
        found = (merged_in_two_rounds if wide else merged_at_once)(found, group)
    return found


def merged_at_once(found, group):
    """One all-gather of all numbers."""
    part, first, added = found
    sent = ("peak", *found.sums)
    others = added if first is None else (first.to(part.peak.dtype), *added)
    columns = gathered(torch.stack([*(getattr(part, name) for name in sent), *others]), group).unbind(1)
    zeros = torch.zeros_like(columns[0])
    ranks = spec.Statistics(*(zeros for _ in part))._replace(**dict(zip(sent, columns, strict=False)))
    whole, rest = spec.merged(ranks, XP), columns[len(sent) :]
    if first is not None:
        first, rest = lowest(ranks.peak, rest[0], whole.peak).amin(0).to(first.dtype), rest[1:]
    return Found(whole, first, tuple(x.sum(0) for x in rest))


def merged_in_two_rounds(found, group):
    """The largest logit and its class, then sums relative to it."""
    part, first, added = found
    if first is None:
        peak = reduced(part.peak, "max", group)
    else:
        peaks, classes = gathered(torch.stack([part.peak, first.to(part.peak.dtype)]), group).unbind(1)
        peak = peaks.amax(0)
        first = lowest(peaks, classes, peak).amin(0).to(first.dtype)
    raised = spec.raised(part, peak, XP)
    numbers = torch.stack([*(getattr(raised, name) for name in found.sums), *added])
    sums = iter(reduced(numbers, "sum", group).unbind())
    whole = raised._replace(**{name: next(sums) for name in found.sums})
    return Found(whole, first, tuple(sums))


def lowest(peaks, classes, peak):
    """The classes where a rank has the largest logit, elsewhere a number above all of them."""
    return torch.where((peaks == peak) | peaks.isnan(), classes, torch.full_like(classes, 2.0**30))
