"""NumPy backend: the text of `spec` on NumPy arrays, with the gradient in closed form. Lists are accepted too.

>>> import multismooth.numpy as ms
>>> round(float(ms.loss([[2.0, 0.5, -1.0]], [0], label_smoothing=0.1)), 6)
0.391311
"""

import numpy as np

from multismooth import linear, spec
from multismooth.backend import Backend, Namespace
from multismooth.errors import complain
from multismooth.functions import Functions
from multismooth.reduction import reduced_plan


def logsumexp(z, axis):
    """log Σ exp z, shifted by the largest entry so that nothing overflows."""
    largest = np.max(z, axis=axis, keepdims=True)
    largest = np.where(np.isinf(largest), 0, largest)
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(z - largest), axis=axis)) + np.squeeze(largest, axis=axis)


def pick(z, index, axis):
    return np.squeeze(np.take_along_axis(z, np.expand_dims(index, axis), axis=axis), axis=axis)


def deposit(z, index, values, axis):
    """z with per-element values added at one index per element; z is one of our own arrays and may be written to."""
    z = z if z.flags.writeable else z.copy()
    place = np.expand_dims(index, axis)
    values = np.broadcast_to(values, index.shape)
    np.put_along_axis(z, place, np.take_along_axis(z, place, axis=axis) + np.expand_dims(values, axis), axis=axis)
    return z


def float_of(z):
    return np.float64 if z.dtype == np.float64 else np.float32


def constant(value, z):
    return np.asarray(value, dtype=float_of(z))


# −inf and NaN logits are legal where a mask or an ignored label says that they mean nothing.
quietly = np.errstate(invalid="ignore", divide="ignore")

XP = Namespace(np, logsumexp=logsumexp, pick=pick, deposit=deposit, float_of=float_of, constant=constant)


class NumpyBackend(Backend):
    name = "numpy"
    xp = XP

    def is_array(self, value):
        return isinstance(value, (np.ndarray, np.generic))

    def array(self, value, like=None):
        return np.asarray(value)

    def kind(self, array):
        kind = array.dtype.kind
        return {"i": "integer", "u": "integer", "f": "floating", "b": "boolean"}.get(kind, "other")

    def values(self, array, validate):
        return array

    def first_row(self, z, axis, validate):
        return np.moveaxis(z, axis, -1).reshape(-1, z.shape[axis])[0] if z.size and z.strides[axis] else None

    def template(self, shape, dtype, like):
        return np.broadcast_to(np.zeros((), dtype=dtype or np.float64), shape)

    @quietly
    def loss(self, problem, settings):
        return super().loss(problem, settings)

    @quietly
    def terms(self, problem, settings):
        return super().terms(problem, settings)

    @quietly
    def smooth_targets(self, problem, settings):
        return super().smooth_targets(problem, settings)

    @quietly
    def loss_and_grad(self, problem, settings, out=None):
        z, axis = problem.logits, settings.axis
        if out is not None and (not isinstance(out, np.ndarray) or out.shape != z.shape or out.dtype != z.dtype):
            expected = f"an array of shape {z.shape} and dtype {z.dtype}"
            got = f"{type(out).__name__} {getattr(out, 'shape', '')} {getattr(out, 'dtype', '')}"
            raise complain("out", expected, got, "")
        plan = reduced_plan(problem, settings, XP)
        lse, nll, smooth = spec.statistics(z, plan, axis, XP)
        loss = spec.elements(lse, nll, smooth, plan, XP)
        gradient = spec.gradient(z, lse, plan, axis, XP)
        loss = loss if settings.reduction == "none" else np.sum(loss)
        if out is None:
            return loss, gradient.astype(z.dtype, copy=False)
        out[...] = gradient
        return loss, out

    @quietly
    def linear_loss(self, hidden, classifier, bias, chunk_rows, problem, settings):
        return linear.forward(hidden, classifier, bias, chunk_rows, problem, settings, XP)

    @quietly
    def linear_loss_and_grad(self, hidden, classifier, bias, chunk_rows, problem, settings):
        return linear.forward_and_gradient(hidden, classifier, bias, chunk_rows, problem, settings, XP)


_functions = Functions(NumpyBackend())
loss = _functions.loss
terms = _functions.terms
loss_and_grad = _functions.loss_and_grad
smooth_targets = _functions.smooth_targets
linear_loss = _functions.linear_loss
linear_loss_and_grad = _functions.linear_loss_and_grad
binary_loss = _functions.binary_loss
