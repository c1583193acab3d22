"""A chunk of large logits on a CPU in one compiled pass (Numba): every logit is read, its gradient written, once.

Per element: the largest logit m and Σ v·(z − c); then e = exp(z − m) and its sum S, in cache; then the gradient. So
    lse = m + log S,   nll = log S + m − z_y,   smooth = Σv·(log S + m − c) − Σ v·(z − c)
in float64, c = z_0 or m: a common offset of the logits costs nothing. Sums run in blocks, in float32 within and in
float64 between them (2e-7 instead of 4e-6 in the gradient at 128,256 classes). NaN and +inf are odd: see `chunks`.
"""

import math

import numpy as np

from multismooth.chunks import Odd
from multismooth.compiled.by_columns import images
from multismooth.compiled.by_rows import few, rows

SCRATCH = 2**14  # entries: elements side by side and what is made of them stay in the first two cache levels
BFLOAT16 = np.dtype(np.uint16)  # NumPy has none: its bits


def able(plan, classes):
    """Whether the kernels compute a plan: labels, one row of v and of the mask for all elements."""
    return plan.u is None and all(row is None or math.prod(row.shape) == classes for row in (plan.v, plan.mask))


def widened(bits):
    """bfloat16, as the bits that it is, in float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrowed(x):
    """float32 as the bits of bfloat16, rounded to nearest, ties to even; NaN stays NaN."""
    bits = x.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FC0), rounded)


def few_rows(z, plan, out):
    """Per-element losses of a small problem, its gradient written to `out`: see `by_rows.few`."""
    losses, g = np.empty(z.shape[0], z.dtype), out
    if out is None:
        g = np.empty((1, z.shape[1]), z.dtype)
    elif not out.flags.c_contiguous or np.may_share_memory(out, z):
        g = np.empty(z.shape, z.dtype)
    labels = np.ascontiguousarray(plan.labels, np.int64)
    few(np.ascontiguousarray(z), labels, plan.a, plan.b, out is not None, g, losses)
    if out is not None and g is not out:
        out[...] = g
    return losses


def kernel(z, plan, out, xp):
    """(lse, nll, smooth) of a chunk, its gradient written to `out`: see `multismooth.chunks`."""
    shape, classes = plan.labels.shape, z.shape[1]
    dtype = np.dtype(np.float64 if z.dtype == np.float64 else np.float32)

    def each(value, of=np.float64):
        return np.full(shape, value, of) if np.ndim(value) == 0 else np.ascontiguousarray(value, of)

    def row(value, of):
        return np.zeros(1, of) if value is None else np.ascontiguousarray(value.reshape(-1), of)

    labels, alive = each(plan.labels, np.int64), each(True if plan.alive is None else plan.alive, bool)
    a, b, zeta = each(plan.a), each(plan.b), each(0.0 if plan.zeta is None else plan.zeta)
    v, mask = row(plan.v, dtype), row(plan.mask, bool)
    shares = v, plan.v is not None, 1.0 if plan.v is None else float(np.sum(v, dtype=np.float64))
    masks = mask, plan.mask is not None, out is not None
    g = np.empty((1,) * z.ndim, z.dtype) if out is None else out
    found, odd = np.empty((*shape[:-1], 3, shape[-1]), dtype), np.zeros(shape, bool)
    if z.ndim == 2:
        apart = out is not None and (z.dtype == BFLOAT16 or np.may_share_memory(out, z))
        rows(z, labels, a, b, zeta, alive, *shares, *masks, g, apart, np.empty(classes, dtype), found, odd)
    else:
        width = min(max(SCRATCH // classes, 16), 1024, z.shape[2])
        x, lines = np.empty(classes * width, dtype), np.empty((4, width), dtype)
        images(z, labels, a, b, zeta, alive, *shares, *masks, g, width, x, lines, found, odd)
    statistics = tuple(np.moveaxis(found, -2, 0))
    if odd.any():
        by_spec(z, plan, odd, statistics, out, xp)
    return statistics


def by_spec(z, plan, odd, statistics, out, xp):
    """The odd elements, whose logits are still there."""
    narrow = z.dtype == BFLOAT16
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        its = Odd(widened(z) if narrow else z, plan, odd, out is not None, xp)
    its.gradient = narrowed(its.gradient) if narrow and out is not None else its.gradient
    its.put(statistics, out)
