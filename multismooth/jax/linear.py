"""JAX linear head and loss: a scan over chunks of rows, so that only one chunk of logits exists at a time.

The gradients of a summed loss are computed while a chunk's logits exist (three matrix products). They enter JAX as a
custom JVP, a linear map on tangents: JAX transposes it for reverse mode and differentiates it again for higher orders.

JAX differentiates checkpointed chunks instead for reduction "none", for derivatives with respect to targets, ε or
weights, and where the caller brings a `dot_general`.
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
from multismooth.jax.varying import summed_like, vary_over, varying_axes
from multismooth.plan import plan_of
from multismooth.reduction import factors, term_factors

# Rows per chunk where `jax.export` leaves a size open. The last chunk is padded, with up to so many rows in vain.
ROWS_PER_CHUNK_OF_OPEN_SIZE = 128


class Product(NamedTuple):
    """How features are multiplied by the classifier: arguments of `jax.lax.dot_general`, or a function in its place."""

    precision: Any = None
    preferred_element_type: Any = None
    dot_general: Any = None

    def __call__(self, rows, classifier):
        """(rows, K). An einsum, because XLA would hoist a transpose out of the scan, as a second classifier."""
        options = {"precision": self.precision}
        if self.preferred_element_type is not None:
            options["preferred_element_type"] = self.preferred_element_type
        if self.dot_general is None:
            return jnp.einsum("nd,kd->nk", rows, classifier, **options)
        return self.dot_general(rows, classifier.T, (((1,), (0,)), ((), ())), **options)


DEFAULT_PRODUCT = Product()


class Static(NamedTuple):
    """The arguments of a call that are not arrays; they are static for `jax.jit`."""

    chunk_rows: int | None
    settings: Any
    product: Product = DEFAULT_PRODUCT


def template(hidden, classifier, settings):
    """Zeros with the shape and dtype of the logits; under jit they are never made."""
    shape = list(hidden.shape)
    shape[settings.axis] = classifier.shape[0]
    return jnp.broadcast_to(jnp.zeros((), hidden.dtype), shape)


def _logits(product, rows, classifier, bias):
    logits = product(rows, classifier)
    return logits if bias is None else logits + bias[None]


def _flattened(static, hidden, classifier, bias, problem, factors=factors):
    """(hidden rows, Problem over rows, its Settings, shape of the elements, factors of all plans, rows per chunk)."""
    problem = problem._replace(logits=template(hidden, classifier, static.settings))
    hidden, problem, settings, shape = linear.flatten(hidden, problem, static.settings, XP)
    made = jax.eval_shape(partial(_logits, static.product), hidden, classifier, bias)
    problem = problem._replace(logits=jnp.broadcast_to(jnp.zeros((), XP.float_of(made)), made.shape))
    mask, (rows, classes) = problem.class_mask, made.shape
    if mask is not None and mask.ndim > 1:
        mask = jnp.broadcast_to(mask, (*shape, classes)).reshape(rows, classes)
    plan = plan_of(problem._replace(class_mask=mask), settings, XP)  # jit drops it where there is no mean
    mean = factors([(plan, problem.logits)], problem, settings, XP)
    size = _chunk_size(rows, classes, static.chunk_rows)
    if not isinstance(rows, int):
        hidden, problem = _padded(hidden, problem, size)
    return hidden, problem, settings, shape, mean, size


def _chunk_size(rows, classes, chunk_rows):
    """Rows per chunk. It is a number, even where `jax.export` leaves the size of the batch or vocabulary open."""
    if isinstance(rows, int) and isinstance(classes, int):
        return min(linear.chunk_size(rows, classes, chunk_rows), max(rows, 1))
    within_workspace = max(1, linear.WORKSPACE // classes) if isinstance(classes, int) else ROWS_PER_CHUNK_OF_OPEN_SIZE
    size = chunk_rows or min(ROWS_PER_CHUNK_OF_OPEN_SIZE, within_workspace)
    return min(size, max(rows, 1)) if isinstance(rows, int) else size


def _padded(hidden, problem, size):
    """Whole chunks where the number of rows is open: the last row, with weight 0, fills up the last chunk."""
    rows = hidden.shape[0]
    index = jnp.arange((rows + size - 1) // size * size)
    existing = jnp.minimum(index, rows - 1)

    def pad(array):
        return array if spec.rank(array) == 0 else array[existing]

    s = jnp.ones((), problem.logits.dtype) if problem.sample_weight is None else pad(problem.sample_weight)
    return pad(hidden), problem._replace(
        targets=pad(problem.targets),
        label_smoothing=pad(problem.label_smoothing),
        sample_weight=jnp.where(index < rows, s, jnp.zeros_like(s)),
    )


def _scan(body, carry, hidden, problem, settings, shape, size):
    """Fold `body(carry, (hidden, Problem) of a chunk)` over all rows: equal chunks by lax.scan, then the rest.

    Returns the carry and the outputs per row, in the shape of the elements.
    """
    rows, mask = hidden.shape[0], problem.class_mask
    carry = vary_over(carry, varying_axes((hidden, problem)))
    values = (hidden, problem.targets, problem.label_smoothing, problem.sample_weight, jnp.arange(rows))
    is_per_row = [spec.rank(value) > 0 for value in values]

    def chunk(carry, arrays):
        arrays = iter(arrays)
        chunk_hidden, targets, epsilon, s, index = (
            next(arrays) if per_row else value for value, per_row in zip(values, is_per_row, strict=True)
        )
        chunk_mask = mask
        if mask is not None and mask.ndim > 1:
            chunk_mask = None if rows == 0 else linear.mask_rows(mask, index, shape, XP)
        chunk_shape = chunk_hidden.shape[0], problem.logits.shape[1]
        chunk_problem = problem._replace(
            logits=jnp.broadcast_to(jnp.zeros((), problem.logits.dtype), chunk_shape),
            targets=targets,
            label_smoothing=epsilon,
            sample_weight=s,
            class_mask=chunk_mask,
        )
        return body(carry, (chunk_hidden, chunk_problem))

    arrays = [value for value, per_row in zip(values, is_per_row, strict=True) if per_row]
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
    count = math.prod(shape)  # without the rows of `_padded`
    return carry, jax.tree.map(lambda x: x[:count].reshape(*shape, *x.shape[1:]), out)


def _chunk(static, hidden, classifier, bias, problem, settings, mean):
    """(logits, plan, features with inactive rows at 0) of a chunk."""
    plan = spec.scaled(plan_of(problem, settings, XP), *mean)
    hidden = linear.masked_rows(hidden, plan, XP)
    return _logits(static.product, hidden, classifier, bias), plan, hidden


def _plain(static, hidden, classifier, bias, problem, checkpoint=True):
    """The loss, differentiated by JAX. With `checkpoint`, backward makes every chunk's logits again."""
    operands = hidden, classifier, bias, problem
    hidden, classifier, bias, problem = vary_over(operands, varying_axes(operands))
    rows, problem, settings, shape, mean, size = _flattened(static, hidden, classifier, bias, problem)

    def chunk_loss(chunk_hidden, classifier, bias, chunk_problem):
        logits, plan, _ = _chunk(static, chunk_hidden, classifier, bias, chunk_problem, settings, mean)
        return kernel.elements(1, logits, plan)

    if checkpoint:
        chunk_loss = jax.checkpoint(chunk_loss, prevent_cse=False)

    def body(total, chunk):
        chunk_hidden, chunk_problem = chunk
        each = chunk_loss(chunk_hidden, classifier, bias, chunk_problem)
        return (total, each) if settings.reduction == "none" else (total + jnp.sum(each), None)

    total, each = _scan(body, jnp.zeros((), problem.logits.dtype), rows, problem, settings, shape, size)
    return each if settings.reduction == "none" else total


@partial(jax.jit, static_argnums=0)
def terms(static, hidden, classifier, bias, problem):
    """The Terms, differentiated by JAX. Backward makes every chunk's logits again."""
    operands = hidden, classifier, bias, problem
    hidden, classifier, bias, problem = vary_over(operands, varying_axes(operands))
    flat = _flattened(static, hidden, classifier, bias, problem, term_factors)
    rows, problem, settings, shape, ratios, size = flat

    def chunk_terms(chunk_hidden, classifier, bias, chunk_problem):
        logits, plan, _ = _chunk(static, chunk_hidden, classifier, bias, chunk_problem, settings, ratios)
        return spec.terms(logits, plan, 1, XP)

    chunk_terms = jax.checkpoint(chunk_terms, prevent_cse=False)

    def body(carry, chunk):
        chunk_hidden, chunk_problem = chunk
        return carry, chunk_terms(chunk_hidden, classifier, bias, chunk_problem)

    return _scan(body, None, rows, problem, settings, shape, size)[1]


def _add_product(total, g, hidden, precision):
    """total + gᵀ·hidden, one block of classes after the other, so that there is no second (K, D) buffer."""

    def add(start, size, total):
        product = jnp.matmul(jax.lax.dynamic_slice_in_dim(g, start, size, axis=1).T, hidden, precision=precision)
        part = jax.lax.dynamic_slice_in_dim(total, start, size)
        return jax.lax.dynamic_update_slice_in_dim(total, part + product.astype(total.dtype), start, axis=0)

    classes = total.shape[0]
    full, rest = divmod(classes, linear.BLOCK) if isinstance(classes, int) else (0, classes)
    if full:
        total = jax.lax.fori_loop(0, full, lambda block, total: add(block * linear.BLOCK, linear.BLOCK, total), total)
    return total if rest == 0 else add(full * linear.BLOCK, rest, total)


def _gradients(static, hidden, classifier, bias, problem):
    """(loss, (∂hidden, ∂classifier, ∂bias)), each chunk's gradient computed while its logits exist.

    Gradients are float32 until the upstream gradient arrives: most gradients of a mean are 0 in float16, and to
    multiply twice would round twice.
    """
    operands = hidden, classifier, bias, problem
    hidden, classifier, bias, problem = vary_over(operands, varying_axes(operands))
    rows, problem, settings, shape, mean, size = _flattened(static, hidden, classifier, bias, problem)
    dtype, precision = problem.logits.dtype, static.product.precision

    def body(carry, chunk):
        total, d_classifier, d_bias = carry
        chunk_hidden, chunk_problem = chunk
        logits, plan, chunk_hidden = _chunk(static, chunk_hidden, classifier, bias, chunk_problem, settings, mean)
        each, g = kernel.elements(1, logits, plan), kernel.gradient(logits, plan, 1)
        d_bias = None if bias is None else d_bias + jnp.sum(g, axis=0)
        g = g if chunk_hidden.dtype == jnp.float16 else g.astype(chunk_hidden.dtype)
        d_classifier = _add_product(d_classifier, g, chunk_hidden, precision)
        d_hidden = jnp.matmul(g, classifier, precision=precision, preferred_element_type=dtype)
        return (total + jnp.sum(each), d_classifier, d_bias), (d_hidden, each)

    d_classifier = jnp.zeros(classifier.shape, classifier.dtype if settings.accumulate == "input" else dtype)
    start = (jnp.zeros((), dtype), d_classifier, None if bias is None else jnp.zeros(bias.shape, dtype))
    (total, d_classifier, d_bias), (d_hidden, each) = _scan(body, start, rows, problem, settings, shape, size)
    value = each if settings.reduction == "none" else total
    return value, (jnp.moveaxis(d_hidden, -1, static.settings.axis), d_classifier, d_bias)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _summed(static, hidden, classifier, bias, problem):
    return _plain(static, hidden, classifier, bias, problem, checkpoint=False)


@partial(_summed.defjvp, symbolic_zeros=True)
def _summed_jvp(static, primals, tangents):
    head_tangents = jax.tree.leaves(tangents[:3])
    if not all(isinstance(tangent, SymbolicZero) for tangent in jax.tree.leaves(tangents[3])):
        tangents = jax.tree.map(kernel.materialised, primals, tangents)
        return jax.jvp(partial(_plain, static), primals, tangents)
    value, gradients = _gradients(static, *primals)
    change = jnp.zeros_like(value)
    for gradient, tangent in zip(jax.tree.leaves(gradients), head_tangents, strict=True):
        if not isinstance(tangent, SymbolicZero):
            change = change + jnp.sum(gradient.astype(value.dtype) * tangent.astype(value.dtype))
    return value, change


@partial(jax.jit, static_argnums=0)
def loss(static, hidden, classifier, bias, problem):
    evaluate = _plain if static.settings.reduction == "none" or static.product.dot_general else _summed
    return evaluate(static, hidden, classifier, bias, problem)


@partial(jax.jit, static_argnums=0)
def loss_and_grad(static, hidden, classifier, bias, problem):
    value, gradients = _gradients(static, hidden, classifier, bias, problem)
    operands = hidden, classifier, bias
    return value, jax.tree.map(lambda g, operand: summed_like(g.astype(operand.dtype), operand), gradients, operands)
