"""Large and small problems on a CPU in one compiled pass (Numba): every logit is read, its gradient written, once.

Per element: the largest logit m; then d = z − m, Σ v·d, e = exp d and S = Σ e, in cache; then the gradient. So
    lse = m + log S,   nll = log S + m − z_y,   smooth = Σv·log S − Σ v·d
Sums run in blocks, in float32 within and in float64 between them (2e-7 instead of 4e-6 in the gradient at 128,256
classes). An element that a NaN or an infinity makes inexact is computed by `spec`.
"""

import math
from functools import lru_cache

import numpy as np

from multismooth import spec
from multismooth.cpu.chunks import Fallback, cut, places, portion
from multismooth.cpu.compiled.by_columns import images
from multismooth.cpu.compiled.by_rows import BLOCK, EVEN, GAPS, UNEVEN, rows
from multismooth.cpu.threads import share
from multismooth.namespace import XP

MAX_LOGITS_PER_PART = 2**20  # of a part: what a thread takes at a time
SCRATCH = 2**14  # entries: elements side by side and what is made of them stay in the first two cache levels
FEW = 256  # elements side by side where there are few
MIN_CLASSES_FOR_ROWS = (
    64  # classes from which on a row by itself is as fast as many side by side: 1.6 ns a logit, 2.9 at 32 classes
)
MIN_LOGITS_FOR_THREADS = (
    2**19
)  # logits from which on another thread pays: it takes 0.1 ms to wake up, as long as 250,000 logits
BFLOAT16 = np.dtype(np.uint16)  # NumPy has none: its bits
NOTHING = np.zeros(1, bool)


def supports(plan, classes):
    """Whether the kernels compute a plan: labels, one row of v and of the mask for all elements."""
    alike = all(row is None or math.prod(row.shape) == classes for row in (plan.v, plan.mask))
    return plan.u is None and alike and (plan.mask is None or plan.v is not None)


@lru_cache
def even(classes, dtype, across):
    """`shares` of a plan that spreads evenly over all classes."""
    if across:
        return np.ones(classes, dtype), 1.0, 1 / classes, NOTHING, False
    blocks = -(-classes // BLOCK)
    nothing = np.zeros(1, dtype)
    return nothing, 1.0, np.full(blocks, EVEN), np.full(blocks, 1 / classes), nothing


def shares(plan, classes, dtype, across):
    """What all elements have in common: (v, Σv, …) as `by_columns.images` or `by_rows.rows` want it."""
    if plan.v is None:
        return even(classes, dtype, across)
    v = np.ascontiguousarray(plan.v.reshape(-1), dtype)
    v_sum, masked = float(np.sum(v, dtype=np.float64)), plan.mask is not None
    mask = plan.mask.reshape(-1) if masked else NOTHING
    if across:
        return v, v_sum, 1.0, mask, masked
    starts = np.arange(0, classes, BLOCK)
    lowest, levels = np.minimum.reduceat(v, starts), np.maximum.reduceat(v, starts)
    kinds = np.where(lowest == levels, EVEN, np.where(lowest == 0, GAPS, UNEVEN))
    absent = np.zeros(classes, dtype)
    if masked:
        kinds = np.where(np.logical_and.reduceat(mask, starts), kinds, GAPS)
        absent[~mask] = -np.inf
    return v, v_sum, kinds, levels.astype(np.float64), absent


def coefficients(plan):
    """(a, b, z_loss, active): numbers and None, or arrays, because each combination of types is compiled anew."""
    values, shape = (plan.a, plan.b, 0.0 if plan.z_loss is None else plan.z_loss), plan.labels.shape
    if plan.active is None and all(type(value) is float for value in values):
        return *values, None
    each = [np.full(shape, x, float) if np.ndim(x) == 0 else np.ascontiguousarray(x, float) for x in values]
    return *each, np.ones(shape, bool) if plan.active is None else np.ascontiguousarray(plan.active)


def evaluate(layout, logits, plan, out, workers, upstream=1.0):
    """Per-element losses; the gradient of upstream·Σ goes to `out`, which has the layout of the logits or is they."""
    z, plan = layout.entries(logits, XP), layout.plan(plan, logits, XP)
    target = None if out is None else layout.entries(out, XP)
    dtype = np.dtype(np.float64 if z.dtype == np.float64 else np.float32)
    common, losses = shares(plan, z.shape[1], dtype, z.ndim == 3), np.empty(plan.labels.shape, dtype)

    def run(place):
        part(z[place], cut(plan, place), common, None if out is None else target[place], losses[place[::2]], upstream)

    entries = portion(z.size, MAX_LOGITS_PER_PART, workers)
    if z.size <= entries:
        part(z, plan, common, target, losses, upstream)
    else:
        share(run, list(places(z.shape, entries)), workers)
    return layout.back(losses if plan.const is None else losses + plan.const, XP)


def part(z, plan, common, out, losses, upstream):
    """`evaluate` of laid out logits that one thread takes at a time."""
    classes, dtype, with_gradient, inexact = z.shape[1], losses.dtype, out is not None, np.zeros(losses.shape, bool)
    labels = np.ascontiguousarray(plan.labels, np.int64)
    g = out if with_gradient else np.empty((1,) * z.ndim, z.dtype)
    if z.ndim == 2:
        apart = with_gradient and (z.dtype == BFLOAT16 or np.may_share_memory(out, z))
        scratch = np.empty(classes if apart else min(classes, BLOCK), dtype)
        z = np.ascontiguousarray(z)
        strange = rows(
            z, labels, *coefficients(plan), *common, g, with_gradient, upstream, apart, scratch, losses, inexact
        )
    else:
        width = min(max(SCRATCH // classes, 16), 1024, z.shape[2])
        x, lines = np.empty(classes * width, dtype), np.empty((8, width), dtype)
        strange = images(
            z, labels, *coefficients(plan), *common, g, with_gradient, upstream, width, x, lines, losses, inexact
        )
    if strange:
        by_spec(z, plan, inexact, losses, out, upstream)


def small_problem(z, labels, plan, with_gradient):
    """(per-element losses, gradient or None) of (N, K) rows in order, a and b numbers, v even: the fewest steps.

    What `evaluate` arranges takes 20 µs, as long as 3,000 logits; `part` alone would be 3 µs more than this.
    """
    (count, classes), dtype = z.shape, z.dtype
    losses, inexact = np.empty(count, dtype), np.zeros(count, bool)
    gradient = np.empty(z.shape, dtype) if with_gradient else None
    g = gradient if with_gradient else np.empty((1, 1), dtype)
    if classes < MIN_CLASSES_FOR_ROWS:
        width = min(count, FEW)
        x, lines = np.empty(classes * width, dtype), np.empty((8, width), dtype)
        strange = images(
            z.T[None], labels[None], plan.a, plan.b, 0.0, None, *even(classes, dtype, True),
            g.T[None], with_gradient, 1.0, width, x, lines, losses[None], inexact[None],
        )  # fmt: skip
    else:
        scratch = np.empty(min(classes, BLOCK), dtype)
        common = even(classes, dtype, False)
        strange = rows(
            z, labels, plan.a, plan.b, 0.0, None, *common, g, with_gradient, 1.0, False, scratch, losses, inexact
        )
    if strange:
        by_spec(z, plan._replace(labels=labels), inexact, losses, gradient)
    return losses, gradient


def by_spec(z, plan, inexact, losses, out, upstream=1.0):
    """The inexact elements, whose logits are still there."""
    narrow = z.dtype == BFLOAT16
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        its = Fallback(widened(z) if narrow else z, plan, inexact, out is not None, XP, upstream)
        losses[inexact] = spec.elements(*its.found, its.plan._replace(const=None), XP)
    its.gradient = narrowed(its.gradient) if narrow and out is not None else its.gradient
    its.put_gradient(out)


def widened(bits):
    """bfloat16, as the bits that it is, in float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(x):
    """float32 as the bits of bfloat16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)
