"""From logits and a Plan of labels to the losses per element, with the gradient of `spec` as a custom JVP.

On a CPU, XLA keeps up to two (N, K) temporaries for the plain text of `spec`: selects, and shifted logits that two
reductions share. Here the reductions (max, Σ z) read the logits themselves. The one exponential is summed, and becomes
the gradient in place. Value and gradient then need no (N, K) buffer besides the gradient. Page faults are most of the
time, so a temporary costs as much as everything else (2048 × 32000: 1.3–1.5 of the time of Optax's integer loss with
one temporary, 1.0 without).

On a GPU or TPU, XLA fuses whole passes, which a gather, a scatter or a condition ends. There the label's entry is found
by comparing every class, and the smoothing term is a sum of differences. Value and gradient read the logits three times
and write the gradient once (8 bytes per logit in bfloat16 in XLA's code for an H200; 24 with the CPU's text, and 4 of
temporaries).

It is a JVP and not a VJP, so that forward mode and derivatives of any order still work.
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from multismooth import spec
from multismooth.jax.blocks import Loss, evaluate
from multismooth.jax.namespace import XP, at_last
from multismooth.jax.varying import devices_of_the_compiler, explicitly_split, vary_over, varying_axes

# Where |Σ v·z| is more than so many times the smoothing term, a common offset of the logits cost float32 its digits.
MAX_CANCELLATION = 4.0

GATHERING_PLATFORM = "cpu"


@cache
def along(function, axis):
    """The function for this class axis. JAX traces the same function once for the same shapes, and keeps that."""
    return partial(function, axis=axis)


def by_platform(on_cpu, elsewhere, axis):
    """The function of the two that suits the platform. XLA compiles that one alone, but JAX traces both.

    Arrays that may be split over devices never take the CPU's, whose gather would move them, and whose condition would
    be one more meeting of all devices.
    """
    variants = {GATHERING_PLATFORM: along(on_cpu, axis), "default": along(elsewhere, axis)}

    def call(*operands):
        if devices_of_the_compiler() > 1 or explicitly_split(operands):
            return variants["default"](*operands)
        return jax.lax.platform_dependent(*operands, **variants)

    return call


def weighted_sum(z, v, axis):
    """Σ v·z with 0·inf = 0. Where v is uniform, XLA reduces z itself."""
    if v is None:
        return jnp.sum(z, axis=axis) / z.shape[axis]
    return jnp.sum(XP.where(v == 0, 0.0, v * z), axis=axis)


@jax.custom_jvp
def exponentials(z, peak, active):
    """exp(z − peak). Its derivative is 0 at inactive elements, which may hold NaN and which second derivatives reach.

    The values there stay as they are: to make them finite would take a second (N, K) buffer.
    """
    return jnp.exp(z - peak)


@exponentials.defjvp
def _exponentials_jvp(primals, tangents):
    z, peak, active = primals
    e = exponentials(z, peak, active)
    return e, (e if active is None else XP.where(active, e, 0.0)) * tangents[0]  # `peak` is a constant


def masked_logits(logits, mask):
    """The logits in the dtype that is computed in, with absent classes at −inf."""
    z = logits.astype(XP.float_of(logits))
    return z if mask is None else XP.where(mask, z, -jnp.inf)


def statistics(logits, plan, axis):
    """((lse or None, nll, smooth), e = exp(z − peak), Σ e) for labels. At inactive elements they are 0, 0, 0, any, 1.

    lse is None where only a z-loss would need it.
    """
    z = masked_logits(logits, plan.mask)
    peak = jax.lax.stop_gradient(jnp.max(z, axis=axis))
    peak = XP.where(jnp.isfinite(peak), peak, 0.0)
    e = exponentials(z, spec.wide(peak, axis, XP), spec.wide(plan.active, axis, XP))
    total = jnp.sum(e, axis=axis)
    total = total if plan.active is None else XP.where(plan.active, total, 1.0)
    log_total = jnp.log(total)
    two_sums = by_platform(_from_logits, _from_differences, axis)
    z_y, smooth = two_sums(logits, plan.mask, plan.labels, plan.v, peak, plan.v_sum, log_total)
    lse = None if plan.z_loss is None else log_total + peak
    sums = (lse, log_total + (peak - z_y), smooth)
    return tuple(spec.zero_unless(plan.active, x, z, XP) for x in sums), e, total


def _from_logits(logits, mask, labels, v, peak, v_sum, log_total, *, axis):
    """The label's logit, and the smoothing term from a sum of the logits themselves, unless that costs digits.

    A gather is made where the classes are last. On another axis its derivative would be a scatter whose constants XLA
    folds for seconds while it compiles.
    """
    z = masked_logits(logits, mask)
    v_z = weighted_sum(z, v, axis)
    smooth = v_sum * (log_total + peak) - v_z
    cancelled = jnp.any(~(jnp.abs(v_z) <= MAX_CANCELLATION * smooth))
    # An operand of `cond` is a buffer: z would be one more (N, K) where it is not the caller's own logits.
    operands = smooth, logits, mask, v, peak, v_sum, log_total
    smooth = jax.lax.cond(cancelled, along(_smooth_from_differences, axis), _known, *operands)
    return at_last(z, labels) if axis == z.ndim - 1 else XP.pick(z, labels, axis), smooth


def _from_differences(logits, mask, labels, *others, axis):
    """The label's logit by a comparison with every class, and the smoothing term. On a CPU it is one more pass each."""
    smooth = _smooth_from_differences(None, logits, mask, *others, axis=axis)
    return XP.pick(masked_logits(logits, mask), labels, axis), smooth


def _known(smooth, *_):
    return smooth


def _smooth_from_differences(_, logits, mask, v, peak, v_sum, log_total, *, axis):
    """The smoothing term from z − peak, which a common offset does not change."""
    return v_sum * log_total - weighted_sum(masked_logits(logits, mask) - spec.wide(peak, axis, XP), v, axis)


def gradient_map(sums, e, total, plan, axis):
    """The gradient as a linear map on tangents, t ↦ Σ gradient·t.

    JAX transposes it. The upstream gradient is then multiplied into the factors per element, so that only one pass
    over `e` (N, K) remains. A gradient that is scaled later takes two passes. The label's entry is found by comparison,
    which is a part of that pass; a gather's transpose is a scatter, which is not (2048 × 32000 on a CPU: equal times).
    """
    height = plan.a + (plan.b if plan.v is None else plan.b * plan.v_sum)
    if plan.z_loss is not None:
        height = height + 2 * plan.z_loss * sums[0]
    if plan.active is not None:  # inactive elements may hold NaN
        e, height = XP.where(spec.wide(plan.active, axis, XP), e, 0.0), XP.where(plan.active, height, 0.0)
    e_factor = height / total

    def gradient_times(t):
        v_t = jnp.mean(t, axis=axis) if plan.v is None else jnp.sum(plan.v * t, axis=axis)
        return jnp.sum(e * t, axis=axis) * e_factor - plan.b * v_t - plan.a * XP.pick(t, plan.labels, axis)

    return gradient_times


def losses_and_gradient(logits, plan, axis):
    """`spec.losses_and_gradient`."""
    z = logits.astype(XP.float_of(logits))  # once, because the derivative of every cast is rounded
    if plan.softcap is not None:
        return evaluate("losses_and_gradient", z, plan, Loss(), axis, XP)
    if plan.u is not None:
        return spec.losses_and_gradient(z, plan, axis, XP)
    sums, e, total = statistics(logits, plan, axis)
    loss = spec.elements(*sums, plan, XP)
    ones = vary_over(jnp.ones_like(loss), varying_axes(loss))
    return loss, jax.linear_transpose(gradient_map(sums, e, total, plan, axis), e)(ones)[0]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def elements(axis, logits, plan):
    """The losses per element. Soft targets take the plain text of `spec`: their (N, K) rows exist anyway.

    So does a soft cap, by blocks of rows: each reduction would keep or compute anew what tanh gives.
    """
    if plan.softcap is not None:
        return evaluate("losses", logits, plan, Loss(), axis, XP)
    if plan.u is not None:
        return _plain(axis, logits, plan)
    return spec.elements(*statistics(logits, plan, axis)[0], plan, XP)


@partial(elements.defjvp, symbolic_zeros=True)
def _elements_jvp(axis, primals, tangents):
    logits, plan = primals
    logits_tangent, plan_tangents = tangents[0], jax.tree.leaves(tangents[1])
    if not all(isinstance(tangent, SymbolicZero) for tangent in plan_tangents):
        return jax.jvp(partial(_plain, axis), primals, jax.tree.map(materialised, primals, tangents))
    if isinstance(logits_tangent, SymbolicZero):
        loss = elements(axis, logits, plan)
        return loss, jnp.zeros_like(loss)
    if plan.softcap is not None or plan.u is not None:
        loss, gradient = losses_and_gradient(logits, plan, axis)
        return loss, jnp.sum(gradient * logits_tangent.astype(loss.dtype), axis=axis)
    sums, e, total = statistics(logits, plan, axis)
    loss = spec.elements(*sums, plan, XP)
    return loss, gradient_map(sums, e, total, plan, axis)(logits_tangent.astype(loss.dtype))


def _plain(axis, logits, plan):
    return spec.losses(logits, plan, axis, XP)


def materialised(primal, tangent):
    """A symbolic zero as the array of zeros that `jax.jvp` takes."""
    if not isinstance(tangent, SymbolicZero):
        return tangent
    floating = jnp.issubdtype(jnp.result_type(primal), jnp.floating)
    return jnp.zeros_like(primal) if floating else np.zeros(jnp.shape(primal), jax.dtypes.float0)
