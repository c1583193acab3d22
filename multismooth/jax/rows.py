"""Rows of a linear head that lie split over devices: each device sums over its own, and the devices' sums meet once.

A loop cannot carry a sum over devices that is still to be made. So the compiler alone sums the classifier's gradient
once per chunk of rows. Inside `shard_map` each device has a sum of its own. Where the placement of the rows is known
when a call is traced, the head therefore runs in a `shard_map` over the axes that split them. It is known of arrays on
meshes with explicit axes, and of arrays that are there: outside of `jit`. The compiler keeps all other axes.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from multismooth import spec
from multismooth.jax.namespace import XP
from multismooth.jax.varying import compiler_placed, explicitly_split, placement
from multismooth.reduction import here


class Rows(NamedTuple):
    """How the rows of a head lie: the mesh, and for each axis of the features the mesh axes that split it."""

    mesh: Any
    where: tuple

    @property
    def names(self):
        return tuple(name for names in self.where for name in names)

    @property
    def devices(self):
        """Over how many devices the rows are split."""
        return math.prod(self.mesh.shape[name] for name in self.names)


def split_rows(hidden, classifier, axis):
    """The Rows of a call, or None where they are not split, or not known. `axis`: that of the features.

    Axes that split the classifier too stay with the compiler: in `shard_map` each device would need all of it. Inside a
    `shard_map` of the caller's all do, because JAX (0.10) does not transpose one inside another.
    """
    if not hasattr(jax, "shard_map"):
        return None
    own, other = _sharding(hidden), _sharding(classifier)
    if not isinstance(own, NamedSharding) or other is None:
        return None
    mesh, taken = own.mesh.abstract_mesh, set()
    if not other.is_fully_replicated:
        if not isinstance(other, NamedSharding) or other.mesh.abstract_mesh != mesh:
            return None
        taken = {name for entry in other.spec for name in _names(entry)}
    context = jax.sharding.get_abstract_mesh()
    if mesh.manual_axes or not (context.empty or context == mesh):
        return None
    where = [_leading(_names(entry), taken) for entry in own.spec] + [()] * (hidden.ndim - len(own.spec))
    where[axis] = ()
    rows = Rows(own.mesh, tuple(where))
    return rows if rows.devices > 1 else None


def _sharding(x):
    """The sharding of an array if it is known while a call is traced, or None."""
    if explicitly_split(x):
        return jax.typeof(x).sharding
    if isinstance(x, jax.core.Tracer):  # of `jax.grad` outside of `jit`: the array itself is there
        x = getattr(x, "to_concrete_value", lambda: None)()
    return getattr(x, "sharding", None)


def _names(entry):
    """The mesh axes of an entry of a PartitionSpec."""
    return (entry,) if isinstance(entry, str) else entry if isinstance(entry, tuple) else ()


def _leading(names, taken):
    """The names up to the first one that is taken. To leave out a name before others would reorder the rows."""
    return names[: next((k for k, name in enumerate(names) if name in taken), len(names))]


def summed(rows, value):
    """A sum over the rows of all devices, from that over the rows here."""
    return value if rows is None else jax.lax.psum(value, rows.names)


def across(rows, z):
    """How `reduction.factors` adds up totals of rows. `z`: the logits, whose dtype the totals have."""
    return here if rows is None else lambda total: summed(rows, XP.constant(total, z))


def placed(function, rows, axis, results, hidden, classifier, bias, problem):
    """`function(hidden, classifier, bias, problem)`, with each device's own rows where they are known.

    `results`: from the PartitionSpecs of hidden, classifier and bias to those of the results.
    """
    head = hidden, classifier, bias
    if rows is not None:
        function = partial(_on_own_rows, function, rows, axis, results)
    return compiler_placed(function, results(*jax.tree.map(placement, head)), *head, problem)


def _on_own_rows(function, rows, axis, results, *operands):
    where = PartitionSpec(*(names or None for names in rows.where))
    head = where, *jax.tree.map(lambda _: PartitionSpec(), operands[1:3])
    inside = jax.shard_map(
        function,
        mesh=rows.mesh if jax.sharding.get_abstract_mesh().empty else None,
        in_specs=(*head, _problem_specs(operands[3], where, axis)),
        out_specs=results(*head),
        axis_names=set(rows.names),
    )
    return inside(*operands)


def of_elements(features, axis):
    """The PartitionSpec of what has an entry for each element, from that of the features."""
    return PartitionSpec(*(entry for k, entry in enumerate(features) if k != axis % len(features)))


def _problem_specs(problem, features, axis):
    """The PartitionSpecs of the Problem's arrays: some have an entry, or a row of classes, for each element."""
    elements = of_elements(features, axis)

    def like(array, where):
        entries = tuple(where)[len(where) - spec.rank(array) :]
        return PartitionSpec(*(None if n == 1 else entry for n, entry in zip(jnp.shape(array), entries, strict=True)))

    def specs(name, array):
        if name in ("label_smoothing", "sample_weight"):
            return like(array, elements)
        if name in ("targets", "class_mask") and spec.rank(array) == len(features):
            return like(array, features)
        return elements if name == "targets" else PartitionSpec()

    each = {name: value if value is None else specs(name, value) for name, value in problem._asdict().items()}
    return problem._replace(**each)
