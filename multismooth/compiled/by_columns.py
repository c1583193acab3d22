"""Columns: elements side by side (images, few classes). A block of them is a scratch; the vectors run across."""

import math

import numpy as np

from multismooth.compiled.arithmetic import compiled, exp, real, stored

TILE = 64  # classes whose terms are added in float32; the tiles are added in float64

# Inner loops run over one-dimensional contiguous parts, from 0: only then are indices known not to be negative, which
# Python would let count from the end, steps known to be 1, and the loops made of vectors.


@compiled(set())
def load(z, start, alive, mask, masked, x):
    """x (K, WIDTH) from a part of z (K, P): absent classes at −inf, dead elements at 0."""
    for k in range(x.shape[0]):
        row, source = x[k], z[k][start : start + x.shape[1]]
        for w in range(row.shape[0]):
            row[w] = real(source[w])
        if masked and not mask[k]:
            row[:] = -np.inf
    for w in range(x.shape[1]):
        if not alive[w]:
            x[:, w] = 0


@compiled(set())
def highest_of(x, m):
    m[:] = x[0]
    for k in range(1, x.shape[0]):
        row = x[k]
        for w in range(m.shape[0]):
            m[w] = row[w] if row[w] > m[w] else m[w]


@compiled({"contract"})
def add_differences(x, m, v, weighted, mask, masked, partial, sums):
    """Σ v·(z − m) over the existing classes: NaN or −inf as they come."""
    sums[:] = 0
    for first in range(0, x.shape[0], TILE):
        partial[:] = 0
        for k in range(first, min(first + TILE, x.shape[0])):
            factor, row = v[k] if weighted else stored(partial, 1), x[k]
            if factor != 0 and (not masked or mask[k]):
                for w in range(m.shape[0]):
                    partial[w] += factor * (row[w] - m[w])
        for w in range(m.shape[0]):
            sums[w] += partial[w]


@compiled({"contract"})
def exponentials_of(x, m, partial, sums):
    """exp(z − m) over x, their sums into sums."""
    sums[:] = 0
    for first in range(0, x.shape[0], TILE):
        partial[:] = 0
        for k in range(first, min(first + TILE, x.shape[0])):
            row = x[k]
            for w in range(m.shape[0]):
                row[w] = exp(row[w] - m[w])
                partial[w] += row[w]
        for w in range(m.shape[0]):
            sums[w] += partial[w]


@compiled({"contract"})
def gradient_of(x, scale, share, v, weighted):
    """x·scale − share·v, over x."""
    for k in range(x.shape[0]):
        factor, row = v[k] if weighted else stored(scale, 1), x[k]
        for w in range(scale.shape[0]):
            row[w] = row[w] * scale[w] - share[w] * factor


@compiled(set())
def store(x, odd, some, out, start):
    """x as a part of the gradient (K, P), the odd elements left as they are."""
    for k in range(x.shape[0]):
        row, target = x[k], out[k][start : start + x.shape[1]]
        if some:
            for w in range(row.shape[0]):
                if not odd[w]:
                    target[w] = stored(target, row[w])
        else:
            for w in range(row.shape[0]):
                target[w] = stored(target, row[w])


@compiled(set())
def finish(a, b, zeta, alive, weighted, v_sum, classes, sums, lse, nll, smooth, scale, share):
    """The statistics from what `block` put there, and what the gradient multiplies and subtracts."""
    for w in range(a.shape[0]):
        log_total = math.log(sums[w])
        lse[w] += log_total
        nll[w] += log_total
        smooth[w] = v_sum * log_total - smooth[w]
        height = (a[w] + b[w] * v_sum + 2 * zeta[w] * lse[w]) / sums[w]
        scale[w], share[w] = height, b[w] if weighted else b[w] / classes
        if not alive[w]:
            scale[w] = share[w] = 0
            lse[w] = nll[w] = smooth[w] = 0


@compiled(set())
def columns(z, labels, a, b, zeta, alive, v, weighted, v_sum, mask, masked, wanted, out, width, x, lines, found, odd):
    """For (K, P) logits: (lse, nll, smooth) into found (3, P) and the gradient into out; or True into odd, alone.

    `width` elements at a time; x (K·width) and lines (4, width) are scratch.
    """
    classes, sums = z.shape[0], np.empty(width)
    for start in range(0, z.shape[1], width):
        stop, some = min(start + width, z.shape[1]), False
        here = stop - start
        block, total = x[: classes * here].reshape(classes, here), sums[:here]
        m, partial, scale, share = lines[0][:here], lines[1][:here], lines[2][:here], lines[3][:here]
        lse, nll, smooth = found[0][start:stop], found[1][start:stop], found[2][start:stop]
        y, living, strange = labels[start:stop], alive[start:stop], odd[start:stop]
        load(z, start, living, mask, masked, block)
        highest_of(block, m)
        add_differences(block, m, v, False, mask, masked, partial, total)
        for w in range(here):
            if not total[w] <= 0:  # NaN: one of the logits is, or is +inf, or all are −inf
                strange[w] = some = True
            lse[w], nll[w], smooth[w] = m[w], m[w] - float(block[y[w], w]), total[w] / classes
        if weighted:
            add_differences(block, m, v, True, mask, masked, partial, total)
            smooth[:] = total
        exponentials_of(block, m, partial, total)
        own = a[start:stop]
        finish(
            own,
            b[start:stop],
            zeta[start:stop],
            living,
            weighted,
            v_sum,
            classes,
            total,
            lse,
            nll,
            smooth,
            scale,
            share,
        )
        if wanted:
            gradient_of(block, scale, share, v, weighted)
            for w in range(here):
                if living[w]:
                    block[y[w], w] -= own[w]
            store(block, strange, some, out, start)


@compiled(set())
def images(z, labels, a, b, zeta, alive, v, weighted, v_sum, mask, masked, wanted, out, width, x, lines, found, odd):
    """`columns` for each of (B, K, P) logits; found (B, 3, P)."""
    for i in range(z.shape[0]):
        columns(
            z[i], labels[i], a[i], b[i], zeta[i], alive[i], v, weighted, v_sum, mask, masked, wanted,
            out[i] if wanted else out[0], width, x, lines, found[i], odd[i],
        )  # fmt: skip
