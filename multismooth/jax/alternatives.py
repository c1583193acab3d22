"""The losses beside smoothing in JAX: the text of `alternatives`, its gradient as a custom JVP, a block at a time.

XLA keeps a temporary of the logits' size for each pass of the text that it does not fuse, and on a CPU to map that
memory costs more than to compute in it: at (4096, 1000) the margin takes 53 ms of processor time in one piece, and 6
in blocks of 16 rows, whose temporaries stay in cache.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from multismooth import plan as plans
from multismooth.alternatives.added import empty
from multismooth.alternatives.focal import only_label
from multismooth.jax import kernel
from multismooth.jax.namespace import XP

ROWS = (*plans.ROWS, "teacher")  # the fields with a row of classes
MIN_LOGITS_BLOCKS = 2**18  # smaller temporaries are not mapped anew
LOGITS_PER_BLOCK = 2**14


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
    return evaluate("losses", logits, static.known(plan), alternative, static.axis)


@partial(_elements.defjvp, symbolic_zeros=True)
def _elements_jvp(static, primals, tangents):
    logits, plan, alternative = primals
    if not all(isinstance(tangent, SymbolicZero) for tangent in jax.tree.leaves(tangents[1:])):
        return jax.jvp(partial(_plain, static), primals, jax.tree.map(kernel.materialised, primals, tangents))
    if isinstance(tangents[0], SymbolicZero):
        loss = _elements(static, logits, plan, alternative)
        return loss, jnp.zeros_like(loss)
    z = logits.astype(XP.float_of(logits))  # once, because the derivative of every cast is rounded
    loss, gradient = evaluate("losses_and_gradient", z, static.known(plan), alternative, static.axis)
    return loss, jnp.sum(gradient * tangents[0].astype(loss.dtype), axis=static.axis)


def _plain(static, logits, plan, alternative):
    return alternative.losses(logits, static.known(plan), static.axis, XP)


def evaluate(method, logits, plan, alternative, axis):
    """A method of the alternative, in blocks of rows where that is faster."""
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    if not one_cpu or axis != logits.ndim - 1 or logits.size < MIN_LOGITS_BLOCKS:
        return getattr(alternative, method)(logits, plan, axis, XP)
    classes = logits.shape[-1]
    (plan, of_plan), (alternative, own) = (separated(record, logits) for record in (plan, alternative))

    def one(row):
        z, of_plan, own = row
        return getattr(alternative._replace(**own), method)(z, plan._replace(**of_plan), 0, XP)

    rows = jnp.reshape(logits, (-1, classes)), of_plan, own
    found = jax.lax.map(one, rows, batch_size=max(1, LOGITS_PER_BLOCK // classes))
    if method == "losses":
        return jnp.reshape(found, logits.shape[:-1])
    return jnp.reshape(found[0], logits.shape[:-1]), jnp.reshape(found[1], logits.shape)


def separated(record, logits):
    """(the record with what all elements share, its arrays with an entry or a row of classes for each element)."""
    (*shape, classes), each = logits.shape, {}
    for name, value in zip(record._fields, record, strict=True):
        if value is None or jnp.ndim(value) == 0:
            continue
        if name not in ROWS:
            each[name] = jnp.reshape(jnp.broadcast_to(value, shape), (-1,))
        elif jnp.size(value) != classes:
            each[name] = jnp.reshape(jnp.broadcast_to(value, logits.shape), (-1, classes))
        else:
            record = record._replace(**{name: jnp.reshape(value, (classes,))})
    return record, each
