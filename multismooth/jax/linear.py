"""JAX linear head and loss: a scan over chunks of rows, so that only one chunk of logits exists at a time.

The gradients of a summed loss are computed while a chunk's logits exist (three matrix products). They enter JAX as a
custom JVP, a linear map on tangents: JAX transposes it for reverse mode and differentiates it again for higher orders.

JAX differentiates checkpointed chunks instead for reduction "none", for derivatives with respect to targets, ε or
weights, and where the caller brings a `dot_general`.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.sharding import PartitionSpec

from multismooth import linear, spec
from multismooth.jax import chunks, kernel
from multismooth.jax import classes as split
from multismooth.jax import rows as own_rows
from multismooth.jax.namespace import XP
from multismooth.jax.varying import devices_of_the_compiler, summed_like, vary_over, varying_axes
from multismooth.reduction import factors, term_factors


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
    rows: own_rows.Rows | None = None


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
    size = chunks.size_of(rows, classes, static.chunk_rows)
    if mask is not None and mask.ndim > 1:
        cut_like_rows = chunks.even(rows, size) and tuple(mask.shape[:-1]) == shape
        mask = jnp.broadcast_to(mask, (*shape, classes)).reshape(rows, classes)
        problem = problem._replace(class_mask=mask) if cut_like_rows else problem
    plan = split.plan_of(problem._replace(class_mask=mask), settings)  # jit drops it where there is no mean
    across = own_rows.across(static.rows, problem.logits)
    mean = factors([(plan, problem.logits)], problem, settings, XP, across)
    if not isinstance(rows, int):
        hidden, problem = chunks.padded(hidden, problem, size)
    return hidden, problem, settings, shape, mean, size


def _chunk(static, hidden, classifier, bias, problem, settings, mean):
    """(logits, plan, features with inactive rows at 0) of a chunk."""
    plan = spec.scaled(split.plan_of(problem, settings), *mean)
    hidden = linear.masked_rows(hidden, plan, XP)
    return _logits(static.product, hidden, classifier, bias), plan, hidden


def _varying(static, operands):
    """(the operands, all of which vary over the same axes; these axes; those without the ones that split the classes).

    The problem does not vary over the latter, and nor does the loss: they are the same for all parts of the classes.
    """
    *head, problem = operands
    all_axes = varying_axes(operands)
    axes = all_axes - frozenset(static.settings.axis_name)
    return (*vary_over(head, all_axes), vary_over(problem, axes)), all_axes, axes


def _plain(static, hidden, classifier, bias, problem, checkpoint=True):
    """The loss, differentiated by JAX. With `checkpoint`, backward makes every chunk's logits again."""
    operands = hidden, classifier, bias, problem
    (hidden, classifier, bias, problem), _, axes = _varying(static, operands)
    rows, problem, settings, shape, mean, size = _flattened(static, hidden, classifier, bias, problem)

    def chunk_loss(chunk_hidden, classifier, bias, chunk_problem):
        logits, plan, _ = _chunk(static, chunk_hidden, classifier, bias, chunk_problem, settings, mean)
        return split.elements(settings, logits, plan)

    if checkpoint:
        chunk_loss = jax.checkpoint(chunk_loss, prevent_cse=False)

    def body(total, chunk):
        chunk_hidden, chunk_problem = chunk
        each = chunk_loss(chunk_hidden, classifier, bias, chunk_problem)
        return (total, each) if settings.reduction == "none" else (total + jnp.sum(each), None)

    zero = vary_over(jnp.zeros((), problem.logits.dtype), axes)
    total, each = chunks.folded(body, zero, rows, problem, settings, shape, size)
    return each if settings.reduction == "none" else total


def _terms(static, hidden, classifier, bias, problem):
    """The Terms, differentiated by JAX. Backward makes every chunk's logits again."""
    operands = hidden, classifier, bias, problem
    (hidden, classifier, bias, problem), *_ = _varying(static, operands)
    flat = _flattened(static, hidden, classifier, bias, problem, term_factors)
    rows, problem, settings, shape, ratios, size = flat

    def chunk_terms(chunk_hidden, classifier, bias, chunk_problem):
        logits, plan, _ = _chunk(static, chunk_hidden, classifier, bias, chunk_problem, settings, ratios)
        return split.terms_of(settings, logits, plan)

    chunk_terms = jax.checkpoint(chunk_terms, prevent_cse=False)

    def body(carry, chunk):
        chunk_hidden, chunk_problem = chunk
        return carry, chunk_terms(chunk_hidden, classifier, bias, chunk_problem)

    return chunks.folded(body, None, rows, problem, settings, shape, size)[1]


def _add_product(total, g, hidden, precision):
    """total + gᵀ·hidden, one block of classes after the other, so that there is no second (K, D) buffer.

    Where the compiler may split the classes over devices it is one product, because to cut a block out of split classes
    gathers them. XLA's GPU compiler then also sums over devices once, after the loop, where rows are split.
    """

    def product(g):
        return jnp.matmul(g.T, hidden, precision=precision).astype(total.dtype)

    def add(start, size, total):
        part = jax.lax.dynamic_slice_in_dim(total, start, size)
        part = part + product(jax.lax.dynamic_slice_in_dim(g, start, size, axis=1))
        return jax.lax.dynamic_update_slice_in_dim(total, part, start, axis=0)

    if devices_of_the_compiler() > 1:
        return total + product(g)
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
    (hidden, classifier, bias, problem), all_axes, axes = _varying(static, operands)
    rows, problem, settings, shape, mean, size = _flattened(static, hidden, classifier, bias, problem)
    dtype, precision = problem.logits.dtype, static.product.precision

    def body(carry, chunk):
        total, d_classifier, d_bias = carry
        chunk_hidden, chunk_problem = chunk
        logits, plan, chunk_hidden = _chunk(static, chunk_hidden, classifier, bias, chunk_problem, settings, mean)
        each, g = split.elements_and_gradient(settings, logits, plan)
        d_bias = None if bias is None else d_bias + jnp.sum(g, axis=0)
        g = g if chunk_hidden.dtype == jnp.float16 else g.astype(chunk_hidden.dtype)
        d_classifier = _add_product(d_classifier, g, chunk_hidden, precision)
        d_hidden = jnp.matmul(g, classifier, precision=precision, preferred_element_type=dtype)
        return (total + jnp.sum(each), d_classifier, d_bias), (d_hidden, each)

    d_classifier = jnp.zeros(classifier.shape, classifier.dtype if settings.accumulate == "input" else dtype)
    zeros = vary_over((d_classifier, None if bias is None else jnp.zeros(bias.shape, dtype)), all_axes)
    start = vary_over(jnp.zeros((), dtype), axes), *zeros
    (total, d_classifier, d_bias), (d_hidden, each) = chunks.folded(body, start, rows, problem, settings, shape, size)
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
    return value, split.summed(static.settings, change)


@partial(jax.jit, static_argnums=0)
def loss(static, *operands):
    evaluate = _plain if static.settings.reduction == "none" or static.product.dot_general else _summed

    def of_all_rows(*operands):
        return _over_rows(static, evaluate(static, *operands))

    return _placed(of_all_rows, static, lambda *head: _of_loss(static, head), operands)


@partial(jax.jit, static_argnums=0)
def loss_and_grad(static, *operands):
    def of_all_rows(*operands):
        value, gradients = _gradients(static, *operands)
        gradients = jax.tree.map(lambda g, of: summed_like(g, of).astype(of.dtype), gradients, operands[:3])
        return _over_rows(static, value), gradients

    return _placed(of_all_rows, static, lambda *head: (_of_loss(static, head), head), operands)


@partial(jax.jit, static_argnums=0)
def terms(static, *operands):
    return _placed(partial(_terms, static), static, lambda *head: _of_elements(static, head), operands)


def _placed(function, static, results, operands):
    return own_rows.placed(function, static.rows, static.settings.axis, results, *operands)


def _over_rows(static, value):
    """The loss of a call, from that of the rows here."""
    return value if static.settings.reduction == "none" else own_rows.summed(static.rows, value)


def _of_loss(static, head):
    """Where a loss lies: on every device, or for reduction "none" where its element's features do."""
    return _of_elements(static, head) if static.settings.reduction == "none" else PartitionSpec()


def _of_elements(static, head):
    return own_rows.of_elements(head[0], static.settings.axis)
