"""jax.numpy with the additions that `multismooth.backend.Backend` lists."""

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


def at(index, size, axis):
    """True at one index per element. It is a comparison, because XLA fuses that into the pass that reads the logits."""
    index = jnp.expand_dims(index, axis)
    shape = [1] * index.ndim
    shape[axis] = size
    return jnp.arange(size, dtype=index.dtype).reshape(shape) == index


def pick(z, index, axis):
    chosen = jnp.where(at(index, z.shape[axis], axis), z, jnp.zeros((), z.dtype))
    return jnp.any(chosen, axis=axis) if z.dtype == bool else jnp.sum(chosen, axis=axis)


def highest(z, axis):
    return jnp.max(z, axis=axis), jnp.argmax(z, axis=axis)


def deposit(z, index, values, axis):
    values = values if values.ndim == 0 else jnp.expand_dims(values, axis)
    return z + jnp.where(at(index, z.shape[axis], axis), values, jnp.zeros((), z.dtype))


def take(table, index, axis=0):
    """`jnp.take` along the first axis. On a mesh with explicit axes a gather must be told where its result lies."""
    if not explicitly_split((table, index)):
        return jnp.take(table, index, axis=axis)
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
    stop_gradient=jax.lax.stop_gradient,
    pick=pick,
    take=take,
    highest=highest,
    deposit=deposit,
    add_rows=add_rows,
    softplus=jax.nn.softplus,
)
