"""A loop over equal chunks of rows, also where these are split over devices."""

import math

import jax
import jax.numpy as jnp

from multismooth import linear, spec
from multismooth.jax.namespace import XP
from multismooth.jax.varying import devices_of_the_compiler

# Rows per chunk where `jax.export` leaves a size open. The last chunk is padded, with up to so many rows in vain.
ROWS_PER_CHUNK_OF_OPEN_SIZE = 128


def size_of(rows, classes, chunk_rows):
    """Rows per chunk. It is a number, even where `jax.export` leaves the size of the batch or vocabulary open."""
    if isinstance(rows, int) and isinstance(classes, int):
        size = min(linear.chunk_size(rows, classes, chunk_rows), max(rows, 1))
        return shared(rows, size) if devices_of_the_compiler() > 1 else size
    within_workspace = max(1, linear.WORKSPACE // classes) if isinstance(classes, int) else ROWS_PER_CHUNK_OF_OPEN_SIZE
    size = chunk_rows or min(ROWS_PER_CHUNK_OF_OPEN_SIZE, within_workspace)
    return min(size, max(rows, 1)) if isinstance(rows, int) else size


def even(rows, size):
    """Whether chunks of this size leave no rest. Otherwise what is cut in chunks is copied, without the rest."""
    return isinstance(rows, int) and rows % size == 0


def shared(rows, size):
    """A size near `size` that leaves no rest of the rows, and of which each device has an equal part.

    To cut a rest from rows that lie split over devices moves all of them. It is `size` itself where none is near.
    """
    step = math.gcd(rows, devices_of_the_compiler())
    found = [k for k in range(step, max(size, step) + 1, step) if rows % k == 0]
    return found[-1] if found and 2 * found[-1] >= size else size


def stacked(array, size):
    """Rows (N, …) as (chunks, size, …).

    Where rows may be split over devices, every device has a part of each chunk. A chunk of neighbouring rows would lie
    on one device, and XLA would send all rows to all devices.
    """
    if devices_of_the_compiler() == 1:
        return array.reshape(-1, size, *array.shape[1:])
    return jnp.swapaxes(array.reshape(size, -1, *array.shape[1:]), 0, 1)


def unstacked(array):
    """The rows (N, …) of `stacked` chunks."""
    array = array if devices_of_the_compiler() == 1 else jnp.swapaxes(array, 0, 1)
    return array.reshape(-1, *array.shape[2:])


def padded(hidden, problem, size):
    """Whole chunks where the number of rows is open: the last row, with weight 0, fills up the last chunk."""
    rows = hidden.shape[0]
    index = jnp.arange((rows + size - 1) // size * size)
    existing = jnp.minimum(index, rows - 1)

    def pad(array):
        return array if spec.rank(array) == 0 else array[existing]

    s = jnp.ones((), problem.logits.dtype) if problem.sample_weight is None else pad(problem.sample_weight)
    return pad(hidden), problem._replace(
        targets=pad(problem.targets),
        label_smoothing=pad(problem.label_smoothing),
        sample_weight=XP.where(index < rows, s, jnp.zeros_like(s)),
    )


def folded(body, carry, hidden, problem, settings, shape, size):
    """Fold `body(carry, (hidden, Problem) of a chunk)` over all rows: equal chunks by lax.scan, then the rest.

    Returns the carry and the outputs per row, in the shape of the elements.
    """
    rows, mask = hidden.shape[0], problem.class_mask
    cut_mask = spec.rank(mask) == 2 and even(rows, size) and mask.shape[0] == rows
    values = (hidden, problem.targets, problem.label_smoothing, problem.sample_weight, mask, jnp.arange(rows))
    is_per_row = [cut_mask if value is mask else spec.rank(value) > 0 for value in values]

    def chunk(carry, arrays):
        arrays = iter(arrays)
        chunk_hidden, targets, epsilon, s, chunk_mask, index = (
            next(arrays) if per_row else value for value, per_row in zip(values, is_per_row, strict=True)
        )
        if spec.rank(mask) > 1 and not cut_mask:
            chunk_mask = None if rows == 0 else linear.mask_rows(mask, index, shape, XP)
        chunk_shape = chunk_hidden.shape[0], problem.logits.shape[1]
        chunk_problem = problem._replace(
            logits=jnp.broadcast_to(jnp.zeros((), problem.logits.dtype), chunk_shape),
            targets=targets,
            label_smoothing=epsilon,
            sample_weight=s,
            class_mask=chunk_mask,
        )
        return body(carry, (chunk_hidden, chunk_problem))

    arrays = [value for value, per_row in zip(values, is_per_row, strict=True) if per_row]
    if rows == 0:
        carry, out = chunk(carry, arrays)
    else:
        full = rows // size * size
        whole = arrays if full == rows else [array[:full] for array in arrays]
        carry, out = jax.lax.scan(chunk, carry, [stacked(array, size) for array in whole])
        out = jax.tree.map(unstacked, out)
        if full != rows:
            carry, rest = chunk(carry, [array[full:] for array in arrays])
            out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, rest)
    count = math.prod(shape)  # without the rows of `padded`
    return carry, jax.tree.map(lambda x: x[:count].reshape(*shape, *x.shape[1:]), out)
