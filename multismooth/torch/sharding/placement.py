"""DTensors: what of a call lies on this process, and the results as DTensors on the same mesh.

Plain tensors among the arguments have the global shape and are the same on all ranks; each rank takes its part. Nothing
here communicates, unless an argument is a DTensor of another layout than the logits.
"""

import math
from typing import Any, NamedTuple

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from multismooth import spec
from multismooth.api import argument_checks, target_checks
from multismooth.errors import ShardError, TargetError, complain
from multismooth.problem import Terms
from multismooth.torch.sharding.agreement import CLASSES, ELEMENTS, WHOLE
from multismooth.torch.sharding.constants import learned
from multismooth.torch.sharding.split import Split

FROM_LOCAL = "A plain tensor has the global shape; make parts a DTensor by DTensor.from_local(part, mesh, placements)."


def checked_placements(name, tensor):
    """The placements of a DTensor, which must be Shard and Replicate."""
    for placement in tensor.placements:
        if type(placement).__name__ not in ("Shard", "Replicate"):  # by name: a compiler cannot compare the classes
            remedy = f"Pass {name}.redistribute(placements=…), with Shard or Replicate on each mesh axis."
            got = str(tuple(tensor.placements))
            raise complain(name, "placements of Shard and Replicate", got, remedy, ShardError)
    return tuple(tensor.placements)


class Place(NamedTuple):
    """Where a tensor of a global shape lies: on which mesh, how, and which part of it is here."""

    mesh: Any
    placements: tuple[Any, ...]
    shape: tuple[int, ...]  # global
    size: tuple[int, ...]  # of the part
    offset: tuple[int, ...]

    @classmethod
    def of(cls, shape, mesh, placements):
        size, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
        return cls(mesh, tuple(placements), tuple(shape), tuple(size), tuple(offset))

    def groups(self, *axes):
        """The groups that split one of these axes of the tensor."""
        split = [k for k, p in enumerate(self.placements) if isinstance(p, Shard) and p.dim in axes]
        return tuple(self.mesh.get_group(k) for k in split)

    def without(self, axis):
        """The place of the elements of logits: without the class axis."""
        kept = [k for k in range(len(self.shape)) if k != axis]
        moved = {k: place for place, k in enumerate(kept)}
        placements = tuple(
            Shard(moved[p.dim]) if isinstance(p, Shard) and p.dim != axis else Replicate() for p in self.placements
        )
        return Place(self.mesh, placements, *(tuple(x[k] for k in kept) for x in self[2:]))

    def part(self, name, value):
        """This process's part of an argument that broadcasts to the global shape; numbers as they are."""
        if isinstance(value, DTensor):
            checked_placements(name, value)
            if tuple(value.shape) == self.shape and value.device_mesh == self.mesh:
                return value.redistribute(self.mesh, self.placements).to_local()
        value = self.whole(name, value)
        if not isinstance(value, torch.Tensor) or value.ndim == 0:
            return value
        shape = argument_checks.broadcasts(name, value.shape, self.shape, "the global shape")
        value = value.reshape(shape)
        for axis, size in enumerate(shape):
            if size != 1 or self.shape[axis] == 1:
                value = value.narrow(axis, self.offset[axis], self.size[axis])
        return value

    def whole(self, name, value):
        """All of an argument that processes have different elements of. So they have parts of its gradient."""
        if not isinstance(value, DTensor):
            return value
        if value.device_mesh != self.mesh and learned(value):
            got, remedy = str(value.device_mesh), f"Pass {name}.detach(), or put it on the mesh of the logits."
            raise complain(name, "the logits' mesh, for an argument with a gradient", got, remedy, ShardError)
        sums = [Partial("sum") if isinstance(p, Shard) else Replicate() for p in self.placements]
        return value.full_tensor(grad_placements=sums if value.device_mesh == self.mesh else None)

    def result(self, part, placements=None):
        """A DTensor on the mesh: of this place, or a number that `placements` say how to add up."""
        if placements is not None:
            return DTensor.from_local(part, self.mesh, placements, run_check=False)
        stride = [math.prod(self.shape[k + 1 :]) for k in range(len(self.shape))]
        shape = torch.Size(self.shape)
        return DTensor.from_local(part, self.mesh, self.placements, run_check=False, shape=shape, stride=tuple(stride))


def tensor(targets):
    return targets if isinstance(targets, torch.Tensor) else torch.as_tensor(targets)


def has_rows(targets):
    """Whether these are soft targets."""
    return targets.is_floating_point() or targets.dtype is torch.bool


class Elements(NamedTuple):
    """The places of a call: of its logits, which may be a shape only, and of its elements."""

    logits: Place
    axis: int

    @classmethod
    def of(cls, shape, mesh, placements, axis):
        axis = argument_checks.axis_index(-1 if axis is None else axis, len(shape), "the logits")
        return cls(Place.of(shape, mesh, placements), axis)

    def check(self, targets, axis):
        """Refuse targets that do not have the global shape; `axis` as the caller passed it."""
        shape, kind = self.logits.shape, "integer"
        if has_rows(targets):
            kind = "boolean" if targets.dtype is torch.bool else "floating"
        target_checks.class_axis(shape, targets.shape, kind != "integer", axis)
        place = self.elements if kind == "integer" else self.logits
        if not isinstance(targets, DTensor) and tuple(targets.shape) == place.size != place.shape:
            got = f"{place.size}, that of this rank's part"
            raise complain("targets", f"the global shape {place.shape}", got, FROM_LOCAL, TargetError)
        target_checks.target_shape(kind, targets.shape, shape, self.axis)

    @property
    def elements(self):
        return self.logits.without(self.axis)

    def split(self, size=None):
        """The Split of the mesh; `size` is the number of classes here, which the mesh knows."""
        axis, place = self.axis, self.logits
        others = [k for k in range(len(place.shape)) if k != axis]
        return Split(place.shape[axis], place.offset[axis], place.size[axis], place.groups(axis), place.groups(*others))

    def groups(self):
        """The groups whose ranks compare their headers, and what these have."""
        split = self.split()
        return [(group, CLASSES) for group in split.groups] + [(group, ELEMENTS) for group in split.element_groups]

    def local(self, targets, options):
        """(targets, options) with this process's parts."""
        targets = tensor(targets)
        self.check(targets, options.get("axis"))
        local, elements = dict(options), self.elements
        for name, value in options.items():
            if name in ("label_smoothing", "sample_weight"):
                local[name] = elements.part(name, value)
            elif name == "class_mask" and spec.rank(value) > 1:
                mask = self.logits.part(name, value)
                local[name] = mask.expand(self.logits.size)
            elif name in ("weight", "prior", "class_mask", "z_loss", "logit_softcap", "normalizer"):
                local[name] = elements.whole(name, value)
        place = self.logits if has_rows(targets) else elements
        return place.part("targets", targets), {**local, "axis": self.axis}

    def uncut(self, targets, options):
        """The arguments that are no DTensors, so that each process has those of all elements of all ranks."""
        given = {**options, "targets": tensor(targets)}
        numbers = torch.Tensor, float, int, type(None)
        plain = {name: given.get(name) for name in (*WHOLE, "class_mask")}
        return {k: x for k, x in plain.items() if isinstance(x, numbers) and not isinstance(x, DTensor)}

    def placed(self, value, reduction):
        """A loss, or Terms, as DTensors."""
        elements = self.elements
        if isinstance(value, Terms):
            return Terms(*map(elements.result, value))
        if reduction == "none":
            return elements.result(value)
        return elements.result(
            value, [Partial("sum") if isinstance(p, Shard) else Replicate() for p in elements.placements]
        )
