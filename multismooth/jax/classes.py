"""The classes of a call: all of them on this device, or split over mesh axes, inside `jax.shard_map`.

Split classes need no formulas of their own. The formulas look across classes through `Classes` (the plan) and through
the sums, maxima and look-ups of an array namespace (`spec`). Here these are of all devices. Labels and (K,) arguments
are those of all classes, on every device; logits, soft targets and rows of a mask are this device's part.

A loss does not vary over the axes that split its classes. From that, JAX knows how to transpose the sums over devices;
but only where `shard_map` checks what varies, which `axes_of` asks for.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from multismooth import plan as plans
from multismooth import spec
from multismooth.classes import Classes
from multismooth.errors import complain
from multismooth.jax import kernel
from multismooth.jax.namespace import XP, deposit, pick, take
from multismooth.jax.varying import summed_like, varying_axes
from multismooth.namespace import Namespace
from multismooth.reduction import factors, term_factors

# --- what a call computes, with all classes here or split -------------------------------------------------------------


def total(problem, settings):
    """The loss of a call."""
    loss = elements(settings, problem.logits, _scaled_plan(problem, settings, factors))
    return loss if settings.reduction == "none" else jnp.sum(loss)


def total_and_gradient(problem, settings):
    """(the loss of a call, the gradient of the sum of its losses)."""
    z = problem.logits
    loss, gradient = elements_and_gradient(settings, z, _scaled_plan(problem, settings, factors))
    gradient = summed_like(gradient, z).astype(z.dtype)
    return loss if settings.reduction == "none" else jnp.sum(loss), gradient


def terms(problem, settings):
    """The Terms of a call."""
    return terms_of(settings, problem.logits, _scaled_plan(problem, settings, term_factors))


def _scaled_plan(problem, settings, factors):
    plan = plan_of(problem, settings)
    return spec.scaled(plan, *factors([(plan, problem.logits)], problem, settings, XP))


def plan_of(problem, settings):
    """The plan of a call. Its rows are those of the classes here."""
    z, axis, names = problem.logits, settings.axis, settings.axis_name
    return plans.plan_of(problem, settings, XP, Shard(names, z, axis) if names else AllHere(z, axis, XP))


def elements(settings, logits, plan):
    """The losses per element."""
    if settings.axis_name:
        return _elements(settings.axis_name, settings.axis, logits, plan)
    return kernel.elements(settings.axis, logits, plan)


def elements_and_gradient(settings, logits, plan):
    """(the losses per element, the gradient of their sum)."""
    if settings.axis_name:
        return _computed(spec.losses_and_gradient, settings.axis_name, settings.axis, logits, plan)
    return kernel.losses_and_gradient(logits, plan, settings.axis)


def terms_of(settings, logits, plan):
    """The Terms, from a plan."""
    if settings.axis_name:
        return _computed(spec.terms, settings.axis_name, settings.axis, logits, plan)
    return spec.terms(logits, plan, settings.axis, XP)


def summed(settings, value):
    """The sum of the values of the devices that have the parts of the classes."""
    return jax.lax.psum(value, settings.axis_name) if settings.axis_name else value


# --- split classes ----------------------------------------------------------------------------------------------------


class AllHere(Classes):
    """All classes of the logits."""

    def rows_at(self, table, labels):
        """Without flattening the labels, which may be split over devices on any axis."""
        return take(table, labels)


class Shard(AllHere):
    """The classes of the logits z, which are a part of all: those of all devices along the mesh axes `names`."""

    def __init__(self, names, z, axis):
        super().__init__(z, axis, namespace(names, z.shape[axis]))
        self.count = self.xp.count

    def row(self, vector):
        """The row of this device's classes, from a (K,) vector of all."""
        return super().row(jax.lax.dynamic_slice_in_dim(vector, self.xp.first, self.z.shape[self.axis]))


def namespace(names, size):
    """`XP`, in which what is taken over classes is taken over those of all devices, of which each has `size`.

    first, count: this device's first class, and the number of all.
    """
    first, count = jnp.asarray(jax.lax.axis_index(names), dtype=int) * size, size * jax.lax.psum(1, names)

    def over_devices(function):
        def of_all(x, axis, **options):
            return jax.lax.psum(function(x, axis=axis, **options), names)

        return of_all

    def max(x, axis):
        return jax.lax.pmax(jax.lax.stop_gradient(jnp.max(x, axis=axis)), names)  # pmax has no derivative

    def highest(x, axis):
        """The largest entry and its class, the first of equals. NaN is the largest."""
        peak, own = max(x, axis), jnp.max(x, axis=axis)
        candidate = XP.where((own == peak) | jnp.isnan(own), first + jnp.argmax(x, axis=axis), count)
        return peak, jax.lax.pmin(candidate, names)

    def pick_of_all(x, index, axis):
        own = pick(x, index - first, axis)  # nothing where another device has the class
        return jax.lax.psum(own.astype(jnp.int32), names) > 0 if own.dtype == bool else jax.lax.psum(own, names)

    return Namespace(
        XP,
        first=first,
        count=count,
        sum=over_devices(jnp.sum),
        max=max,
        min=lambda x, axis: -max(-x, axis),
        highest=highest,
        argmax=lambda x, axis: highest(x, axis)[1],
        pick=pick_of_all,
        deposit=lambda x, index, values, axis: deposit(x, index - first, values, axis),
    )


def _computed(formula, names, axis, logits, plan):
    """A formula of `spec` for a part of the classes."""
    z = logits.astype(XP.float_of(logits))  # once, because the derivative of every cast is rounded
    xp = namespace(names, z.shape[axis])
    if plan.v is None:
        plan = plan._replace(v=jnp.full([1] * z.ndim, 1 / xp.count, z.dtype))
    return formula(z, plan, axis, xp)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _elements(names, axis, logits, plan):
    return _computed(spec.losses, names, axis, logits, plan)


@partial(_elements.defjvp, symbolic_zeros=True)
def _elements_jvp(names, axis, primals, tangents):
    if not all(isinstance(tangent, SymbolicZero) for tangent in jax.tree.leaves(tangents[1])):
        tangents = jax.tree.map(kernel.materialised, primals, tangents)
        return jax.jvp(partial(_computed, spec.losses, names, axis), primals, tangents)
    if isinstance(tangents[0], SymbolicZero):
        loss = _elements(names, axis, *primals)
        return loss, jnp.zeros_like(loss)
    loss, gradient = _computed(spec.losses_and_gradient, names, axis, *primals)
    return loss, jax.lax.psum(jnp.sum(gradient * tangents[0].astype(loss.dtype), axis=axis), names)


# --- checks -----------------------------------------------------------------------------------------------------------


def axes_of(axis_name):
    """The mesh axes that split the classes, as a tuple. They must be axes of a `shard_map` that checks what varies."""
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    if not isinstance(names, (tuple, list)) or not names or not all(isinstance(name, str) for name in names):
        expected = "the name of a mesh axis, or a tuple of names"
        raise complain("axis_name", expected, repr(axis_name), "None is for classes that are not split.")
    names = tuple(names)
    try:
        varying = varying_axes(jax.lax.axis_index(names))
    except NameError as error:
        remedy = "Call it inside jax.shard_map; under jit, arrays that are split need no axis_name."
        raise complain("axis_name", "axes of the surrounding shard_map", repr(axis_name), remedy) from error
    if not varying.issuperset(names):
        raise complain(
            "axis_name",
            "axes of a shard_map with check_vma=True",
            f"{axis_name!r} of one without, or of pmap or vmap",
            "Leave check_vma at its default: without it, JAX would multiply gradients by the number of devices.",
        )
    return names


def check_split(names, parts, wholes):
    """Refuse arguments that do not lie as the mesh axes `names` say.

    parts, wholes: {argument: array or None}, of which each device along these axes has a part, or all.
    """
    for argument, array in parts.items():
        if array is not None and (missing := sorted(set(names) - varying_axes(array))):
            got = f"the same on all devices along {', '.join(map(repr, missing))}"
            remedy = "Split it by its PartitionSpec in in_specs, or name other axes."
            raise complain(argument, f"a part of the classes on each device along {names}", got, remedy)
    for argument, array in wholes.items():
        if also := sorted(varying_axes(array).intersection(names)):
            got = f"a part, split over {', '.join(map(repr, also))}"
            remedy = (
                "Labels, (K,) arrays and numbers of an element are passed whole: its PartitionSpec names no such axis."
            )
            raise complain(argument, f"the same on all devices along {names}", got, remedy)
    if spec.rank(wholes.get("prior")) == 2:
        remedy = "Pass a (K,) prior, or leave the placement to jit, without axis_name."
        raise complain("prior", "shape (K,) where classes are split", "(K, K)", remedy)
