"""Rows: classes side by side. One row at a time goes through the second cache level, read twice and written twice.

A row is computed in blocks of classes. Sums are float32 within a block and float64 between blocks. Most blocks are
EVEN: every class exists and has the same share v of the smoothed mass. Those need no row of shares. Only class weights,
priors and the block where a vocabulary's padding begins make other blocks.
"""

import math

import numpy as np

from multismooth.cpu.compiled.arithmetic import FAST, as_float, compiled, entry, exp, larger, rounded

BLOCK = 4096
EVEN, UNEVEN, GAPS = range(
    3
)  # kinds of blocks: one share for all classes; different shares; shares of 0 or absent classes


# Each function takes a block of a row as arrays of its own, and counts from 0. Only then does LLVM know that an index
# is not negative (Python would count it from the end), and makes vectors of the loop.


@compiled(set())
def highest(z, kind, absent, m):
    """The largest of m and the existing logits. NaN is skipped: the sum of the exponentials will be NaN."""
    if kind == GAPS:
        for k in range(z.shape[0]):
            m = larger(as_float(z[k]) + absent[k], m)
    else:
        for k in range(z.shape[0]):
            m = larger(as_float(z[k]), m)
    return m


@compiled(FAST)
def exponentials(z, m, kind, v, absent, e):
    """(Σ exp(z − m), Σ v·(z − m)), or Σ (z − m) where the block is EVEN; the exponentials go to e.

    A class without a share adds nothing to the second sum, not even if its logit is −inf.
    """
    zero = rounded(e, 0.0)  # in the dtype of e: Numba makes m·0 float64, whose vectors hold half as many
    total, smooth_sum = zero, zero
    if kind == EVEN:
        for k in range(z.shape[0]):
            d = as_float(z[k]) - m
            smooth_sum += d
            e[k] = exp(d)
            total += e[k]
    elif kind == UNEVEN:
        for k in range(z.shape[0]):
            d = as_float(z[k]) - m
            smooth_sum += v[k] * d
            e[k] = exp(d)
            total += e[k]
    else:
        for k in range(z.shape[0]):
            d = as_float(z[k]) + absent[k] - m
            smooth_sum += v[k] * d if v[k] != 0 else zero
            e[k] = exp(d)
            total += e[k]
    return total, smooth_sum


@compiled(FAST)
def gradient(e, e_factor, v_factor, even_term, kind, v):
    """e·e_factor − v·v_factor over e; even_term is v·v_factor where the block is EVEN."""
    if kind == EVEN:
        for k in range(e.shape[0]):
            e[k] = e[k] * e_factor - even_term
    else:
        for k in range(e.shape[0]):
            e[k] = e[k] * e_factor - v_factor * v[k]


@compiled(set())
def row(z, e, with_gradient, upstream, label, a, b, z_loss, v, v_sum, kinds, even_shares, absent):
    """(loss of a row, whether it is exact). If it is and `with_gradient`, e becomes upstream·gradient."""
    classes, m, total, smooth_sum = z.shape[0], rounded(e, -np.inf), 0.0, 0.0
    for block in range(kinds.shape[0]):
        start, stop = block * BLOCK, min((block + 1) * BLOCK, classes)
        m = highest(z[start:stop], kinds[block], absent[start:stop], m)
    for block in range(kinds.shape[0]):
        start, stop, kind = block * BLOCK, min((block + 1) * BLOCK, classes), kinds[block]
        block_e = e[start:stop] if with_gradient else e[: stop - start]
        block_total, block_sum = exponentials(z[start:stop], m, kind, v[start:stop], absent[start:stop], block_e)
        total += block_total
        if kind != EVEN:
            smooth_sum += block_sum
        elif even_shares[block] != 0:
            smooth_sum += even_shares[block] * block_sum
    if not 0 < total < np.inf:  # NaN: one of the logits is NaN or +inf, or all are −inf
        return 0.0, False
    log_total = math.log(total)
    lse = m + log_total
    loss = z_loss * lse * lse
    if a != 0:  # a label whose logit is −inf costs nothing without mass
        loss += a * (log_total + (float(m) - as_float(z[label])))
    if b != 0:
        loss += b * (v_sum * log_total - smooth_sum)
    if with_gradient:
        e_factor = rounded(e, upstream * (a + b * v_sum + 2 * z_loss * lse) / total)
        v_factor = rounded(e, upstream * b)
        for block in range(kinds.shape[0]):
            start, stop = block * BLOCK, min((block + 1) * BLOCK, classes)
            even_term = rounded(e, upstream * b * even_shares[block])
            gradient(e[start:stop], e_factor, v_factor, even_term, kinds[block], v[start:stop])
        e[label] -= upstream * a
    return loss, True


@compiled(set())
def store(out, e):
    for k in range(e.shape[0]):
        out[k] = rounded(out, e[k])


@compiled(set(), from_python=True)
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
    even_shares,
    absent,
    out,
    with_gradient,
    upstream,
    in_place,
    scratch,
    losses,
    inexact,
):
    """The losses of (n, K) logits and, `with_gradient`, upstream·gradient to out; inexact rows are only marked.

    Returns whether a row is inexact.

    a, b, z_loss: arrays (n) or numbers; active: array or None. kinds and even_shares: for each block of classes, its
    kind and, where that is EVEN, the share. absent: 0, or −inf at absent classes. scratch: (1, K) in which rows are
    computed, or `in_place` the gradient itself. The loops would not become vectors if they wrote over the logits.
    """
    any_inexact = False
    for i in range(z.shape[0]):
        g, e = out[i if with_gradient else 0], scratch[i if in_place else 0]
        if not entry(active, i):
            losses[i] = 0
            if with_gradient:
                g[:] = 0
            continue
        of_row = upstream, labels[i], entry(a, i), entry(b, i), entry(z_loss, i)
        losses[i], exact = row(z[i], e, with_gradient, *of_row, v, v_sum, kinds, even_shares, absent)
        if not exact:
            inexact[i] = any_inexact = True
        elif with_gradient and not in_place:
            store(g, e)
    return any_inexact
