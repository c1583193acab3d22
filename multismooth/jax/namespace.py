"""jax.numpy with the additions that `multismooth.backend.Backend` lists.

Some functions of jax.numpy are a `jax.jit` of their own. In a program that is traced for a new shape, each of them is
traced and lowered as a function of its own, which takes longer than what it holds. `where`, `isinf`, `take` and
`at_last` are their one or two operations themselves.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from multismooth.jax.varying import explicitly_split
from multismooth.namespace import Namespace


def float_of(z):
    return jnp.float64 if z.dtype == jnp.float64 else jnp.float32


def number(size, z):
    return size if isinstance(size, int) else jnp.asarray(size, dtype=float_of(z))


def constant(value, z):
    """Numbers become NumPy arrays: `jax.debug_nans` would raise at a NaN in an array of JAX's own."""
    return (jnp if isinstance(value, jax.Array) else np).asarray(value, dtype=float_of(z))


def where(condition, x, y):
    """`jnp.where` for a boolean condition. Outside of a trace, and on meshes with explicit axes, it is JAX's own."""
    dtype, weak = jax.dtypes.result_type(x, y, return_weak_type_flag=True)
    if weak or not isinstance(condition, jax.core.Tracer) or explicitly_split((condition, x, y)):
        return jnp.where(condition, x, y)
    shape = jnp.broadcast_shapes(condition.shape, jnp.shape(x), jnp.shape(y))
    condition = condition if condition.ndim == 0 else jnp.broadcast_to(condition, shape)
    return jax.lax.select(condition, filled(x, shape, dtype), filled(y, shape, dtype))


def filled(value, shape, dtype):
    """A number or an array as an array of this shape and dtype."""
    if not isinstance(value, jax.Array) and jnp.ndim(value) == 0:
        return jax.lax.full(shape, value, dtype)
    return jnp.broadcast_to(jnp.astype(value, dtype), shape)


def isinf(x):
    return jax.lax.abs(x) == math.inf


def at(index, size, axis):
    """True at one index per element. It is a comparison, because XLA fuses that into the pass that reads the logits."""
    index = jnp.expand_dims(index, axis)
    shape = [1] * index.ndim
    shape[axis] = size
    return jax.lax.broadcasted_iota(index.dtype, shape, axis % index.ndim) == index


def pick(z, index, axis):
    chosen = where(at(index, z.shape[axis], axis), z, np.zeros((), z.dtype))
    return jnp.any(chosen, axis=axis) if z.dtype == bool else jnp.sum(chosen, axis=axis)


def highest(z, axis):
    return jnp.max(z, axis=axis), jnp.argmax(z, axis=axis)


def deposit(z, index, values, axis):
    values = values if values.ndim == 0 else jnp.expand_dims(values, axis)
    return z + where(at(index, z.shape[axis], axis), values, np.zeros((), z.dtype))


def gathered(z, index, sizes, *dimensions):
    """`jax.lax.gather` of slices of these sizes at indices that are in range, by `GatherDimensionNumbers`."""
    numbers = jax.lax.GatherDimensionNumbers(*dimensions)
    return jax.lax.gather(z, jnp.expand_dims(index, -1), numbers, sizes, mode="promise_in_bounds")


def at_last(z, index):
    """`pick` on the last axis, as a gather."""
    last, others = (z.ndim - 1,), tuple(range(z.ndim - 1))
    return gathered(z, index, (1,) * z.ndim, (), last, last, others, others)


def take(table, index, axis=0):
    """The rows of the table at indices of its first axis, all of which it has.

    On a mesh with explicit axes a gather must be told where its result lies.
    """
    if not explicitly_split((table, index)):
        columns = tuple(range(index.ndim, index.ndim + table.ndim - 1))
        return gathered(table, index, (1, *table.shape[1:]), columns, (0,), (0,))
    placement = jax.typeof(index).sharding
    table = jax.sharding.reshard(table, placement.update(spec=PartitionSpec(*[None] * table.ndim)))
    rows = PartitionSpec(*placement.spec, *[None] * (table.ndim - 1))
    return table.at[index].get(out_sharding=placement.update(spec=rows))


def add_rows(table, index, rows):
    return table.at[index].add(rows)


XP = Namespace(
    jnp,
    float_of=float_of,
    number=number,
    constant=constant,
    where=where,
    isinf=isinf,
    stop_gradient=jax.lax.stop_gradient,
    pick=pick,
    take=take,
    highest=highest,
    deposit=deposit,
    add_rows=add_rows,
    softplus=lambda z: jnp.logaddexp(z, 0.0),
)
