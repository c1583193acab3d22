"""Logits and a Plan of labels to per-element losses, with the gradient of `spec` as a custom JVP.

What XLA makes of the plain text on a CPU keeps up to two (N, K) temporaries: selects and shifted logits that two
reductions share. Here the logits themselves are reduced (max, Σ z), the one exponential is both summed and turned into
the gradient in place, and value and gradient need no buffer but the gradient: page faults are most of the time, so a
temporary costs as much as everything else (2048 × 32000: 1.3–1.5 of Optax's integer loss with one, 1.0 without).
A JVP, not a VJP: forward mode and any order still work.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from multismooth import spec
from multismooth.jax.namespace import XP
from multismooth.jax.varying import axes_of, spread

DROWNED = 4.0  # |Σ v·z| beyond so many times the smoothing term: float32 has spent its digits on a common offset


def weighted_sum(z, v, axis):
    """Σ v·z with 0·inf = 0; the sum itself is what XLA reduces where v is uniform."""
    if v is None:
        return jnp.sum(z, axis=axis, keepdims=True) / z.shape[axis]
    return jnp.sum(jnp.where(v == 0, 0.0, v * z), axis=axis, keepdims=True)


@jax.custom_jvp
def powers(z, top, active):
    """exp(z − top), with a derivative of 0 at dead elements, which may hold NaN: second derivatives meet it. Making
    them finite here would be a second (N, K) buffer."""
    return jnp.exp(z - top)


@powers.defjvp
def _powers_jvp(primals, tangents):
    z, top, active = primals
    e = powers(z, top, active)
    return e, (e if active is None else jnp.where(active, e, 0.0)) * tangents[0]  # `top` is a constant


def parts(logits, plan, axis):
    """((lse, nll, smooth) with the class axis kept, exp(z − max), its sum): `spec.statistics` for labels."""
    z = logits.astype(XP.float_of(logits))
    if plan.mask is not None:
        z = jnp.where(plan.mask, z, -jnp.inf)
    own = jnp.take_along_axis(z, jnp.expand_dims(plan.labels, axis), axis)
    top = jnp.max(z, axis=axis, keepdims=True)
    top = jax.lax.stop_gradient(jnp.where(jnp.isfinite(top), top, 0.0))
    active = None if plan.active is None else jnp.expand_dims(plan.active, axis)
    e = powers(z, top, active)
    total = jnp.sum(e, axis=axis, keepdims=True)
    total = total if active is None else jnp.where(active, total, 1.0)
    log_total, v_sum = jnp.log(total), spec.wide(plan.v_sum, axis, XP)
    away = weighted_sum(z, plan.v, axis)
    smooth = v_sum * (log_total + top) - away
    drowned = jnp.any(~(jnp.abs(away) <= DROWNED * smooth))
    shifted = partial(_shifted, axis=axis)
    smooth = jax.lax.cond(drowned, shifted, lambda *_: smooth, z, plan.v, top, v_sum, log_total)
    return (log_total + top, log_total + (top - own), smooth), e, total


def _shifted(z, v, top, v_sum, log_total, axis):
    """The smoothing term from differences: one more pass, where a common offset of the logits would swallow them."""
    return v_sum * log_total - weighted_sum(z - top, v, axis)


def statistics(found, plan, axis):
    """`spec.statistics` from `parts`, dead elements at 0."""
    found = tuple(jnp.squeeze(x, axis) for x in found)
    return found if plan.active is None else tuple(jnp.where(plan.active, x, 0.0) for x in found)


def at_label(z, labels, axis):
    """The label's entry. Gathered where the classes are last, which transposes into a scatter in place; compared
    elsewhere: there XLA folds the constants of the scatter for seconds at compile time."""
    if axis != z.ndim - 1:
        return XP.pick(z, labels, axis)
    return jnp.squeeze(jnp.take_along_axis(z, jnp.expand_dims(labels, axis), axis), axis)


def slope(found, e, total, plan, axis):
    """`spec.gradient` as what it does to a tangent, Σ gradient·t: transposed, the upstream gradient meets the small
    factors before they meet e, and one pass over e is all that is left (a gradient that is scaled later is two)."""
    height = spec.wide(plan.a * plan.u_sum + plan.b * plan.v_sum, axis, XP)
    if plan.z_loss is not None:
        height = height + 2 * spec.wide(plan.z_loss, axis, XP) * found[0]
    if plan.active is not None:  # dead elements may hold NaN
        active = spec.wide(plan.active, axis, XP)
        e, height = jnp.where(active, e, 0.0), jnp.where(active, height, 0.0)
    factor = jnp.squeeze(height / total, axis)

    def along(t):
        flat = jnp.mean(t, axis=axis) if plan.v is None else jnp.sum(plan.v * t, axis=axis)
        return jnp.sum(e * t, axis=axis) * factor - plan.b * flat - plan.a * at_label(t, plan.labels, axis)

    return along


def gradient(logits, plan, axis):
    """`spec.gradient`."""
    if plan.u is not None:
        z = logits.astype(XP.float_of(logits))  # once: the derivative of every cast is rounded
        return spec.gradient(z, spec.statistics(z, plan, axis, XP), plan, axis, XP)
    found, e, total = parts(logits, plan, axis)
    along = slope(found, e, total, plan, axis)
    each = along(e)
    return jax.linear_transpose(along, e)(spread(jnp.ones_like(each), axes_of(each)))[0]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def elements(axis, logits, plan):
    """Per-element losses; plain where the targets are soft, whose (N, K) rows are there anyway."""
    if plan.u is not None:
        return _plain(axis, logits, plan)
    return spec.elements(*statistics(parts(logits, plan, axis)[0], plan, axis), plan, XP)


@partial(elements.defjvp, symbolic_zeros=True)
def _elements_jvp(axis, primals, tangents):
    logits, plan = primals
    moving, still = tangents[0], jax.tree.leaves(tangents[1])
    if not all(isinstance(tangent, SymbolicZero) for tangent in still):
        return jax.jvp(partial(_plain, axis), primals, jax.tree.map(materialised, primals, tangents))
    if isinstance(moving, SymbolicZero):
        loss = elements(axis, logits, plan)
        return loss, jnp.zeros_like(loss)
    if plan.u is not None:
        loss = _plain(axis, logits, plan)
        return loss, jnp.sum(gradient(logits, plan, axis) * moving.astype(loss.dtype), axis=axis)
    shared = parts(logits, plan, axis)
    loss = spec.elements(*statistics(shared[0], plan, axis), plan, XP)
    return loss, slope(*shared, plan, axis)(moving.astype(loss.dtype))


def _plain(axis, logits, plan):
    return spec.losses(logits, plan, axis, XP)


def materialised(primal, tangent):
    """A symbolic zero as the zeros that `jax.jvp` takes."""
    if not isinstance(tangent, SymbolicZero):
        return tangent
    floating = jnp.issubdtype(jnp.result_type(primal), jnp.floating)
    return jnp.zeros_like(primal) if floating else np.zeros(jnp.shape(primal), jax.dtypes.float0)
