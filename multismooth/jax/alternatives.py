"""The losses beside smoothing in JAX: the text of `alternatives` by `blocks`, its gradient as a custom JVP."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from multismooth.alternatives.added import empty
from multismooth.alternatives.focal import only_label
from multismooth.jax import kernel
from multismooth.jax.blocks import evaluate
from multismooth.jax.namespace import XP


class Static(NamedTuple):
    """The class axis, and what is known of a plan before JAX makes arrays of its numbers."""

    axis: int
    unsmoothed: bool
    empty: bool

    def known(self, plan):
        """The plan with the numbers that are known."""
        plan = plan._replace(b=0.0) if self.unsmoothed else plan
        return plan._replace(a=0.0) if self.empty else plan


def elements(axis, logits, plan, alternative):
    """The losses per element."""
    return _elements(Static(axis, only_label(plan), empty(plan)), logits, plan, alternative)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _elements(static, logits, plan, alternative):
    return evaluate("losses", logits, static.known(plan), alternative, static.axis, XP)


@partial(_elements.defjvp, symbolic_zeros=True)
def _elements_jvp(static, primals, tangents):
    logits, plan, alternative = primals
    if not all(isinstance(tangent, SymbolicZero) for tangent in jax.tree.leaves(tangents[1:])):
        return jax.jvp(partial(_plain, static), primals, jax.tree.map(kernel.materialised, primals, tangents))
    if isinstance(tangents[0], SymbolicZero):
        loss = _elements(static, logits, plan, alternative)
        return loss, jnp.zeros_like(loss)
    z = logits.astype(XP.float_of(logits))  # once, because the derivative of every cast is rounded
    loss, gradient = evaluate("losses_and_gradient", z, static.known(plan), alternative, static.axis, XP)
    return loss, jnp.sum(gradient * tangents[0].astype(loss.dtype), axis=static.axis)


def _plain(static, logits, plan, alternative):
    return alternative.losses(logits, static.known(plan), static.axis, XP)
