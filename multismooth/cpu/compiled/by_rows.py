"""Rows: classes side by side. One row after the other goes through the second cache level, read twice, written twice.

A row is worked on in blocks: sums are float32 within a block and float64 between them, and a block in which every class
exists and has the same share v of the smoothed mass (all blocks, but for class weights, priors and the block where
a vocabulary's padding begins) is spared a row of shares.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from multismooth.cpu.compiled.arithmetic import FAST, compiled, exp, larger, of, real, stored

BLOCK = 4096
EVEN, UNEVEN, GAPS = range(3)  # kinds of blocks: one share for all classes; shares differ; some take none or are absent


# Each takes a block of a row as arrays of its own: an index counted from 0 is known not to be negative, which Python
# would let count from the end, and only then does the loop run in vectors.


@compiled(set())
def highest(x, kind, absent, m):
    """The largest existing logit. NaN counts for nothing; the sum of the exponentials is what finds it."""
    if kind == GAPS:
        for k in range(x.shape[0]):
            m = larger(real(x[k]) + absent[k], m)
    else:
        for k in range(x.shape[0]):
            m = larger(real(x[k]), m)
    return m


@compiled(FAST)
def exponentials(x, m, kind, v, absent, e):
    """(Σ exp(z − m), Σ v·(z − m)), or Σ (z − m) where the block is even; the exponentials are left in e.

    A class without a share adds nothing to the second sum, not even if its logit is −inf.
    """
    zero = stored(e, 0.0)  # of the dtype of e: m·0 is float64 to Numba, whose lanes are half as many
    total, away = zero, zero
    if kind == EVEN:
        for k in range(x.shape[0]):
            d = real(x[k]) - m
            away += d
            e[k] = exp(d)
            total += e[k]
    elif kind == UNEVEN:
        for k in range(x.shape[0]):
            d = real(x[k]) - m
            away += v[k] * d
            e[k] = exp(d)
            total += e[k]
    else:
        for k in range(x.shape[0]):
            d = real(x[k]) + absent[k] - m
            away += v[k] * d if v[k] != 0 else zero
            e[k] = exp(d)
            total += e[k]
    return total, away


@compiled(FAST)
def gradient(e, scale, b, share, kind, v):
    """e·scale − b·v, over e."""
    if kind == EVEN:
        for k in range(e.shape[0]):
            e[k] = e[k] * scale - share
    else:
        for k in range(e.shape[0]):
            e[k] = e[k] * scale - b * v[k]


@compiled(set())
def row(x, e, with_gradient, upstream, label, a, b, z_loss, v, v_sum, kinds, levels, absent):
    """(loss of a row, whether it is exact). With `with_gradient`, upstream times its gradient is written to e."""
    classes, m, total, away = x.shape[0], stored(e, -np.inf), 0.0, 0.0
    for block in range(kinds.shape[0]):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, classes)
        m = highest(x[start:stop], kinds[block], absent[start:stop], m)
    for block in range(kinds.shape[0]):
        start, stop, kind = block * BLOCK, min((block + 1) * BLOCK, classes), kinds[block]
        left = e[start:stop] if with_gradient else e[: stop - start]
        part, apiece = exponentials(x[start:stop], m, kind, v[start:stop], absent[start:stop], left)
        total += part
        if kind != EVEN:
            away += apiece
        elif levels[block] != 0:
            away += levels[block] * apiece
    if not 0 < total < np.inf:  # NaN: one of the logits is, or is +inf, or all are −inf
        return 0.0, False
    log_total = math.log(total)
    lse = m + log_total
    loss = z_loss * lse * lse
    if a != 0:  # a −inf logit costs nothing without mass
        loss += a * (log_total + (float(m) - real(x[label])))
    if b != 0:
        loss += b * (v_sum * log_total - away)
    if with_gradient:
        scale, weight = stored(e, upstream * (a + b * v_sum + 2 * z_loss * lse) / total), stored(e, upstream * b)
        for block in range(kinds.shape[0]):
            start, stop, share = block * BLOCK, min((block + 1) * BLOCK, classes), upstream * b * levels[block]
            gradient(e[start:stop], scale, weight, stored(e, share), kinds[block], v[start:stop])
        e[label] -= upstream * a
    return loss, True


@compiled(set())
def finish(out, e):
    for k in range(e.shape[0]):
        out[k] = stored(out, e[k])


@compiled(set())
def in_scratch(x, out, scratch, with_gradient, *rest):
    found = row(x, scratch, with_gradient, *rest)
    if with_gradient and found[1]:
        finish(out, scratch)
    return found


def placed(x, out, scratch, apart, with_gradient, *rest):
    raise NotImplementedError


@overload(placed)
def _placed(x, out, scratch, apart, with_gradient, *rest):
    """`row` where it can work: in the gradient, or in the scratch where the gradient is narrower or the logits."""
    if out.dtype is types.uint16:
        return lambda x, out, scratch, apart, with_gradient, *rest: in_scratch(x, out, scratch, with_gradient, *rest)

    def either(x, out, scratch, apart, with_gradient, *rest):
        return (
            row(x, out, with_gradient, *rest)
            if with_gradient and not apart
            else in_scratch(x, out, scratch, with_gradient, *rest)
        )

    return either


@compiled(set())
def rows(
    z,
    labels,
    a,
    b,
    z_loss,
    active,
    v,
    v_sum,
    kinds,
    levels,
    absent,
    out,
    with_gradient,
    upstream,
    apart,
    scratch,
    losses,
    inexact,
):
    """The losses of (n, K) logits and, `with_gradient`, upstream·gradient into out; only True into inexact where it is.

    a, b, z_loss: arrays (n) or numbers; active: array or None. kinds and levels: of each block, and the share where it
    is even. `apart`: rows are worked on in the scratch (K), because in place the loops could not run in vectors.
    """
    strange = False
    for i in range(z.shape[0]):
        g = out[i if with_gradient else 0]
        if not of(active, i):
            losses[i] = 0
            if with_gradient:
                g[:] = 0
            continue
        own = upstream, labels[i], of(a, i), of(b, i), of(z_loss, i)
        losses[i], right = placed(z[i], g, scratch, apart, with_gradient, *own, v, v_sum, kinds, levels, absent)
        if not right:
            inexact[i] = strange = True
    return strange
