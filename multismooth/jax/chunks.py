"""Rows in equal chunks, also where they are split over devices."""

import math

import jax.numpy as jnp

from multismooth import linear
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
