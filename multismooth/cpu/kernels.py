"""Loss and gradient on a CPU in NumPy, for NumPy arrays and, if they are small, for the memory of tensors.

`kernel` computes a chunk of large logits in place. `columns` computes a small problem with few classes in few calls: a
call of NumPy costs about a microsecond, one of PyTorch three to six. A reduction over a class axis that is shorter than
a vector register is fast only if the rows lie side by side.

Measured per million logits, one thread (µs), in cache: exp 480, exp2 220 and the multiplication before it 60, max 55,
subtract 95, multiply in place 60, sum 180, einsum 65. The first two that touch a chunk, max and subtract, take 180 and
230: they wait for memory.
"""

import math
from functools import lru_cache

import numpy as np

from multismooth import spec
from multismooth.cpu.buffers import gradient_memory
from multismooth.cpu.chunks import Fallback

LOG2_E = 1 / math.log(2)
MIN_LOGITS_KEPT = 2**18  # from so many on, a gradient is written to memory that is kept
# OpenBLAS, which NumPy calls, computes products of up to so many entries in one thread. Its own threads are 3 ms slower
# where PyTorch's are busy (512,000 entries on two cores).
MAX_BLAS_ENTRIES = 2**13
ONES = {np.dtype(name): np.ones(MAX_BLAS_ENTRIES, name) for name in ("float32", "float64")}
BLOCK = 1024  # einsum adds in sixteen running sums: beyond this many summands each, again

without_warnings = np.errstate(invalid="ignore", divide="ignore", over="ignore")


# --- kernels ----------------------------------------------------------------------------------------------------------


def columns(logits, plan, with_gradient=True, summed=True):
    """(per-element losses or their sum, gradient of the sum) for (N, K) logits and a plan that `choice.few` accepts."""
    count, classes = logits.shape
    a, b, v_sum = plan.a, plan.b, plan.v_sum
    v = None if plan.v is None else plan.v.reshape(-1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        e = logits.T.copy("C")  # (K, N): the rows side by side
        if plan.mask is not None:
            e[~plan.mask.reshape(-1)] = np.finfo(e.dtype).min / 2  # its exponential is 0, and so is 0 times it
        e -= np.maximum.reduce(e, 0)
        place = (plan.labels, np.arange(count))
        own = e[place]
        away = np.add.reduce(e, 0) / classes if v is None else weighted_sums(v, e)
        np.exp(e, out=e)
        total = np.add.reduce(e, 0)
        log_total = np.log(total)
        loss = inner(a, log_total - own) if summed else a * (log_total - own)
        if type(b) is not float or b != 0.0:  # a −inf logit costs nothing without smoothing
            smooth = v_sum * log_total - away
            loss += inner(b, smooth) if summed else b * smooth
        if not with_gradient:
            return loss, None
        e *= (a + b * v_sum) / total
        e -= b / classes if v is None else np.multiply.outer(v, b) if np.ndim(b) else (b * v)[:, None]
        e[place] -= a
    return loss, np.ascontiguousarray(e.T)  # autograd would copy it otherwise, which is slower


def plain(loss):
    """Whether `columns` is right: it does not know that 0·inf is 0, nor sums that are infinite though no summand is."""
    return math.isfinite(loss) if np.ndim(loss) == 0 else bool(np.isfinite(loss).all())


# --- the weighted smoothed target and its product with log p ----------------------------------------------------------


def inner(x, y):
    """Σ x·y, of a number or array x that broadcasts to the array y.

    `np.vdot` adds few entries in half the time of a sum, and warns of no infinite one.
    """
    small = y.size <= MAX_BLAS_ENTRIES
    if not isinstance(x, np.ndarray):
        return x * (float(np.vdot(ONES[y.dtype][: y.size], y)) if small else total(y))
    return float(np.vdot(x, y)) if small and x.shape == y.shape else total(x, y)


@without_warnings
def total(*factors):
    return float(np.add.reduce(math.prod(factors), None))


def weighted_sums(v, e):
    """Σ_k v_k e_kn."""
    return np.dot(v, e) if e.size <= MAX_BLAS_ENTRIES else np.einsum("k,kn->n", v, e)


@lru_cache(64)
def grid(shape):
    """The open grid of an array's indices."""
    return np.ogrid[tuple(slice(n) for n in shape)] if len(shape) > 1 else tuple(map(np.arange, shape))


def own_entries(labels, axis):
    """The index of every label's entry in the logits."""
    others = grid(labels.shape)
    return (others[0], labels) if axis == len(others) == 1 else (*others[:axis], labels, *others[axis:])


def constant(const, count):
    """Σ const over so many elements, of a number or an array that broadcasts to them."""
    return const * count if isinstance(const, float) else float(np.add.reduce(const, None)) * (count / const.size)


def negative_target(lp, plan, axis):
    """−W = −a·u − b·v in the layout of log p."""
    a, b, v, classes = plan.a, plan.b, plan.v, lp.shape[axis]
    large = lp.size >= MIN_LOGITS_KEPT and lp.flags.c_contiguous
    g = gradient_memory(lp.size, lp.dtype).reshape(lp.shape) if large else np.empty_like(lp)
    share = -1 / classes if v is None else -v
    if isinstance(b, np.ndarray):
        b = b[..., None] if axis == b.ndim else np.expand_dims(b, axis)
    if v is not None and isinstance(b, np.ndarray):
        np.multiply(b, share, out=g)
    else:
        g[...] = b * share  # to copy a row or a column takes half the time of a product
    if plan.u is not None:
        g -= (np.expand_dims(a, axis) if isinstance(a, np.ndarray) else a) * plan.u
    elif v is None:
        g[own_entries(plan.labels, axis)] = -a - plan.b / classes
    else:
        g[own_entries(plan.labels, axis)] -= a
    return g


@lru_cache(64)
def uniform_row(classes, dtype):
    """1/K for every class."""
    return np.full(classes, 1 / classes, dtype)


def summed_loss(lp, plan, axis, smooth=None):
    """Σ (a·nll + b·smooth + const) from log p; `smooth` may be known: Σ_k v_k log p_k per element."""
    b, v, classes = plan.b, plan.v, lp.shape[axis]
    nll = lp[own_entries(plan.labels, axis)] if plan.u is None else row_sums(lp, plan.u, axis)
    loss = (0.0 if plan.const is None else constant(plan.const, lp.size // classes)) - inner(plan.a, nll)
    if type(b) is float and b == 0.0:  # a −inf logit costs nothing without smoothing
        return loss
    if smooth is None and v is None and type(b) is float:
        return loss - inner(b / classes, lp)
    return loss - inner(b, row_sums(lp, v, axis) if smooth is None else smooth)


@without_warnings
def row_sums(lp, row, axis):
    """Σ_k row_k log p_k per element, of one row or of one for each element. None: 1/K for every class."""
    classes = lp.shape[axis]
    if axis == lp.ndim - 1 and lp.size <= MAX_BLAS_ENTRIES and (row is None or row.size == classes):
        return lp @ (uniform_row(classes, lp.dtype) if row is None else row.reshape(-1))
    return np.add.reduce(lp, axis) / classes if row is None else np.add.reduce(row * lp, axis)


# --- large problems, a chunk at a time --------------------------------------------------------------------------------


def summed(e):
    """Σ over the classes of a chunk, in float64 between blocks where rows are long."""
    if e.ndim == 3:
        return np.add.reduce(e, 1)
    full = e.shape[1] // BLOCK * BLOCK
    if full <= BLOCK:
        return np.einsum("ij->i", e)
    blocks = np.einsum("ijk->ij", e[:, :full].reshape(e.shape[0], -1, BLOCK))
    rest = np.einsum("ij->i", e[:, full:])
    return (np.add.reduce(blocks, 1, dtype=np.float64) + rest).astype(e.dtype)


@lru_cache
def doubles():
    """Whether NumPy's exp2 of float32 runs in vectors here: with AVX-512, and then it takes half as long as exp."""
    try:
        from numpy.lib.introspect import opt_func_info  # NumPy 2.2
    except ImportError:
        return False
    loops = opt_func_info(func_name="^exp2$").get("exp2", {})  # nothing on processors that NumPy has no vectors for
    return not loops.get("ff", {}).get("current", "baseline").startswith("baseline")


def exponential(e):
    """exp of a chunk in place; of e ≤ 0 it is as exact by exp2, whose argument is rounded to |e|·6e-8."""
    if e.dtype == np.float32 and doubles():
        e *= LOG2_E
        np.exp2(e, out=e)
    else:
        np.exp(e, out=e)


def weighted(e, v):
    """Σ v·e with 0·inf = 0: an infinite logit counts as a huge one, whose sum is infinite still unless its v is 0."""
    total = np.add.reduce(e * v, 1)
    if np.isfinite(total).all():
        return total
    return np.add.reduce(np.where(v == 0, 0, e) * v, 1)


def at(labels):
    """The index that picks the label's entry of every element of a chunk."""
    if labels.ndim == 1:
        return np.arange(labels.shape[0]), labels
    first, last = np.ogrid[: labels.shape[0], : labels.shape[1]]
    return first, labels, last


def kernel(z, plan, out, xp):
    """(lse, nll, smooth) of a chunk, its gradient written to `out`: see `multismooth.cpu.chunks`."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        dtype, place = xp.float_of(z), at(plan.labels)
        ours = out is not None and out.dtype == dtype and out.flags.c_contiguous
        e = out if ours and not np.may_share_memory(out, z) else np.empty(z.shape, dtype)
        shown = z if plan.mask is None else np.where(plan.mask, z, dtype(-np.inf))
        m = np.maximum.reduce(shown, 1, dtype=dtype)
        inexact = ~np.isfinite(m)
        np.subtract(shown, np.expand_dims(m, 1), out=e, dtype=dtype)
        own = e[place]
        away = summed(e) / z.shape[1] if plan.v is None else weighted(e, plan.v)
        exponential(e)
        total = summed(e)
        log_total = np.log(total)
        lse, nll, smooth = m + log_total, log_total - own, log_total * plan.v_sum - away
        exact = Fallback(z, plan, inexact, out is not None, xp) if inexact.any() else None
        if out is not None:
            height = plan.a * plan.u_sum + plan.b * plan.v_sum
            if plan.z_loss is not None:
                height = height + 2 * plan.z_loss * lse
            e *= np.expand_dims((height / total).astype(dtype), 1)
            b = spec.wide(plan.b, 1, xp)
            e -= np.asarray(b * (1 / z.shape[1] if plan.v is None else plan.v), dtype)
            e[place] -= plan.a
            if e is not out:
                out[...] = e
        if exact is not None:
            exact.put((lse, nll, smooth), out)
        return lse, nll, smooth
