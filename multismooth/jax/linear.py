"""JAX linear head and loss: a scan over chunks of rows, so that one chunk of logits exists at a time.

The derivative of a summed loss is formed while a chunk's logits exist (three matrix products) and enters JAX as a
custom JVP: a linear form in the tangents, which JAX transposes for reverse mode and differentiates again for higher
orders. Reduction "none", derivatives with respect to targets, ε or weights, and a `dot_general` of the caller's,
differentiate checkpointed chunks.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from multismooth import linear, spec
from multismooth.jax import kernel
from multismooth.jax.namespace import XP
from multismooth.jax.varying import axes_of, spread, typed_as
from multismooth.plan import plan_of
from multismooth.reduction import factors

OPEN_ROWS = 128  # rows per chunk where `jax.export` leaves a size open: up to so many are computed in vain


class Product(NamedTuple):
    """How features meet the classifier: arguments of `jax.lax.dot_general`, or a function in its place."""

    precision: Any = None
    preferred_element_type: Any = None
    dot_general: Any = None

    def __call__(self, rows, classifier):
        """(rows, K). An einsum, because a transpose would be hoisted out of the scan: a second classifier."""
        options = {"precision": self.precision}
        if self.preferred_element_type is not None:
            options["preferred_element_type"] = self.preferred_element_type
        if self.dot_general is None:
            return jnp.einsum("nd,kd->nk", rows, classifier, **options)
        return self.dot_general(rows, classifier.T, (((1,), (0,)), ((), ())), **options)


class Call(NamedTuple):
    """What of a call is no array."""

    chunk_rows: int | None
    settings: Any
    product: Product = Product()


def template(hidden, classifier, settings):
    """The logits in shape and dtype; under jit their zeros are never made."""
    shape = list(hidden.shape)
    shape[settings.axis] = classifier.shape[0]
    return jnp.broadcast_to(jnp.zeros((), hidden.dtype), shape)


def _logits(product, rows, classifier, bias):
    logits = product(rows, classifier)
    return logits if bias is None else logits + bias[None]


def _rows(call, hidden, classifier, bias, problem):
    """(hidden rows, Problem over rows, its settings, elements' shape, factors of the mean, rows per chunk)."""
    problem = problem._replace(logits=template(hidden, classifier, call.settings))
    hidden, problem, settings, shape = linear.flatten(hidden, problem, call.settings, XP)
    made = jax.eval_shape(partial(_logits, call.product), hidden, classifier, bias)
    problem = problem._replace(logits=jnp.broadcast_to(jnp.zeros((), XP.float_of(made)), made.shape))
    mask, (rows, classes) = problem.class_mask, made.shape
    if mask is not None and mask.ndim > 1:
        mask = jnp.broadcast_to(mask, (*shape, classes)).reshape(rows, classes)
    plan = plan_of(problem._replace(class_mask=mask), settings, XP)  # under jit it costs nothing where no mean is
    mean = factors([(plan, problem.logits)], problem, settings, XP)
    size = _chunk_size(rows, classes, call.chunk_rows)
    if not isinstance(rows, int):
        hidden, problem = _filled(hidden, problem, size)
    return hidden, problem, settings, shape, mean, size


def _chunk_size(rows, classes, chunk_rows):
    """Rows per chunk, a number also where the size of the batch or of the vocabulary is open."""
    if isinstance(rows, int) and isinstance(classes, int):
        return min(linear.chunk_size(rows, classes, chunk_rows), max(rows, 1))
    fitting = max(1, linear.WORKSPACE // classes) if isinstance(classes, int) else OPEN_ROWS
    size = chunk_rows or min(OPEN_ROWS, fitting)
    return min(size, max(rows, 1)) if isinstance(rows, int) else size


def _filled(hidden, problem, size):
    """Whole chunks where the number of rows is open: the last one is filled up with repeated rows of weight 0."""
    rows = hidden.shape[0]
    index = jnp.arange((rows + size - 1) // size * size)
    place = jnp.minimum(index, rows - 1)

    def fill(array):
        return array if spec.rank(array) == 0 else array[place]

    s = jnp.ones((), problem.logits.dtype) if problem.sample_weight is None else fill(problem.sample_weight)
    return fill(hidden), problem._replace(
        targets=fill(problem.targets),
        label_smoothing=fill(problem.label_smoothing),
        sample_weight=jnp.where(index < rows, s, jnp.zeros_like(s)),
    )


def _scan(body, carry, hidden, problem, settings, shape, size):
    """Fold `body(carry, (hidden, Problem) of a chunk)` over all rows: equal chunks by lax.scan, then the rest.

    Returns the carry and what there is of each row, in the elements' shape.
    """
    rows, mask = hidden.shape[0], problem.class_mask
    carry = spread(carry, axes_of((hidden, problem)))
    per_row = (hidden, problem.targets, problem.label_smoothing, problem.sample_weight, jnp.arange(rows))
    is_row = [spec.rank(array) > 0 for array in per_row]

    def chunk(carry, parts):
        parts = iter(parts)
        own, targets, epsilon, s, index = (
            next(parts) if cut else array for array, cut in zip(per_row, is_row, strict=True)
        )
        own_mask = mask
        if mask is not None and mask.ndim > 1:
            own_mask = None if rows == 0 else linear.mask_rows(mask, index, shape, XP)
        logits = jnp.broadcast_to(jnp.zeros((), problem.logits.dtype), (own.shape[0], problem.logits.shape[1]))
        part = problem._replace(
            logits=logits, targets=targets, label_smoothing=epsilon, sample_weight=s, class_mask=own_mask
        )
        return body(carry, (own, part))

    arrays = [array for array, cut in zip(per_row, is_row, strict=True) if cut]
    if rows == 0:
        carry, out = chunk(carry, arrays)
    else:
        full = rows // size * size
        stacked = [array[:full].reshape(-1, size, *array.shape[1:]) for array in arrays]
        carry, out = jax.lax.scan(chunk, carry, stacked)
        out = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
        if full != rows:
            carry, rest = chunk(carry, [array[full:] for array in arrays])
            out = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), out, rest)
    wanted = math.prod(shape)
    return carry, jax.tree.map(lambda x: x[:wanted].reshape(*shape, *x.shape[1:]), out)


def _chunk(call, own, classifier, bias, part, settings, mean):
    """(logits, plan, features with dead rows silenced) of a chunk."""
    plan = spec.scaled(plan_of(part, settings, XP), *mean)
    own = linear.masked_rows(own, plan, XP)
    return _logits(call.product, own, classifier, bias), plan, own


def _plain(call, hidden, classifier, bias, problem, checkpoint=True):
    """The loss with every chunk's logits made again by backward."""
    operands = hidden, classifier, bias, problem
    hidden, classifier, bias, problem = spread(operands, axes_of(operands))
    rows, problem, settings, shape, mean, size = _rows(call, hidden, classifier, bias, problem)

    def chunk_loss(own, classifier, bias, part):
        logits, plan, _ = _chunk(call, own, classifier, bias, part, settings, mean)
        return kernel.elements(1, logits, plan)

    if checkpoint:
        chunk_loss = jax.checkpoint(chunk_loss, prevent_cse=False)

    def body(total, chunk):
        own, part = chunk
        each = chunk_loss(own, classifier, bias, part)
        return (total, each) if settings.reduction == "none" else (total + jnp.sum(each), None)

    total, each = _scan(body, jnp.zeros((), problem.logits.dtype), rows, problem, settings, shape, size)
    return each if settings.reduction == "none" else total


def _add_product(total, g, own, precision):
    """total + gᵀ·own, a block of classes at a time and one after the other: no second (K, D) buffer."""

    def add(start, size, total):
        product = jnp.matmul(jax.lax.dynamic_slice_in_dim(g, start, size, axis=1).T, own, precision=precision)
        part = jax.lax.dynamic_slice_in_dim(total, start, size)
        return jax.lax.dynamic_update_slice_in_dim(total, part + product.astype(total.dtype), start, axis=0)

    classes = total.shape[0]
    full, rest = divmod(classes, linear.BLOCK) if isinstance(classes, int) else (0, classes)
    if full:
        total = jax.lax.fori_loop(0, full, lambda block, total: add(block * linear.BLOCK, linear.BLOCK, total), total)
    return total if rest == 0 else add(full * linear.BLOCK, rest, total)


def _gradients(call, hidden, classifier, bias, problem):
    """(loss, (∂hidden, ∂classifier, ∂bias)), each chunk's gradient formed while its logits exist.

    Gradients are in float32 until the upstream gradient arrives: most of a mean's are 0 in float16, and two factors
    would round twice.
    """
    operands = hidden, classifier, bias, problem
    hidden, classifier, bias, problem = spread(operands, axes_of(operands))
    rows, problem, settings, shape, mean, size = _rows(call, hidden, classifier, bias, problem)
    dtype, precision = problem.logits.dtype, call.product.precision

    def body(carry, chunk):
        total, d_classifier, d_bias = carry
        logits, plan, own = _chunk(call, chunk[0], classifier, bias, chunk[1], settings, mean)
        each, g = kernel.elements(1, logits, plan), kernel.gradient(logits, plan, 1)
        d_bias = None if bias is None else d_bias + jnp.sum(g, axis=0)
        g = g if own.dtype == jnp.float16 else g.astype(own.dtype)
        d_classifier = _add_product(d_classifier, g, own, precision)
        d_own = jnp.matmul(g, classifier, precision=precision, preferred_element_type=dtype)
        return (total + jnp.sum(each), d_classifier, d_bias), (d_own, each)

    d_classifier = jnp.zeros(classifier.shape, classifier.dtype if settings.accumulate == "input" else dtype)
    start = (jnp.zeros((), dtype), d_classifier, None if bias is None else jnp.zeros(bias.shape, dtype))
    (total, d_classifier, d_bias), (d_hidden, each) = _scan(body, start, rows, problem, settings, shape, size)
    value = each if settings.reduction == "none" else total
    return value, (jnp.moveaxis(d_hidden, -1, call.settings.axis), d_classifier, d_bias)


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


@partial(jax.jit, static_argnums=0)
def loss(call, hidden, classifier, bias, problem):
    evaluate = _plain if call.settings.reduction == "none" or call.product.dot_general else _summed
    return evaluate(call, hidden, classifier, bias, problem)


@partial(jax.jit, static_argnums=0)
def loss_and_grad(call, hidden, classifier, bias, problem):
    value, gradients = _gradients(call, hidden, classifier, bias, problem)
    given = hidden, classifier, bias
    return value, jax.tree.map(lambda gradient, of: typed_as(gradient.astype(of.dtype), of), gradients, given)
