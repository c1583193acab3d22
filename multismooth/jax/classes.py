"""The classes of a call: all of them on this device, or split over mesh axes, inside `jax.shard_map`.

Split classes need no formulas of their own. `plan`, `reduction` and `spec` are written in an array namespace, and
`namespace` makes one in which a sum, a mean, a maximum or a look-up along the class axis is that of all devices. Arrays
with a class axis hold this device's classes. K, and with it ε′ and 1/K, is always that of all devices.

The loss and its sums do not vary over the axes that split the classes. JAX then transposes every sum of devices to the
right thing, but only where `shard_map` checks what varies (its default): see `refuse_unchecked`.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from multismooth import backend, spec
from multismooth import plan as plans
from multismooth.jax import kernel
from multismooth.jax.namespace import XP, deposit, pick
from multismooth.namespace import Namespace


def total(problem, settings):
    """The loss of a call."""
    whole, xp = of_all_devices(problem, settings)
    return backend.total(whole, settings, xp, lambda axis, _, plan: elements(settings, problem.logits, plan))


def terms(problem, settings):
    """The Terms of a call."""
    whole, xp = of_all_devices(problem, settings)
    return backend.terms(whole, settings, xp, problem.logits)


def plan_of(problem, settings):
    """The plan of a call; its rows are those of this device's classes."""
    whole, xp = of_all_devices(problem, settings)
    return plans.plan_of(whole, settings, xp)


def elements(settings, logits, plan):
    """The losses per element."""
    if settings.axis_name:
        return _elements(settings.axis_name, settings.axis, logits, plan)
    return kernel.elements(settings.axis, logits, plan)


def elements_and_gradient(settings, logits, plan):
    """(the losses per element, the gradient of their sum)."""
    if settings.axis_name:
        return _losses_and_gradient(settings.axis_name, settings.axis, logits, plan)
    return kernel.elements(settings.axis, logits, plan), kernel.gradient(logits, plan, settings.axis)


def summed(settings, value):
    """The sum of the devices' values over the axes that split the classes."""
    return jax.lax.psum(value, settings.axis_name) if settings.axis_name else value


def of_all_devices(problem, settings):
    """(the problem with logits that are only a shape, of all classes; the namespace that its plan is made in).

    Arguments with an entry for each class become those of this device's classes.
    """
    if not settings.axis_name:
        return problem, XP
    z, axis = problem.logits, settings.axis
    size, xp = z.shape[axis], namespace(settings.axis_name, z, axis)
    shape = [n * xp.shards if k == axis else n for k, n in enumerate(z.shape)]

    def own(value):
        return value if spec.rank(value) != 1 else jax.lax.dynamic_slice_in_dim(value, xp.start, size)

    return problem._replace(
        logits=jnp.broadcast_to(jnp.zeros((), z.dtype), shape),
        weight=own(problem.weight),
        prior=own(problem.prior),
        class_mask=own(problem.class_mask),
    ), xp


def namespace(names, z, axis):
    """`XP` for logits z whose class axis is split over the mesh axes `names`, and for vectors of these classes."""
    size, ndim, shards = z.shape[axis], z.ndim, jax.lax.psum(1, names)
    start = jax.lax.axis_index(names) * size

    def over_devices(x):
        return jax.lax.psum(x, names)

    def sum(x, axis=None, **options):
        """Over the classes, or over the elements where no axis is named."""
        part = jnp.sum(x, axis=axis, **options)
        return part if axis is None else over_devices(part)

    def mean(x, axis=0):
        return over_devices(jnp.sum(x, axis=axis)) / (x.shape[axis] * shards)

    def max(x, axis):
        return jax.lax.pmax(jax.lax.stop_gradient(jnp.max(x, axis=axis)), names)  # pmax has no derivative

    def min(x, axis):
        return -max(-x, axis)

    def argmax(x, axis):
        index = start + jnp.argmax(x, axis=axis)
        is_largest = jnp.max(x, axis=axis) == max(x, axis)
        return jax.lax.pmin(jnp.where(is_largest, index, shards * size), names)

    def own_pick(x, index, axis):
        if x.dtype == bool:
            return over_devices(pick(x.astype(jnp.int32), index - start, axis)) > 0
        return over_devices(pick(x, index - start, axis))

    def take(table, index, axis=0):
        place = index - start
        inside = (place >= 0) & (place < size)
        own = jnp.take(table, jnp.where(inside, place, 0), axis=axis)
        return over_devices(jnp.where(inside, own, jnp.zeros((), own.dtype)))

    def broadcast_to(x, shape):
        if len(shape) == ndim:
            shape = [size if k == axis % ndim else n for k, n in enumerate(shape)]
        return jnp.broadcast_to(x, shape)

    def arange(first, last, **options):
        return start + jnp.arange(size)

    return Namespace(
        XP, sum=sum, mean=mean, max=max, min=min, argmax=argmax, pick=own_pick, take=take, broadcast_to=broadcast_to,
        arange=arange, deposit=lambda x, index, values, axis: deposit(x, index - start, values, axis),
        start=start, shards=shards,
    )  # fmt: skip


# --- split classes: the text of `spec`, its gradient as a custom JVP -------------------------------------------------


def _prepared(names, axis, logits, plan):
    """(logits in the computing dtype, the plan with a number for 1/K, the namespace)."""
    z, xp = logits.astype(XP.float_of(logits)), namespace(names, logits, axis)
    uniform = 1 / (logits.shape[axis] * xp.shards)
    v = jnp.full([1] * z.ndim, uniform, z.dtype) if plan.v is None else plan.v
    return z, plan._replace(v=v), xp


def _plain(names, axis, logits, plan):
    z, plan, xp = _prepared(names, axis, logits, plan)
    return spec.losses(z, plan, axis, xp)


def _losses_and_gradient(names, axis, logits, plan):
    z, plan, xp = _prepared(names, axis, logits, plan)
    return spec.losses_and_gradient(z, plan, axis, xp)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _elements(names, axis, logits, plan):
    return _plain(names, axis, logits, plan)


@partial(_elements.defjvp, symbolic_zeros=True)
def _elements_jvp(names, axis, primals, tangents):
    if not all(isinstance(tangent, SymbolicZero) for tangent in jax.tree.leaves(tangents[1])):
        tangents = jax.tree.map(kernel.materialised, primals, tangents)
        return jax.jvp(partial(_plain, names, axis), primals, tangents)
    if isinstance(tangents[0], SymbolicZero):
        loss = _elements(names, axis, *primals)
        return loss, jnp.zeros_like(loss)
    loss, gradient = _losses_and_gradient(names, axis, *primals)
    return loss, jax.lax.psum(jnp.sum(gradient * tangents[0].astype(loss.dtype), axis=axis), names)
