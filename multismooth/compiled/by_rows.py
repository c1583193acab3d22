"""Rows: classes side by side. One row after the other goes through the second cache level."""

import math

import numpy as np
from numba import types
from numba.extending import overload

from multismooth.compiled.arithmetic import FAST, compiled, exp, larger, real, stored

BLOCK = 1024  # classes whose terms are added in float32; the blocks are added in float64


# Each takes a block of a row as arrays of its own: an index counted from 0 is known not to be negative, which Python
# would let count from the end, and only then does the loop run in vectors.


@compiled(set())
def highest(x, mask, masked, m):
    """The largest existing logit. NaN counts for nothing; `differences` is what finds it."""
    if masked:
        for k in range(x.shape[0]):
            m = larger(real(x[k]) if mask[k] else m, m)
    else:
        for k in range(x.shape[0]):
            m = larger(real(x[k]), m)
    return m


@compiled(FAST)
def differences(x, reference, mask, masked):
    """Σ (z − reference) over the existing classes: NaN or +inf where one of them is."""
    total = reference * 0
    if masked:
        for k in range(x.shape[0]):
            total += real(x[k]) - reference if mask[k] else reference * 0
    else:
        for k in range(x.shape[0]):
            total += real(x[k]) - reference
    return total


@compiled(FAST)
def weighted_differences(x, reference, v):
    """Σ v·(z − reference) with 0·inf = 0."""
    total = reference * 0
    for k in range(x.shape[0]):
        total += v[k] * (real(x[k]) - reference) if v[k] != 0 else reference * 0
    return total


@compiled(FAST)
def exponentials(x, m, mask, masked, kept, e):
    """Σ exp(z − m), the summands kept in e."""
    total = m * 0
    if masked:
        for k in range(x.shape[0]):
            e[k] = exp(real(x[k]) - m) if mask[k] else m * 0
            total += e[k]
    elif kept:
        for k in range(x.shape[0]):
            e[k] = exp(real(x[k]) - m)
            total += e[k]
    else:
        for k in range(x.shape[0]):
            total += exp(real(x[k]) - m)
    return total


@compiled(FAST)
def gradient_row(e, scale, b, v, weighted):
    """e·scale − b·v, over e."""
    if weighted:
        for k in range(e.shape[0]):
            e[k] = e[k] * scale - b * v[k]
    else:
        for k in range(e.shape[0]):
            e[k] = e[k] * scale - b


def gradients_row(out, i, scratch, apart):
    raise NotImplementedError


@overload(gradients_row)
def _gradients_row(out, i, scratch, apart):
    """Where row i is worked on: the gradient's own memory, or the scratch where that is narrower or the logits'."""
    if out.dtype is types.uint16:
        return lambda out, i, scratch, apart: scratch
    return lambda out, i, scratch, apart: scratch if apart else out[i]


@compiled(set())
def finish_row(out, e):
    for k in range(e.shape[0]):
        out[k] = stored(out, e[k])


@compiled(set())
def rows(z, labels, a, b, zeta, alive, v, weighted, v_sum, mask, masked, wanted, out, apart, scratch, found, odd):
    """For (n, K) logits: (lse, nll, smooth) into found (3, n) and the gradient into out; or True into odd, alone.

    `apart`: rows are worked on in the scratch (K). In place the loops could not know that they may run in vectors.
    """
    classes = z.shape[1]
    for i in range(z.shape[0]):
        if not alive[i]:
            found[:, i] = 0
            if wanted:
                out[i] = 0
            continue
        x, e = z[i], gradients_row(out, i, scratch, apart) if wanted else scratch
        reference = real(x[0])
        if not np.isfinite(reference):
            reference = stored(scratch, 0)
        m, s, t = stored(scratch, -np.inf), 0.0, 0.0
        for start in range(0, classes, BLOCK):
            stop = min(start + BLOCK, classes)
            m = highest(x[start:stop], mask[start:stop], masked, m)
            s += differences(x[start:stop], reference, mask[start:stop], masked)
            if weighted:
                t += weighted_differences(x[start:stop], reference, v[start:stop])
        if not (s < np.inf and m > -np.inf):
            odd[i] = True
            continue
        own, total = float(real(x[labels[i]])), 0.0
        for start in range(0, classes, BLOCK):
            stop = min(start + BLOCK, classes)
            total += exponentials(x[start:stop], m, mask[start:stop], masked, wanted, e[start:stop])
        log_total = math.log(total)
        lse = m + log_total
        found[0, i], found[1, i] = lse, log_total + (m - own)
        found[2, i] = v_sum * (log_total + (float(m) - reference)) - (t if weighted else s / classes)
        if wanted:
            height = (a[i] + b[i] * v_sum + 2 * zeta[i] * lse) / total
            gradient_row(e, stored(e, height), stored(e, b[i] if weighted else b[i] / classes), v, weighted)
            e[labels[i]] -= a[i]
            if apart:
                finish_row(out[i], e)


@compiled(set())
def few(z, labels, a, b, wanted, out, losses):
    """(N, K) logits of a small problem whose a and b are numbers and whose v is uniform: as little as can be called.

    a·nll + b·smooth into losses (N), the gradient into out (N, K) if wanted, else out (1, K) is scratch.
    """
    classes, nothing = z.shape[1], np.zeros(1, np.bool_)
    for i in range(z.shape[0]):
        x, e = z[i], out[i if wanted else 0]
        m, s, total = stored(out, -np.inf), 0.0, 0.0
        for start in range(0, classes, BLOCK):
            m = highest(x[start : min(start + BLOCK, classes)], nothing, False, m)
        for start in range(0, classes, BLOCK):
            stop = min(start + BLOCK, classes)
            s += differences(x[start:stop], m, nothing, False)
            total += exponentials(x[start:stop], m, nothing, False, wanted, e[start:stop])
        log_total = math.log(total)
        losses[i] = a * (log_total - (x[labels[i]] - m))
        if b != 0:  # a −inf logit costs nothing without smoothing
            losses[i] += b * (log_total - s / classes)
        if wanted:
            gradient_row(e, stored(e, (a + b) / total), stored(e, b / classes), e, False)
            e[labels[i]] -= a
