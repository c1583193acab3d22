"""Which classes and elements a process has, and the class axis where it has a part of them."""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from multismooth import spec
from multismooth.classes import Classes
from multismooth.errors import complain
from multismooth.namespace import Namespace
from multismooth.torch.namespace import XP, deposit, pick
from multismooth.torch.sharding.agreement import PARTS
from multismooth.torch.sharding.exchange import gathered, lowest


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
    start, expected_size = chunk(count, ranks, rank)
    if class_start is None and size != expected_size:
        expected = f"{expected_size} of {count} classes on rank {rank} of {ranks}, as torch.chunk splits them"
        raise complain("class_start", expected, f"{size} classes", "Pass class_start=, this rank's first class.")
    start = start if class_start is None else class_start
    if not 0 <= start <= count - size:
        expected, got = f"a class in [0, {count - size}], since {size} of {count} are here", f"{start}"
        raise complain("class_start", expected, got, "It is the first class of this rank's logits.")
    return Split(count, start, size, (group,))


class Shards(NamedTuple):
    """How a call with `group=` lies on its ranks: each has some classes, and all have all elements."""

    group: Any
    num_classes: int | None = None
    class_start: int | None = None

    def split(self, size):
        return split_of(self.group, size, self.num_classes, self.class_start)

    def groups(self):
        """The groups whose ranks compare their headers, and what these have."""
        return [(self.group, PARTS)]

    def local(self, targets, options):
        """(targets, options) with this process's parts, which the caller has passed."""
        return targets, options

    def uncut(self, targets, options):
        """The arguments of all elements of all ranks: no rank has other elements."""
        return {}


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


class Here(Classes):
    """The classes of this process, which are a part of all. Labels and (K,) vectors are those of all classes."""

    def __init__(self, z, axis, split):
        super().__init__(z, axis, XP)
        self.split, self.count = split, split.classes

    def row(self, vector):
        return spec.along(self.split.part(vector, 0), self.z, self.axis, XP)

    def pick(self, rows, labels):
        """0 where the label is of another process."""
        rows = rows.expand(self.z.shape).to(XP.float_of(self.z))
        return pick_inside(rows, labels - self.split.start, self.axis)

    def holds(self, labels):
        return inside(labels - self.split.start, self.z, self.axis).to(XP.float_of(self.z))


class Part(NamedTuple):
    """What was taken over the classes of this process: numbers per element, and how those of all ranks make the result.

    They are added up, unless `choose` makes them from tensors with an axis of the ranks in front.
    """

    numbers: tuple[Any, ...]
    choose: Any = None
    result: Any = None  # from the numbers of all classes; None: the number itself

    def merged(self, ranks):
        numbers = self.choose(*ranks) if self.choose else tuple(x.sum(0) for x in ranks)
        return Part(numbers, self.choose, self.result)

    def finished(self):
        return self.result(*self.numbers) if self.result else self.numbers[0]


class SplitClasses(Here):
    """The class axis where rows have the classes of this process. What is taken over it is a Part until `together`.

    It is for soft targets and masks with a row for each element. Where every row is a (K,) vector, all processes have
    it, and `Classes` needs no exchange.
    """

    met = False  # whether the processes have exchanged something

    @property
    def part(self):
        return Here(self.z, self.axis, self.split)

    @property
    def whole(self):
        shape = [*self.z.shape]
        shape[self.axis] = self.count
        return Classes(self.z.new_zeros(()).expand(shape), self.axis, XP)

    def together(self, taken):
        """One exchange for each group that splits the classes; none where nothing is a Part."""
        parts = {name: value for name, value in taken.items() if isinstance(value, Part)}
        self.met = self.met or bool(parts)
        for group in self.split.groups if parts else ():
            columns = gathered(torch.stack([x for part in parts.values() for x in part.numbers]), group).unbind(1)
            columns = iter(columns)
            parts = {name: part.merged([next(columns) for _ in part.numbers]) for name, part in parts.items()}
        return taken | {name: part.finished() for name, part in parts.items()}

    def pick(self, rows, labels):
        return Part((super().pick(rows, labels),), result=(lambda x: x != 0) if rows.dtype is torch.bool else None)

    def sum(self, rows, keepdims=False):
        return Part((rows.sum(self.axis, keepdim=keepdims),))

    def mass(self, rows):
        """Statistics have it, so it needs no exchange of its own."""
        return 1.0

    def valid_rows(self, t, mask, tolerance):
        """From the sum of a row, and how many of its entries may not be."""
        bad = ~(t >= -tolerance) if mask is None else ~(t >= -tolerance) | (~mask & (t > tolerance))

        def valid(total, offending):
            return (offending == 0) & ((total - 1).abs() <= tolerance)

        return Part((t.sum(self.axis), bad.sum(self.axis).to(t.dtype)), result=valid)

    def argmax(self, rows):
        """The first of equals: the ranks are in the order of their classes only where they are split so."""
        high = rows.amax(self.axis) if rows.shape[self.axis] else rows.sum(self.axis) - float("inf")
        first = rows.argmax(self.axis) + self.split.start if rows.shape[self.axis] else torch.zeros_like(high)

        def choose(highs, classes):
            high = highs.amax(0)
            return high, lowest(highs, classes, high).amin(0)

        return Part((high, first.to(high.dtype)), choose, result=lambda _, first: first.long())
