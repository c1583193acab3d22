"""The axes of a mesh that a value varies over. Inside `jax.shard_map` they are a part of its type.

A loop's carry must leave the loop with the type that it entered with, and a cotangent must have the type of its output.
Fresh zeros and ones vary over no axis. Outside `shard_map`, and with `check_vma=False`, there are no such axes.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec


def varying_axes(tree):
    """The mesh axes over which any array of the tree varies."""
    return frozenset().union(*(_axes(x) for x in jax.tree.leaves(tree)))


def _axes(x):
    kind = jax.typeof(x)
    manual_axes = getattr(kind, "manual_axis_type", None)  # JAX 0.10 and later; `vma` before
    return getattr(kind, "vma", frozenset()) if manual_axes is None else manual_axes.varying


def vary_over(tree, axes):
    """The same values, with the type of values that vary over `axes`; their backward sums over these axes."""

    def cast(x):
        missing = tuple(sorted(axes - _axes(x)))
        if not missing:
            return x
        return jax.lax.pcast(x, missing, to="varying") if hasattr(jax.lax, "pcast") else jax.lax.pvary(x, missing)

    return jax.tree.map(cast, tree) if axes else tree


def summed_like(gradient, primal):
    """The gradient with respect to `primal`, summed over the axes that `primal` does not vary over, as JAX does it."""
    more = tuple(sorted(varying_axes(gradient) - varying_axes(primal)))
    return jax.lax.psum(gradient, more) if more else gradient


def devices_of_the_compiler():
    """How many devices the compiler may split an array over: all, or those on axes that `shard_map` leaves to it."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.manual_axes:
        return max(jax.device_count(), mesh.size)  # a program may be compiled for more devices than are here
    return math.prod(size for name, size in mesh.shape.items() if name not in mesh.manual_axes)


def explicitly_split(tree):
    """Whether the placement of any array of the tree is a part of its type: it lies on a mesh with explicit axes."""
    return any(_explicit_mesh(x) is not None for x in jax.tree.leaves(tree))


def _explicit_mesh(x):
    mesh = getattr(getattr(jax.typeof(x), "sharding", None), "mesh", None)
    return mesh if getattr(mesh, "explicit_axes", ()) else None


def placement(x):
    """The PartitionSpec of an array, with an entry for each of its axes. Without explicit axes it names none."""
    spec = jax.typeof(x).sharding.spec if explicitly_split(x) else ()
    return PartitionSpec(*spec, *[None] * (jnp.ndim(x) - len(spec)))


def compiler_placed(function, result, *operands):
    """`function(*operands)`, inside of which the compiler places what is computed. `result`: where the results lie."""
    meshes = [mesh for x in jax.tree.leaves(operands) if (mesh := _explicit_mesh(x)) is not None]
    if not meshes:
        return function(*operands)
    result = jax.tree.map(lambda spec: NamedSharding(meshes[0], spec), result)
    axes = meshes[0].explicit_axes  # inside `shard_map` others are manual, and stay so
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=result)(*operands)
