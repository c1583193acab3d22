"""How JAX arrays are made, inspected and evaluated for `multismooth.api.functions`.

Every evaluation is one jitted call, so that the gradient is the only new array of size N×K. ε, weights and all other
arrays and numbers are traced, so that a schedule does not recompile.
"""

from functools import partial
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np

from multismooth import alternatives, backend, binary
from multismooth.api import argument_checks
from multismooth.errors import complain
from multismooth.jax import alternatives as fast
from multismooth.jax import classes, linear
from multismooth.jax.namespace import XP
from multismooth.jax.options import OPTIONS
from multismooth.jax.rows import split_rows
from multismooth.problem import Call
from multismooth.reduction import here
from multismooth.spec import rank


def on_cpu(array):
    """Whether NumPy can read the array without a copy."""
    return all(device.platform == "cpu" for device in array.devices())


def on_one_cpu(array):
    """Whether an array, as all arrays of its kind of call, lies on one device, whose memory NumPy can read."""
    device = getattr(array, "device", None)  # a tracer has none
    return isinstance(device, jax.Device) and device.platform == "cpu"


def in_parts(array):
    """Whether no device has all of the array."""
    return len(array.devices()) > 1 and not array.is_fully_replicated


def readable(array):
    """The same values in a dtype that NumPy can compute with: bfloat16 becomes float32."""
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


class JaxBackend(backend.Backend):
    name = "jax"
    xp = XP
    options = OPTIONS
    types = MappingProxyType(
        {
            "Scores": "jax.Array | ndarray",
            "Labels": "Array",
            "Result": "jax.Array",
            "Arrays": "jax.Array",
            "Loss": "jax.Array",
        }
    )

    def __init__(self, product=linear.DEFAULT_PRODUCT):
        """`product`: how a linear head multiplies its features by its classifier."""
        self.product = product

    def is_array(self, value):
        return isinstance(value, (jax.Array, jax.core.Tracer))

    def array(self, value, like=None):
        """Integers become JAX's widest signed ones. Those that do not fit are clipped: none may wrap to a class."""
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
        if not validate and in_parts(array) and self.kind(array) != "integer":  # labels are few, and worth an error
            return None
        return readable(np.asarray(array))

    def first_row(self, z, axis, validate):
        first = argument_checks.first_element(z.ndim, axis)
        # Logits may still be computing. To wait for them here would stall the caller's pipeline.
        if (
            not isinstance(z, jax.Array)
            or isinstance(z, jax.core.Tracer)
            or z.size == 0
            or not z.is_fully_addressable
            or not (validate or (on_cpu(z) and z.is_ready()))
        ):
            return None
        part = z.addressable_shards[0].data
        if part.shape[axis] != z.shape[axis]:  # the classes are split over devices, and a part of a row says nothing
            return None
        return readable(np.asarray(part)[first] if on_cpu(part) else np.asarray(part[first]))

    def view(self, array):
        if not on_one_cpu(array):
            return (self._view,)
        kind = array.dtype.kind
        return (partial(np.asarray, dtype=np.int64 if kind in "iu" else None if kind in "bf" else np.float32),)

    def _view(self, array):
        values = self.values(array, None)
        if values is None:
            raise TypeError("an array that is not on this host's CPU")
        return values.astype(np.int64) if values.dtype.kind in "iu" else values

    def row_view(self, z, axis):
        if not on_one_cpu(z):
            return (lambda z: self.first_row(z, axis, None),)
        first, dtype = argument_checks.first_element(z.ndim, axis), z.dtype if z.dtype.kind == "f" else np.float32
        return (lambda z: np.asarray(z)[first].astype(dtype, copy=False) if z.is_ready() else None,)

    def template(self, shape, dtype, like):
        return jax.ShapeDtypeStruct(tuple(shape), jax.dtypes.canonicalize_dtype(dtype or float))

    def class_axes(self, axis_name):
        names = classes.axes_of(axis_name)
        return names, jax.lax.psum(1, names)

    def check_split(self, names, problem, soft):
        rows = {"logits": problem.logits} if self.is_array(problem.logits) else {}
        each = {name: value for name, value in problem._asdict().items() if name not in ("logits", "targets")}
        (rows if soft else each)["targets"] = problem.targets
        if rank(problem.class_mask) > 1:  # its rows may be the same for all parts of the classes
            del each["class_mask"]
        classes.check_split(names, rows, each)

    def loss(self, call):
        return _loss(call.problem, call.settings)

    def terms(self, call):
        return _terms(call.problem, call.settings)

    def loss_and_grad(self, call, out=None):
        if out is not None:
            raise complain("out", "None in JAX, whose arrays are immutable", type(out).__name__, "Use the result.")
        return _loss_and_grad(call.problem, call.settings)

    def smooth_targets(self, call):
        shape, dtype = call.problem.logits.shape, call.problem.logits.dtype
        return _smooth_targets(call.problem._replace(logits=None), call.settings, shape, dtype)

    def binary_loss(self, call):
        return _binary_loss(*call)

    def sum_over(self, group, axis_name):
        return backend.summing(self.name, group, axis_name, sum_over_axes=jax.lax.psum)

    def normalizer(self, call, summed):
        z = call.problem.logits
        arguments = call.problem._replace(logits=None), call.settings, z.shape, z.dtype
        # jit would compile anew for each function; a sum over mesh axes is traced by the caller anyway
        return _normalizer(*arguments) if summed is here else _normalizer.__wrapped__(*arguments, summed)

    def linear_loss(self, *head):
        return linear.loss(*self._head(*head))

    def linear_loss_and_grad(self, *head):
        return linear.loss_and_grad(*self._head(*head))

    def linear_terms(self, *head):
        return linear.terms(*self._head(*head))

    def _head(self, hidden, classifier, bias, chunk_rows, call):
        if call.settings.axis_name:
            classes.check_split(call.settings.axis_name, {"classifier": classifier, "bias": bias}, {})
        rows = split_rows(hidden, classifier, call.settings.axis)
        if rows and chunk_rows:  # which counts the rows of all devices
            chunk_rows = -(-chunk_rows // rows.devices)
        static = linear.Static(chunk_rows, call.settings, self.product, rows)
        return static, hidden, classifier, bias, call.problem._replace(logits=None)

    def alternative(self, call, alternative):
        zeros = {
            "label_smoothing": call.problem.label_smoothing,
            "hard_weight": getattr(alternative, "hard_weight", None),
        }
        known = frozenset(name for name, value in zeros.items() if isinstance(value, float) and value == 0.0)
        return _alternative(call.problem, call.settings, alternative, known)

    def smoothing_correction(self, hidden, classifier, bias, call):
        return _smoothing_correction(hidden, classifier, bias, call.problem._replace(logits=None), call.settings)


@partial(jax.jit, static_argnums=1)
def _loss(problem, settings):
    return classes.total(problem, settings)


@partial(jax.jit, static_argnums=(1, 3))
def _alternative(problem, settings, alternative, zeros):
    """`zeros`: which numbers are known to be 0, and are numbers that the formulas can read."""
    if "label_smoothing" in zeros:
        problem = problem._replace(label_smoothing=0.0)
    if "hard_weight" in zeros:
        alternative = alternative._replace(hard_weight=0.0)
    return alternatives.total(problem, settings, alternative, XP, fast.elements)


@partial(jax.jit, static_argnums=1)
def _terms(problem, settings):
    return classes.terms(problem, settings)


@partial(jax.jit, static_argnums=1)
def _loss_and_grad(problem, settings):
    return classes.total_and_gradient(problem, settings)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _normalizer(problem, settings, shape, dtype, summed=here):
    problem = problem._replace(logits=jnp.zeros(shape, dtype))
    return backend.normalizer(problem, settings, XP, summed)


@partial(jax.jit, static_argnums=(1, 2, 3))
def _smooth_targets(problem, settings, shape, dtype):
    problem = problem._replace(logits=jnp.zeros(shape, dtype))
    return backend.Backend.smooth_targets(JaxBackend(), Call(problem, settings))


@partial(jax.jit, static_argnums=4)
def _smoothing_correction(hidden, classifier, bias, problem, settings):
    problem = problem._replace(logits=linear.template(hidden, classifier, settings))
    return backend.Backend.smoothing_correction(JaxBackend(), hidden, classifier, bias, Call(problem, settings))


@partial(jax.jit, static_argnums=2)
def _binary_loss(problem, pos_weight, settings):
    return binary.loss(binary.BinaryCall(problem, pos_weight, settings), XP)
