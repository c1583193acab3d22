"""Large and small problems on a CPU in one compiled pass (Numba): it reads each logit and writes each gradient once.

Per element: the largest logit m; then, while the logits are in cache, d = z − m, Σ v·d, e = exp d and S = Σ e; then the
gradient. So
    lse = m + log S,   nll = log S + m − z_y,   smooth = Σv·log S − Σ v·d
Sums are float32 within a block of classes and float64 between blocks (at 128,256 classes the gradient is wrong by 2e-7
instead of 4e-6). `spec` computes the elements that a NaN or an infinity makes inexact.
"""

import math
from functools import lru_cache
from types import SimpleNamespace

import numpy as np

from multismooth import spec
from multismooth.cpu.chunks import Fallback, balanced_chunk_size, chunk_plan, chunk_slices
from multismooth.cpu.compiled.by_columns import images
from multismooth.cpu.compiled.by_rows import BLOCK, EVEN, GAPS, UNEVEN, rows
from multismooth.cpu.threads import share
from multismooth.namespace import XP

MAX_LOGITS_PER_PART = 2**20  # what a thread takes at a time

# Logits of a block of elements side by side: at this size they and what is made of them stay in the first two caches.
LOGITS_PER_BLOCK = 2**14
ELEMENTS_PER_SMALL_BLOCK = 256  # the same for small problems, in elements

# From 64 classes on, `rows` is as fast as `images` (1.6 ns per logit; at 32 classes `rows` needs 2.9).
MIN_CLASSES_FOR_ROWS = 64

# From this many logits on, a second thread pays: to wake one up takes 0.1 ms, as long as 250,000 logits.
MIN_LOGITS_FOR_THREADS = 2**19

BFLOAT16 = np.dtype(np.uint16)  # NumPy has no bfloat16, so the kernels get its bits
NO_MASK = np.zeros(1, bool)
ONE_KIND = {kind: np.array((kind,)) for kind in (EVEN, UNEVEN, GAPS)}  # where there is one block


def supports(plan, classes):
    """Whether the kernels compute a plan: it has labels, and v and the mask are one row for all elements."""
    one_row = all(row is None or math.prod(row.shape) == classes for row in (plan.v, plan.mask))
    return plan.u is None and one_row and (plan.mask is None or plan.v is not None)


@lru_cache
def uniform_class_arguments(classes, dtype, side_by_side):
    """`class_arguments` where the smoothed mass is uniform over all classes."""
    if side_by_side:
        return np.ones(classes, dtype), 1.0, 1 / classes, NO_MASK, False
    blocks = -(-classes // BLOCK)
    unused = np.zeros(1, dtype)
    return unused, 1.0, np.full(blocks, EVEN), np.full(blocks, 1 / classes), unused


def class_arguments(plan, classes, dtype, side_by_side):
    """The arguments that are the same for all elements, from v to the mask, as `images` takes them, or else `rows`."""
    if plan.v is None:
        return uniform_class_arguments(classes, dtype, side_by_side)
    v = unmarked(np.ascontiguousarray(plan.v.reshape(-1), dtype))
    v_sum, masked = float(np.add.reduce(v, None, np.float64)), plan.mask is not None
    mask = unmarked(plan.mask.reshape(-1)) if masked else NO_MASK
    if side_by_side:
        return v, v_sum, 1.0, mask, masked
    absent = np.where(mask, dtype.type(0), dtype.type(-np.inf)) if masked else np.zeros(classes, dtype)
    if classes <= BLOCK:  # one block: in a third of the time that several take
        low, high = float(np.minimum.reduce(v)), float(np.maximum.reduce(v))
        kind = EVEN if low == high else GAPS if low == 0 else UNEVEN
        kind = GAPS if masked and not np.logical_and.reduce(mask) else kind
        return v, v_sum, ONE_KIND[kind], np.array((high,)), absent
    starts = np.arange(0, classes, BLOCK)
    lowest, highest = np.minimum.reduceat(v, starts), np.maximum.reduceat(v, starts)
    kinds = np.where(lowest == highest, EVEN, np.where(lowest == 0, GAPS, UNEVEN))
    if masked:
        kinds = np.where(np.logical_and.reduceat(mask, starts), kinds, GAPS)
    return v, v_sum, kinds, highest.astype(np.float64), absent


def coefficients(plan):
    """(a, b, z_loss, active): either numbers and None, or arrays. Numba compiles each combination of types anew."""
    a, b, active, shape = plan.a, plan.b, plan.active, plan.labels.shape
    z_loss = 0.0 if plan.z_loss is None else plan.z_loss
    if active is None and type(a) is type(b) is type(z_loss) is float:
        return a, b, z_loss, None
    active = np.ones(shape, bool) if active is None else unmarked(np.ascontiguousarray(active))
    return each(a, shape), each(b, shape), each(z_loss, shape), active


def each(x, shape):
    """A number or array as float64 for each element."""
    if isinstance(x, np.ndarray) and x.ndim:
        return unmarked(np.ascontiguousarray(x, np.float64))
    found = np.empty(shape)
    found.fill(x)
    return found


def evaluate(layout, logits, plan, out, workers, upstream=1.0):
    """The losses per element; the gradient of upstream·Σ loss goes to `out`.

    `out` has the layout of the logits, or is the logits.
    """
    z, plan = layout.logits(logits, XP), layout.plan(plan, logits, XP)
    target = None if out is None else layout.logits(out, XP)
    dtype = np.dtype(np.float64 if z.dtype == np.float64 else np.float32)
    common, losses = class_arguments(plan, z.shape[1], dtype, z.ndim == 3), np.empty(plan.labels.shape, dtype)

    def run(index):
        g = None if target is None else target[index]
        compute_part(z[index], chunk_plan(plan, index), common, g, losses[index[::2]], upstream)

    size = balanced_chunk_size(z.size, MAX_LOGITS_PER_PART, workers)
    if z.size <= size:
        compute_part(z, plan, common, target, losses, upstream)
    else:
        share(run, list(chunk_slices(z.shape, size)), workers)
    return layout.elements_back(losses if plan.const is None else losses + plan.const, XP)


def compute_part(z, plan, common, out, losses, upstream):
    """`evaluate` for laid out logits that one thread takes at a time; `common` are their `class_arguments`."""
    classes, dtype, with_gradient, inexact = z.shape[1], losses.dtype, out is not None, np.zeros(losses.shape, bool)
    labels = unmarked(np.ascontiguousarray(plan.labels, np.int64))
    read = unmarked(np.ascontiguousarray(z) if z.ndim == 2 else without_gaps(z, out))
    g = out if with_gradient else read  # nobody writes to it
    if z.ndim == 2:
        in_place = with_gradient and z.dtype != BFLOAT16 and not np.may_share_memory(out, z)
        scratch = g if in_place else np.empty((1, classes if with_gradient else min(classes, BLOCK)), dtype)
        any_inexact = rows(
            read, labels, *coefficients(plan), *common,
            g, with_gradient, upstream, in_place, scratch, losses, inexact,
        )  # fmt: skip
    else:
        width = min(max(LOGITS_PER_BLOCK // classes, 16), 1024, z.shape[2])
        scratch, lines = np.empty(classes * width, dtype), np.empty((8, width), dtype)
        any_inexact = images(
            read, labels, *coefficients(plan), *common,
            g, with_gradient, upstream, width, scratch, lines, losses, inexact,
        )  # fmt: skip
    if any_inexact:
        repair(z, plan, inexact, losses, out, upstream)


def unmarked(x):
    """An array that the kernels only read, without the mark "read-only": Numba would compile anew for it."""
    if x.flags.writeable:
        return x
    interface = x.__array_interface__
    return np.asarray(SimpleNamespace(owner=x, __array_interface__=interface | {"data": (interface["data"][0], False)}))


def without_gaps(z, out):
    """Images for the kernels: dense, as their gradient is, because Numba compiles anew for memory with gaps.

    A part of an image stays where it is.
    """
    if z.flags.forc or z.strides[2] == z.itemsize:
        return z
    return np.array(z, order="K" if out is None else "F" if out.flags.f_contiguous else "C")


def small_problem(z, labels, plan, with_gradient):
    """(losses per element, gradient or None) of contiguous (N, K) rows and labels.

    The preparations of `evaluate` take 20 µs, as long as 3,000 logits. `compute_part` would take 3 µs more than this.
    """
    (count, classes), dtype = z.shape, z.dtype
    losses, inexact = np.empty(count, dtype), np.zeros(count, bool)
    g = np.empty(z.shape, dtype)  # also where nobody wants it: Numba would compile anew for an array of another layout
    side_by_side = classes < MIN_CLASSES_FOR_ROWS and count > 1  # `rows` takes half the time for a single element
    z, labels = unmarked(z), unmarked(labels)
    own, common = coefficients(plan), class_arguments(plan, classes, dtype, side_by_side)
    if side_by_side:
        width = min(count, ELEMENTS_PER_SMALL_BLOCK)
        scratch, lines = np.empty(classes * width, dtype), np.empty((8, width), dtype)
        own = [x[None] if isinstance(x, np.ndarray) else x for x in own]
        any_inexact = images(
            z.T[None], labels[None], *own, *common,
            g.T[None], with_gradient, 1.0, width, scratch, lines, losses[None], inexact[None],
        )  # fmt: skip
    else:
        any_inexact = rows(z, labels, *own, *common, g, with_gradient, 1.0, with_gradient, g, losses, inexact)
    gradient = g if with_gradient else None
    if any_inexact:
        repair(z, plan._replace(labels=labels), inexact, losses, gradient)
    return losses if plan.const is None else losses + plan.const, gradient


def repair(z, plan, inexact, losses, out, upstream=1.0):
    """Compute the inexact elements by `spec`. Their logits are intact, even where `out` is the logits."""
    half = z.dtype == BFLOAT16
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        right = Fallback(float32_of(z) if half else z, plan, inexact, out is not None, XP, upstream)
        losses[inexact] = spec.elements(*right.statistics, right.plan._replace(const=None), XP)
    right.gradient = bfloat16_of(right.gradient) if half and out is not None else right.gradient
    right.put_gradient(out)


def float32_of(bits):
    """bfloat16, as the bits that NumPy holds, in float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def bfloat16_of(x):
    """float32 as the bits of bfloat16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)
