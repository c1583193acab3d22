"""NumPy as an array-API namespace, with the additions that `multismooth.backend.Backend` lists."""

import numpy as np


class Namespace:
    """An array-API namespace with additions."""

    def __init__(self, base, **additions):
        self._base = base
        self.__dict__.update(vars(base) | additions)  # because a compiler traces each call of `__getattr__`

    def __getattr__(self, name):
        return getattr(self._base, name)


def astype(x, dtype, /, *, copy=True):
    """`np.astype` for NumPy scalars too. NumPy 2.0's refuses them, although its own reductions return them."""
    return np.asarray(x).astype(dtype, copy=copy)


def stop_gradient(x):
    """x itself, because NumPy has no autodiff."""
    return x


def pick(z, index, axis):
    return np.squeeze(np.take_along_axis(z, np.expand_dims(index, axis), axis=axis), axis=axis)


def highest(z, axis):
    """(the largest entry, its index: the first of equals)."""
    index = np.argmax(z, axis=axis)
    return pick(z, index, axis), index


def deposit(z, index, values, axis):
    """z with per-element values added at one index per element. It writes to z, which this library made."""
    z = z if z.flags.writeable else z.copy()
    index_column = np.expand_dims(index, axis)
    values = np.broadcast_to(values, index.shape)
    summed = np.take_along_axis(z, index_column, axis=axis) + np.expand_dims(values, axis)
    np.put_along_axis(z, index_column, summed, axis=axis)
    return z


def add_rows(table, index, rows):
    """The table with rows (or entries) added at indices of its first axis, some of which may be the same."""
    table = np.array(table)
    np.add.at(table, index, rows)
    return table


def softplus(z):
    return np.logaddexp(0, z)


def number(size, z):
    return size


def float_of(z):
    return np.float64 if z.dtype == np.float64 else np.float32


def constant(value, z):
    return np.asarray(value, dtype=float_of(z))


XP = Namespace(
    np,
    astype=astype,
    stop_gradient=stop_gradient,
    pick=pick,
    highest=highest,
    deposit=deposit,
    add_rows=add_rows,
    softplus=softplus,
    float_of=float_of,
    number=number,
    constant=constant,
)
