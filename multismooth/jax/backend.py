"""How JAX arrays are made, looked at and evaluated for `multismooth.api.functions`.

Every evaluation is one jitted call, so that nothing of size N×K is made besides the gradient. ε, weights and all
other arrays and numbers are traced: a schedule does not recompile.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from multismooth import backend, binary
from multismooth.errors import complain
from multismooth.jax import kernel, linear
from multismooth.jax.namespace import XP


def on_cpu(array):
    """Whether NumPy can look at the array without a copy."""
    return all(device.platform == "cpu" for device in array.devices())


def readable(array):
    """NumPy values that NumPy can compute with: it knows no bfloat16."""
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


PLAIN = linear.Product()


class JaxBackend(backend.Backend):
    name = "jax"
    xp = XP

    def __init__(self, product=PLAIN):
        """`product`: how a linear head's features meet its classifier."""
        self.product = product

    def is_array(self, value):
        return isinstance(value, (jax.Array, jax.core.Tracer))

    def array(self, value, like=None):
        """Integers become JAX's own signed ones; what does not fit stays out of range instead of wrapping."""
        if isinstance(value, jax.ShapeDtypeStruct):
            return value
        if not self.is_array(value):
            value = np.asarray(value)
        if not jnp.issubdtype(value.dtype, jnp.integer):
            return value if self.kind(value) == "other" else jnp.asarray(value)
        integer, kind = self.widest(value), value.dtype.kind
        if value.dtype.itemsize < integer.itemsize or value.dtype == integer:
            return jnp.asarray(value, dtype=integer)
        xp, limits = (jnp if self.is_array(value) else np), np.iinfo(integer)
        low = limits.min if kind == "i" else 0
        return jnp.asarray(xp.clip(value, low, limits.max), dtype=integer)

    def widest(self, array):
        return jax.dtypes.canonicalize_dtype(np.int64)

    def traced(self, array):
        return isinstance(array, jax.core.Tracer)

    def kind(self, array):
        if jnp.issubdtype(array.dtype, jnp.floating):
            return "floating"
        if jnp.issubdtype(array.dtype, jnp.integer):
            return "integer"
        return "boolean" if array.dtype == bool else "other"

    def values(self, array, validate):
        if isinstance(array, jax.core.Tracer) or not array.is_fully_addressable or not (validate or on_cpu(array)):
            return None
        return readable(np.asarray(array))

    def first_row(self, z, axis, validate):
        # Computed logits arrive asynchronously; waiting for them here would stall the caller's pipeline.
        if (
            not isinstance(z, jax.Array)
            or isinstance(z, jax.core.Tracer)
            or z.size == 0
            or not z.is_fully_addressable
            or not (validate or (on_cpu(z) and z.is_ready()))
        ):
            return None
        part = z.addressable_shards[0].data
        if part.shape[axis] != z.shape[axis]:  # the classes are split: a part of a row says nothing
            return None
        place = tuple(slice(None) if k == axis else 0 for k in range(z.ndim))
        return readable(np.asarray(part)[place] if on_cpu(part) else np.asarray(part[place]))

    def template(self, shape, dtype, like):
        return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype or float))

    def loss(self, problem, settings):
        return _loss(problem, settings)

    def terms(self, problem, settings):
        return _terms(problem, settings)

    def loss_and_grad(self, problem, settings, out=None):
        if out is not None:
            raise complain("out", "None in JAX, whose arrays are immutable", type(out).__name__, "Use the result.")
        return _loss_and_grad(problem, settings)

    def smooth_targets(self, problem, settings):
        shape, dtype = problem.logits.shape, problem.logits.dtype
        return _smooth_targets(problem._replace(logits=None), settings, shape, dtype)

    def binary_loss(self, problem, reduction):
        return _binary_loss(problem, reduction)

    def linear_loss(self, hidden, classifier, bias, chunk_rows, problem, settings):
        call = linear.Call(chunk_rows, settings, self.product)
        return linear.loss(call, hidden, classifier, bias, problem._replace(logits=None))

    def linear_loss_and_grad(self, hidden, classifier, bias, chunk_rows, problem, settings):
        call = linear.Call(chunk_rows, settings, self.product)
        return linear.loss_and_grad(call, hidden, classifier, bias, problem._replace(logits=None))

    def smoothing_correction(self, hidden, classifier, bias, problem, settings):
        return _smoothing_correction(hidden, classifier, bias, problem._replace(logits=None), settings)


@partial(jax.jit, static_argnums=1)
def _loss(problem, settings):
    return backend.total(problem, settings, XP, kernel.elements)


@partial(jax.jit, static_argnums=1)
def _terms(problem, settings):
    return backend.terms(problem, settings, XP)


@partial(jax.jit, static_argnums=1)
def _loss_and_grad(problem, settings):
    def summed(logits):
        loss = backend.total(problem._replace(logits=logits), settings, XP, kernel.elements)
        return jnp.sum(loss), loss

    gradient, loss = jax.grad(summed, has_aux=True)(problem.logits)
    return loss, gradient


@partial(jax.jit, static_argnums=(1, 2, 3))
def _smooth_targets(problem, settings, shape, dtype):
    problem = problem._replace(logits=jnp.zeros(shape, dtype))
    return backend.Backend.smooth_targets(JaxBackend(), problem, settings)


@partial(jax.jit, static_argnums=4)
def _smoothing_correction(hidden, classifier, bias, problem, settings):
    problem = problem._replace(logits=linear.template(hidden, classifier, settings))
    return backend.Backend.smoothing_correction(JaxBackend(), hidden, classifier, bias, problem, settings)


@partial(jax.jit, static_argnums=1)
def _binary_loss(problem, reduction):
    return binary.loss(problem, reduction, XP)
