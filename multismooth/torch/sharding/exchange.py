"""What the processes of a group exchange: sums, and the Statistics of their classes.

The collectives are PyTorch's functional ones, which `torch.compile` traces. What is gathered is merged alike on every
rank, in the order of the ranks, so all ranks get the same bits.
"""

from functools import reduce

import torch
import torch.distributed as dist
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
        total = reduced(total, "sum", own)
    return total


COMBINE = {"sum": lambda x: sum(x.unbind()), "max": lambda x: x.amax(0), "min": lambda x: x.amin(0)}


def over(x, operation, groups):
    """The sum, the largest or the smallest over all groups, merged alike on every rank."""
    for group in groups:
        x = COMBINE[operation](gathered(x, group))
    return x


# --- Statistics -----------------------------------------------------------------------------------------------------


def merged(part, first, groups):
    """(the Statistics of the classes of all ranks, the class of the largest logit, the first of equals).

    `first` is this rank's class of its largest logit, or None where nobody asks.
    """
    for group in groups:
        wide = dist.get_world_size(group) > MAX_RANKS_GATHERED
        part, first = (merged_in_two_rounds if wide else merged_at_once)(part, first, group)
    return part, first


def merged_at_once(part, first, group):
    """One all-gather of all numbers."""
    numbers = torch.stack([*part] if first is None else [*part, first.to(part.peak.dtype)])
    ranks = gathered(numbers, group).unbind()
    parts = [spec.Statistics(*rank.unbind()[:6]) for rank in ranks]
    whole = reduce(lambda one, other: spec.merged(one, other, XP), parts)
    if first is not None:
        classes = torch.stack([rank[6] for rank in ranks])
        first = lowest(torch.stack([own.peak for own in parts]), classes, whole.peak).amin(0).to(first.dtype)
    return whole, first


def merged_in_two_rounds(part, first, group):
    """The largest logit, then sums relative to it: one all-reduce each."""
    peak = reduced(part.peak, "max", group)
    sums = torch.stack([*spec.raised(part, peak, XP)[1:]])
    if first is not None:
        own = lowest(part.peak, first.to(peak.dtype), peak)
        first = reduced(own, "min", group).to(first.dtype)
    return spec.Statistics(peak, *reduced(sums, "sum", group).unbind()), first


def lowest(peaks, classes, peak):
    """The classes where a rank has the largest logit, elsewhere a number above all of them."""
    return torch.where((peaks == peak) | peaks.isnan(), classes, torch.full_like(classes, 2.0**30))
