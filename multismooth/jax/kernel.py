"""Logits and a Plan of labels to per-element losses, with the gradient of `spec` as a custom JVP.

What XLA makes of the plain text on a CPU keeps up to two (N, K) temporaries: selects and shifted logits that two
reductions share. Here forward is three reductions over the logits themselves, and the gradient one elementwise pass,
so value and gradient need no buffer but the gradient. A JVP, not a VJP: forward mode and any order still work.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from multismooth import spec
from multismooth.jax.namespace import XP


def statistics(logits, plan, axis):
    """`spec.statistics` for labels. Σ v·(lse − z) is shifted by the label's logit, which no other pass shares."""
    z = logits.astype(XP.float_of(logits))
    if plan.mask is not None:
        z = jnp.where(plan.mask, z, -jnp.inf)
    own = jnp.take_along_axis(z, jnp.expand_dims(plan.labels, axis), axis)
    shift = jnp.where(jnp.isfinite(own), own, 0.0)
    lse = jax.nn.logsumexp(z, axis=axis)
    if plan.v is None:
        away = jnp.mean(z - shift, axis=axis)
    else:
        away = jnp.sum(jnp.where(plan.v == 0, 0.0, plan.v * (z - shift)), axis=axis)
    smooth = plan.v_sum * (lse - jnp.squeeze(shift, axis)) - away
    found = lse, lse - jnp.squeeze(own, axis), smooth
    return found if plan.alive is None else tuple(jnp.where(plan.alive, x, 0.0) for x in found)


def gradient(logits, plan, axis):
    """`spec.gradient`, with dead elements silenced last: a select on the logits would be a second pass over them."""
    everyone = plan._replace(alive=None)
    lse = jax.nn.logsumexp(spec.quiet(logits, everyone, axis, XP), axis=axis)
    g = spec.gradient(logits, lse, everyone, axis, XP)
    return g if plan.alive is None else jnp.where(spec.wide(plan.alive, axis, XP), g, 0.0)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def elements(axis, logits, plan):
    """Per-element losses; plain where the targets are soft, whose (N, K) rows are there anyway."""
    found = statistics(logits, plan, axis) if plan.u is None else spec.statistics(logits, plan, axis, XP)
    return spec.elements(*found, plan, XP)


@partial(elements.defjvp, symbolic_zeros=True)
def _elements_jvp(axis, primals, tangents):
    logits, plan = primals
    moving, still = tangents[0], jax.tree.leaves(tangents[1])
    if not all(isinstance(tangent, SymbolicZero) for tangent in still):
        return jax.jvp(partial(_plain, axis), primals, jax.tree.map(materialised, primals, tangents))
    loss = elements(axis, logits, plan)
    if isinstance(moving, SymbolicZero):
        return loss, jnp.zeros_like(loss)
    return loss, jnp.sum(gradient(logits, plan, axis) * moving.astype(loss.dtype), axis=axis)


def _plain(axis, logits, plan):
    return spec.elements(*spec.statistics(logits, plan, axis, XP), plan, XP)


def materialised(primal, tangent):
    """A symbolic zero as the zeros that `jax.jvp` takes."""
    if not isinstance(tangent, SymbolicZero):
        return tangent
    floating = jnp.issubdtype(jnp.result_type(primal), jnp.floating)
    return jnp.zeros_like(primal) if floating else np.zeros(jnp.shape(primal), jax.dtypes.float0)
