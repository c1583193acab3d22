"""Which classes and elements a process has, and the class axis where it has a part of them."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from multismooth import spec
from multismooth.classes import Classes
from multismooth.errors import complain
from multismooth.namespace import Namespace
from multismooth.torch.namespace import XP, deposit, pick
from multismooth.torch.sharding.exchange import gathered, over


class Split(NamedTuple):
    """The part of the classes that this process has: `size` of `classes`, from `start` on.

    groups: the groups that split the classes. Their Statistics are merged one group after the other.
    element_groups: the groups that split the elements. A mean's denominator is summed over these.
    """

    classes: int
    start: int
    size: int
    groups: tuple[Any, ...]
    element_groups: tuple[Any, ...] = ()

    def part(self, row, axis):
        """This process's part of a row of all classes, or the row itself where it has one entry for all."""
        if row is None or not isinstance(row, torch.Tensor) or row.shape[axis] != self.classes:
            return row
        return row.narrow(axis, self.start, self.size)


def chunk(count, ranks, rank):
    """(start, size) of this rank's part of `count` classes, as `torch.chunk` and DTensor split them."""
    size = -(-count // ranks)
    start = min(rank * size, count)
    return start, min(size, count - start)


def split_of(group, size, num_classes, class_start):
    """The Split of a group over whose ranks the class axis is split. `size` is the number of classes here."""
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    count = ranks * size if num_classes is None else num_classes
    start, usual = chunk(count, ranks, rank)
    if class_start is None and size != usual:
        expected = f"{usual} of {count} classes on rank {rank} of {ranks}, as torch.chunk splits them"
        raise complain("class_start", expected, f"{size} classes", "Pass class_start=, this rank's first class.")
    start = start if class_start is None else class_start
    if not 0 <= start <= count - size:
        expected, got = f"a class in [0, {count - size}], since {size} of {count} are here", f"{start}"
        raise complain("class_start", expected, got, "It is the first class of this rank's logits.")
    return Split(count, start, size, (group,))


# --- labels that may lie in another part ------------------------------------------------------------------------------


def inside(index, z, axis):
    return (index >= 0) & (index < z.shape[axis])


def pick_inside(z, index, axis):
    """`pick`, and 0 where the index lies in another part."""
    if z.shape[axis] == 0:
        return z.sum(axis)
    here = inside(index, z, axis)
    return torch.where(here, pick(z, torch.where(here, index, 0), axis), z.new_zeros(()))


def deposit_inside(z, index, values, axis):
    """`deposit`, of nothing where the index lies in another part."""
    if z.shape[axis] == 0:
        return z
    here = inside(index, z, axis)
    return deposit(z, torch.where(here, index, 0), torch.where(here, XP.constant(values, z), z.new_zeros(())), axis)


SPLIT_XP = Namespace(XP, pick=pick_inside, deposit=deposit_inside)


class SplitClasses(Classes):
    """The class axis where rows have the classes of this process, and sums are over all: one exchange each.

    It is for soft targets and masks with a row for each element. Where every row is a (K,) vector, all processes have
    it, and `Classes` needs no exchange.
    """

    def __init__(self, z, axis, split):
        super().__init__(z, axis, XP)
        self.split, self.count = split, split.classes

    def row(self, vector):
        return spec.along(self.split.part(vector, 0), self.z, self.axis, XP)

    def pick(self, rows, labels):
        rows = rows.expand(self.z.shape)
        found = pick_inside(rows.to(self.z.dtype), labels - self.split.start, self.axis)
        found = over(found, "sum", self.split.groups)
        return found != 0 if rows.dtype is torch.bool else found

    def sum(self, rows, keepdims=False):
        return over(rows.sum(self.axis, keepdim=keepdims), "sum", self.split.groups)

    def min(self, rows):
        return over(self._extreme(rows, "amin", float("inf")), "min", self.split.groups)

    def max(self, rows):
        return over(self._extreme(rows, "amax", -float("inf")), "max", self.split.groups)

    def argmax(self, rows):
        """The first of equals: the ranks are in the order of their classes only where they are split so."""
        high = self._extreme(rows, "amax", -float("inf"))
        first = rows.argmax(self.axis) + self.split.start if rows.shape[self.axis] else torch.zeros_like(high)
        for group in self.split.groups:
            highs, classes = gathered(torch.stack([high, first.to(high.dtype)]), group).unbind(1)
            high = highs.amax(0)
            first = torch.where(highs == high, classes, float(self.count)).amin(0)
        return first.long()

    def _extreme(self, rows, name, neutral):
        if rows.shape[self.axis] == 0:
            return rows.sum(self.axis) + neutral
        return getattr(rows, name)(self.axis)
