"""Formulas as written, a block of rows at a time.

XLA keeps a temporary of the logits' size for each pass of a formula that it does not fuse, and on a CPU to map that
memory costs more than to compute in it: at (4096, 1000) the margin takes 53 ms of processor time in one piece, and 6
in blocks of 16 rows, whose temporaries stay in cache.
"""

from collections import namedtuple

import jax
import jax.numpy as jnp

from multismooth import plan as plans
from multismooth import spec

ROWS = (*plans.ROWS, "teacher")  # the fields with a row of classes
MIN_LOGITS_BLOCKS = 2**18  # smaller temporaries are not mapped anew
LOGITS_PER_BLOCK = 2**14


class Loss(namedtuple("Loss", "")):
    """The loss of a plan itself, as `alternatives` describe theirs."""

    __slots__ = ()

    def losses(self, logits, plan, axis, xp):
        return spec.losses(logits, plan, axis, xp)

    def losses_and_gradient(self, logits, plan, axis, xp):
        return spec.losses_and_gradient(logits, plan, axis, xp)


def evaluate(method, logits, plan, alternative, axis, xp):
    """A method of the alternative, in blocks of rows where that is faster."""
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    large = isinstance(logits.size, int) and logits.size >= MIN_LOGITS_BLOCKS  # `jax.export` may leave a size open
    if not one_cpu or axis != logits.ndim - 1 or not large:
        return getattr(alternative, method)(logits, plan, axis, xp)
    classes = logits.shape[-1]
    (plan, of_plan), (alternative, own) = (separated(record, logits) for record in (plan, alternative))

    def one(row):
        z, of_plan, own = row
        return getattr(alternative._replace(**own), method)(z, plan._replace(**of_plan), 0, xp)

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
