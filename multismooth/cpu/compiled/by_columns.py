"""Columns: elements side by side (images, few classes). A block of them is a scratch; the vectors run across."""

import math

import numpy as np

from multismooth.cpu.compiled.arithmetic import compiled, exp, larger, of, real, stored

TILE = 64  # classes whose terms are added in float32; the tiles are added in float64

# Inner loops run over one-dimensional contiguous parts, from 0: only then are indices known not to be negative, which
# Python would let count from the end, steps known to be 1, and the loops made of vectors.


@compiled(set())
def load(z, start, mask, masked, x, m):
    """x (K, WIDTH) from a part of z (K, P), absent classes at −inf; the largest logits, but for NaN, into m."""
    m[:] = -np.inf
    for k in range(x.shape[0]):
        row, source = x[k], z[k][start : start + x.shape[1]]
        if masked and not mask[k]:
            row[:] = -np.inf
        else:
            for w in range(row.shape[0]):
                row[w] = real(source[w])
                m[w] = larger(row[w], m[w])


@compiled({"contract"})
def exponentials(x, m, v, partial, total, partial_away, away):
    """exp(z − m) over x; Σ exp(z − m) into total, Σ v·(z − m) into away."""
    total[:] = 0
    away[:] = 0
    for first in range(0, x.shape[0], TILE):
        partial[:] = 0
        partial_away[:] = 0
        for k in range(first, min(first + TILE, x.shape[0])):
            row, factor = x[k], v[k]
            if factor != 0:
                for w in range(m.shape[0]):
                    d = row[w] - m[w]
                    partial_away[w] += factor * d
                    row[w] = exp(d)
                    partial[w] += row[w]
            else:
                for w in range(m.shape[0]):
                    row[w] = exp(row[w] - m[w])
                    partial[w] += row[w]
        for w in range(m.shape[0]):
            total[w] += partial[w]
            away[w] += partial_away[w]


@compiled({"contract"})
def gradient(x, scale, share, v):
    """x·scale − share·v, over x."""
    for k in range(x.shape[0]):
        factor, row = v[k], x[k]
        for w in range(scale.shape[0]):
            row[w] = row[w] * scale[w] - share[w] * factor


@compiled(set())
def store(x, inexact, some, out, start):
    """x as a part of the gradient (K, P), the inexact elements left as they are."""
    for k in range(x.shape[0]):
        row, target = x[k], out[k][start : start + x.shape[1]]
        if some:
            for w in range(row.shape[0]):
                if not inexact[w]:
                    target[w] = stored(target, row[w])
        else:
            for w in range(row.shape[0]):
                target[w] = stored(target, row[w])


@compiled(set())
def bury(x, m, active, start):
    """Dead elements at 0, whatever stood there."""
    for w in range(m.shape[0]):
        if not of(active, start + w):
            x[:, w] = m[w] = 0


@compiled(set())
def finish(m, own, total, away, a, b, z_loss, active, v_sum, unit, start, upstream, scale, share, losses, inexact):
    """The losses from the sums, and what the gradient multiplies and subtracts. True if an element is inexact."""
    strange = False
    for w in range(m.shape[0]):
        here = float(total[w])
        if not 0 < here < np.inf:  # NaN: one of the logits is, or is +inf, or all are −inf
            inexact[start + w] = strange = True
            continue
        own_a, own_b, own_zeta = of(a, start + w), of(b, start + w), of(z_loss, start + w)
        log_total = math.log(here)
        lse = m[w] + log_total
        loss = own_zeta * lse * lse
        if own_a != 0:  # a −inf logit costs nothing without mass
            loss += own_a * (log_total + (float(m[w]) - own[w]))
        if own_b != 0:
            loss += own_b * (v_sum * log_total - unit * away[w])
        losses[start + w] = loss
        scale[w] = upstream * (own_a + own_b * v_sum + 2 * own_zeta * lse) / here
        share[w] = upstream * own_b * unit
        if not of(active, start + w):
            scale[w] = share[w] = losses[start + w] = 0
    return strange


@compiled(set())
def columns(
    z,
    labels,
    a,
    b,
    z_loss,
    active,
    v,
    v_sum,
    unit,
    mask,
    masked,
    out,
    with_gradient,
    upstream,
    width,
    x,
    lines,
    losses,
    inexact,
):
    """For (K, P) logits: the losses and, with_gradient, upstream·gradient into out; or True into inexact, alone."""
    classes, strange = z.shape[0], False
    for start in range(0, z.shape[1], width):
        here = min(width, z.shape[1] - start)
        block, y = x[: classes * here].reshape(classes, here), labels[start : start + here]
        m, own, total, away = lines[0][:here], lines[1][:here], lines[2][:here], lines[3][:here]
        partial, partial_away, scale, share = lines[4][:here], lines[5][:here], lines[6][:here], lines[7][:here]
        load(z, start, mask, masked, block, m)
        bury(block, m, active, start)
        for w in range(here):
            own[w] = block[y[w], w]
        exponentials(block, m, v, partial, total, partial_away, away)
        some = finish(
            m, own, total, away, a, b, z_loss, active, v_sum, unit, start, upstream, scale, share, losses, inexact
        )
        strange |= some
        if with_gradient:
            gradient(block, scale, share, v)
            for w in range(here):
                if of(active, start + w):
                    block[y[w], w] -= upstream * of(a, start + w)
            store(block, inexact[start : start + here], some, out, start)
    return strange


@compiled(set(), counted=True)
def images(
    z,
    labels,
    a,
    b,
    z_loss,
    active,
    v,
    v_sum,
    unit,
    mask,
    masked,
    out,
    with_gradient,
    upstream,
    width,
    x,
    lines,
    losses,
    inexact,
):
    """`columns` for each of (B, K, P) logits.

    a, b, z_loss: arrays (B, P) or numbers; active: array or None. v·unit is a class's share of the smoothed mass.
    `width` elements at a time; x (K·width) and lines (8, width) are scratch.
    """
    strange = False
    for i in range(z.shape[0]):
        strange |= columns(
            z[i], labels[i], of(a, i), of(b, i), of(z_loss, i), of(active, i), v, v_sum, unit, mask, masked,
            out[i if with_gradient else 0], with_gradient, upstream, width, x, lines, losses[i], inexact[i],
        )  # fmt: skip
    return strange
