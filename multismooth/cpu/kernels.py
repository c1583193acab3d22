"""Loss and gradient on the CPU in NumPy, for NumPy arrays and, where they are few, for the memory of tensors.

`kernel` does a chunk of large logits in place, `columns` a small problem with few classes in the fewest calls: one to a
NumPy kernel costs about a microsecond, to a PyTorch one three to six, and reductions over a class axis shorter than a
vector register are fast only when the rows lie side by side.

Measured per million logits, one thread (µs), in cache: exp 480, exp2 220 and the multiplication before it 60, max 55,
subtract 95, multiply in place 60, sum 180, einsum 65. The first two that touch a chunk, max and subtract, take 180 and
230: they wait for memory.
"""

import math
from functools import lru_cache, partial

import numpy as np

from multismooth import spec
from multismooth.cpu import chunks
from multismooth.cpu.buffers import gradient_memory
from multismooth.cpu.chunks import Fallback
from multismooth.cpu.layout import MIN_CLASSES_FOR_ROWS, layout_of
from multismooth.cpu.threads import cores
from multismooth.namespace import XP

FEW_CLASSES = 16
FEW_ENTRIES = 2**16
ENTRIES = 2**20  # of a chunk: read and written some six times, in cache; a quarter is 1.7 times slower on two threads
TOGETHER = 2**18  # logits from which on waking up other threads pays
LOG2_E = 1 / math.log(2)
BLOCK = 1024  # einsum adds in sixteen running sums: beyond this many summands each, again

without_warnings = np.errstate(invalid="ignore", divide="ignore", over="ignore")


# --- which kernel, and all chunks of a call ---------------------------------------------------------------------------


@lru_cache
def numba():
    """Numba's kernels, or None where it is not installed."""
    try:
        from multismooth.cpu import compiled
    except ImportError:
        return None
    return compiled


def uniform(plan):
    """Whether a and b are numbers, the same for every element, and v is 1/K: two sums are the whole loss."""
    numbers = type(plan.a) is float and type(plan.b) is float and plan.active is None
    return numbers and plan.u is None and plan.v is None and plan.const is None and plan.z_loss is None


def few(logits, plan, axis):
    """Whether `columns` computes a call of these NumPy arrays or tensors, and is the fastest that does."""
    rows, classes = logits.shape if logits.ndim == 2 else (0, 0)
    return classes < FEW_CLASSES and 0 < rows * classes <= FEW_ENTRIES and axis == 1 and uniform(plan)


def compiles(logits, plan, axis):
    """Whether Numba is there and its kernels compute a call of these NumPy arrays or tensors."""
    return numba() is not None and numba().supports(plan, logits.shape[axis])


def small(logits, labels, plan, axis):
    """Whether `numba().small_problem` computes a call of these NumPy arrays, and is the fastest that does."""
    if (
        logits.ndim != 2
        or axis != 1
        or logits.size > numba().MIN_LOGITS_FOR_THREADS
        or labels.dtype != np.int64
        or not uniform(plan)
    ):
        return False
    return logits.flags.c_contiguous and labels.flags.c_contiguous and logits.dtype in (np.float32, np.float64)


def supports(logits, plan, axis):
    """What can compute a call of NumPy arrays, the fastest first."""
    if logits.size == 0:
        return ("spec",)
    names = ["chunked", "spec"]
    if logits.dtype in (np.float32, np.float64):
        if few(logits, plan, axis):
            names.insert(0, "columns")
        if compiles(logits, plan, axis):
            names.insert(0, "numba")
    return names


def evaluate(name, logits, plan, axis, with_gradient, out, threads=cores, upstream=1.0):
    """(per-element losses, gradient of upstream times their sum or None) by "chunked" or "numba".

    The gradient is `out` where that `fits`, else it is memory of ours.
    """
    if name == "numba" and out is None and small(logits, plan.labels, plan, axis):
        return numba().small_problem(logits, plan.labels, plan, with_gradient)
    together, narrow = (
        (numba().MIN_LOGITS_FOR_THREADS, numba().MIN_CLASSES_FOR_ROWS)
        if name == "numba"
        else (TOGETHER, MIN_CLASSES_FOR_ROWS)
    )
    layout, gradient = layout_of(logits, axis, narrow), None
    if with_gradient:
        gradient = (
            out if fits(layout, logits, out) else layout.as_logits(gradient_memory(logits.size, logits.dtype), XP)
        )
    workers = 1 if logits.size < together else min(threads(), cores())
    if name == "numba":
        return numba().evaluate(layout, logits, plan, gradient, workers, upstream), gradient
    loss = chunks.evaluate(partial(kernel, xp=XP), layout, logits, plan, XP, gradient, ENTRIES, workers, upstream)
    return loss, gradient


def fits(layout, logits, out):
    """Whether a kernel can write the gradient to the caller's array: the layout of the logits, and no memory of theirs.

    Unless it is they, entry by entry.
    """
    if out is None or not layout.matches(out):
        return False
    same = out.ctypes.data == logits.ctypes.data and out.strides == logits.strides
    return same or not np.may_share_memory(out, logits)


# --- kernels ----------------------------------------------------------------------------------------------------------


def columns(logits, labels, a, b, with_gradient=True, summed=True):
    """(a·nll + b·smooth or its sum, gradient of the sum) for (N, K) logits, (N,) labels, numbers a and b, uniform v."""
    rows, classes = logits.shape
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        e = logits.T.copy("C")  # (K, N): the rows side by side
        e -= np.maximum.reduce(e, 0)
        place = (labels, np.arange(rows))
        own = e[place]
        away = np.add.reduce(e, None if summed else 0)
        np.exp(e, out=e)
        total = np.add.reduce(e, 0)
        lse = np.log(total)
        if summed:
            lse, own = np.add.reduce(lse), np.add.reduce(own)
        loss = a * (lse - own)
        if b != 0.0:  # a −inf logit costs nothing without smoothing
            loss += b * (lse - away / classes)
        if not with_gradient:
            return loss, None
        e *= (a + b) / total
        e -= b / classes
        e[place] -= a
    return loss, np.ascontiguousarray(e.T)  # or autograd would copy it, more slowly


def plain(loss):
    """Whether `columns` is right: it knows nothing of 0·inf, nor of sums that are infinite though no summand is."""
    return math.isfinite(loss) if np.ndim(loss) == 0 else bool(np.isfinite(loss).all())


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
