"""JAX linear head and loss: a scan over chunks of rows, so that one chunk of logits exists at a time.

The derivative of a summed loss is formed while a chunk's logits exist (three matrix products) and enters JAX as a
custom JVP: a linear form in the tangents, which JAX transposes for reverse mode and differentiates again for higher
orders. Reduction "none", and derivatives with respect to targets, ε or weights, differentiate checkpointed chunks.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from multismooth import linear, spec
from multismooth.jax import kernel
from multismooth.jax.namespace import XP
from multismooth.reduction import factors


def template(hidden, classifier, settings):
    """The logits in shape and dtype; under jit their zeros are never made."""
    shape = list(hidden.shape)
    shape[settings.axis] = classifier.shape[0]
    return jnp.broadcast_to(jnp.zeros((), hidden.dtype), shape)


def _rows(hidden, classifier, chunk_rows, problem, settings):
    """(hidden rows, Problem over rows, its settings, elements' shape, factors of the mean, rows per chunk)."""
    problem = problem._replace(logits=template(hidden, classifier, settings))
    hidden, problem, settings, shape = linear.flatten(hidden, problem, settings, XP)
    mask, (rows, classes) = problem.class_mask, problem.logits.shape
    if mask is not None and mask.ndim > 1:
        mask = jnp.broadcast_to(mask, (*shape, classes)).reshape(rows, classes)
    plan = spec.plan(problem._replace(class_mask=mask), settings, XP)  # under jit it costs nothing where no mean is
    mean = factors([(plan, problem.logits)], problem, settings, XP)
    size = min(linear.chunk_size(rows, classes, chunk_rows), max(rows, 1))
    return hidden, problem, settings, shape, mean, size


def _scan(body, carry, hidden, problem, settings, shape, size):
    """Fold `body(carry, (hidden, Problem) of a chunk)` over all rows: equal chunks by lax.scan, then the rest."""
    rows, mask = hidden.shape[0], problem.class_mask
    per_row = (hidden, problem.targets, problem.label_smoothing, problem.sample_weight, jnp.arange(rows))
    is_row = [spec.rank(array) > 0 for array in per_row]

    def chunk(carry, parts):
        parts = iter(parts)
        own, targets, epsilon, s, index = (
            next(parts) if cut else array for array, cut in zip(per_row, is_row, strict=True)
        )
        own_mask = mask
        if mask is not None and mask.ndim > 1:
            own_mask = linear.mask_rows(mask, index, shape, XP) if rows else None
        part = problem._replace(
            logits=None, targets=targets, label_smoothing=epsilon, sample_weight=s, class_mask=own_mask
        )
        return body(carry, (own, part))

    arrays = [array for array, cut in zip(per_row, is_row, strict=True) if cut]
    if rows == 0:
        return chunk(carry, arrays)
    full = rows // size * size
    stacked = [array[:full].reshape(-1, size, *array.shape[1:]) for array in arrays]
    carry, out = jax.lax.scan(chunk, carry, stacked)
    out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
    if full == rows:
        return carry, out
    carry, rest = chunk(carry, [array[full:] for array in arrays])
    return carry, jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, rest)


def _chunk(own, classifier, bias, part, settings, mean):
    """(logits, plan, features with dead rows silenced) of a chunk.

    An einsum, because a transpose would be hoisted out of the scan: a second classifier.
    """
    shape = jnp.broadcast_to(jnp.zeros((), own.dtype), (own.shape[0], classifier.shape[0]))
    plan = spec.scaled(spec.plan(part._replace(logits=shape), settings, XP), *mean)
    own = linear.quiet_rows(own, plan, XP)
    logits = jnp.einsum("nd,kd->nk", own, classifier)
    return logits if bias is None else logits + bias, plan, own


def _plain(call, hidden, classifier, bias, problem, checkpoint=True):
    """The loss with every chunk's logits made again by backward."""
    chunk_rows, settings = call
    rows, problem, row_settings, shape, mean, size = _rows(hidden, classifier, chunk_rows, problem, settings)

    def chunk_loss(own, classifier, bias, part):
        logits, plan, _ = _chunk(own, classifier, bias, part, row_settings, mean)
        return kernel.elements(1, logits, plan)

    if checkpoint:
        chunk_loss = jax.checkpoint(chunk_loss, prevent_cse=False)

    def body(total, chunk):
        own, part = chunk
        each = chunk_loss(own, classifier, bias, part)
        return (total, each) if settings.reduction == "none" else (total + jnp.sum(each), None)

    zero = jnp.zeros((), XP.float_of(hidden))
    total, each = _scan(body, zero, rows, problem, row_settings, shape, size)
    return each.reshape(shape) if settings.reduction == "none" else total


def _add_product(total, g, own):
    """total + gᵀ·own, a block of classes at a time and one after the other: no second (K, D) buffer."""

    def add(start, size, total):
        product = jax.lax.dynamic_slice_in_dim(g, start, size, axis=1).T @ own
        part = jax.lax.dynamic_slice_in_dim(total, start, size)
        return jax.lax.dynamic_update_slice_in_dim(total, part + product.astype(total.dtype), start, axis=0)

    full, rest = divmod(total.shape[0], linear.BLOCK)
    if full:
        total = jax.lax.fori_loop(0, full, lambda block, total: add(block * linear.BLOCK, linear.BLOCK, total), total)
    return add(full * linear.BLOCK, rest, total) if rest else total


def _gradients(call, hidden, classifier, bias, problem):
    """(loss, (∂hidden, ∂classifier, ∂bias)), each chunk's gradient formed while its logits exist."""
    chunk_rows, settings = call
    rows, problem, row_settings, shape, mean, size = _rows(hidden, classifier, chunk_rows, problem, settings)
    dtype = XP.float_of(hidden)

    def body(carry, chunk):
        total, d_classifier, d_bias = carry
        logits, plan, own = _chunk(chunk[0], classifier, bias, chunk[1], row_settings, mean)
        each, g = kernel.elements(1, logits, plan), kernel.gradient(logits, plan, 1)
        d_bias = None if bias is None else d_bias + jnp.sum(g, axis=0)
        g = g if own.dtype == jnp.float16 else g.astype(own.dtype)  # in float16 ε/(K·N) is 0
        d_classifier = _add_product(d_classifier, g, own)
        return (total + jnp.sum(each), d_classifier, d_bias), ((g @ classifier).astype(own.dtype), each)

    d_classifier = jnp.zeros(classifier.shape, classifier.dtype if settings.accumulate == "input" else dtype)
    start = (jnp.zeros((), dtype), d_classifier, None if bias is None else jnp.zeros(bias.shape, dtype))
    (total, d_classifier, d_bias), (d_hidden, each) = _scan(body, start, rows, problem, row_settings, shape, size)
    value = each.reshape(shape) if settings.reduction == "none" else total
    d_hidden = jnp.moveaxis(d_hidden.reshape(*shape, rows.shape[1]), -1, settings.axis)
    d_bias = None if bias is None else d_bias.astype(bias.dtype)
    return value, (d_hidden, d_classifier.astype(classifier.dtype), d_bias)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _summed(call, hidden, classifier, bias, problem):
    return _plain(call, hidden, classifier, bias, problem, checkpoint=False)


@partial(_summed.defjvp, symbolic_zeros=True)
def _summed_jvp(call, primals, tangents):
    moving = jax.tree.leaves(tangents[:3])
    if not all(isinstance(tangent, SymbolicZero) for tangent in jax.tree.leaves(tangents[3])):
        tangents = jax.tree.map(kernel.materialised, primals, tangents)
        return jax.jvp(partial(_plain, call), primals, tangents)
    value, gradients = _gradients(call, *primals)
    change = jnp.zeros_like(value)
    for gradient, tangent in zip(jax.tree.leaves(gradients), moving, strict=True):
        if not isinstance(tangent, SymbolicZero):
            change = change + jnp.sum(gradient.astype(value.dtype) * tangent.astype(value.dtype))
    return value, change


@partial(jax.jit, static_argnums=(3, 5))
def loss(hidden, classifier, bias, chunk_rows, problem, settings):
    evaluate = _plain if settings.reduction == "none" else _summed
    return evaluate((chunk_rows, settings), hidden, classifier, bias, problem)


@partial(jax.jit, static_argnums=(3, 5))
def loss_and_grad(hidden, classifier, bias, chunk_rows, problem, settings):
    return _gradients((chunk_rows, settings), hidden, classifier, bias, problem)
