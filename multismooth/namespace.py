"""Array-API namespaces with the additions that `multismooth.backend.Backend` lists; NumPy's own."""

import numpy as np


class Namespace:
    """An array-API namespace with additions."""

    def __init__(self, base, **additions):
        self._base = base
        self.__dict__.update(additions)

    def __getattr__(self, name):
        return getattr(self._base, name)


def astype(x, dtype, /, *, copy=True):
    """That of NumPy 2.0 refuses what its own reductions give, a number without axes."""
    return np.asarray(x).astype(dtype, copy=copy)


def stop_gradient(x):
    """NumPy differentiates nothing."""
    return x


def pick(z, index, axis):
    return np.squeeze(np.take_along_axis(z, np.expand_dims(index, axis), axis=axis), axis=axis)


def deposit(z, index, values, axis):
    """z with per-element values added at one index per element; z is one of our own arrays and may be written to."""
    z = z if z.flags.writeable else z.copy()
    place = np.expand_dims(index, axis)
    values = np.broadcast_to(values, index.shape)
    np.put_along_axis(z, place, np.take_along_axis(z, place, axis=axis) + np.expand_dims(values, axis), axis=axis)
    return z


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
    deposit=deposit,
    softplus=softplus,
    float_of=float_of,
    number=number,
    constant=constant,
)
