"""Columns: elements side by side (images, few classes). Blocks are copied to scratch; vectors run across elements."""

import math

import numpy as np

from multismooth.cpu.compiled.arithmetic import as_float, compiled, entry, exp, larger, rounded

TILE = 64  # classes whose terms are added in float32; the sums of tiles are added in float64

# Inner loops run over contiguous parts with one axis, and count from 0. Only then does LLVM know that indices are not
# negative (Python would count those from the end) and that steps are 1, and makes vectors of the loop.


@compiled(set())
def load(z, start, mask, masked, block, m):
    """Copy a part of z (K, P) to block (K, width), absent classes as −inf; the largest logits, NaN skipped, go to m."""
    m[:] = -np.inf
    for k in range(block.shape[0]):
        row, source = block[k], z[k][start : start + block.shape[1]]
        if masked and not mask[k]:
            row[:] = -np.inf
        else:
            for w in range(row.shape[0]):
                row[w] = as_float(source[w])
                m[w] = larger(row[w], m[w])


@compiled({"contract"})
def exponentials(block, m, v, tile_total, total, tile_smooth_sum, smooth_sum):
    """exp(z − m) over the block; Σ exp(z − m) to total, Σ v·(z − m) to smooth_sum."""
    total[:] = 0
    smooth_sum[:] = 0
    for first in range(0, block.shape[0], TILE):
        tile_total[:] = 0
        tile_smooth_sum[:] = 0
        for k in range(first, min(first + TILE, block.shape[0])):
            row, factor = block[k], v[k]
            if factor != 0:
                for w in range(m.shape[0]):
                    d = row[w] - m[w]
                    tile_smooth_sum[w] += factor * d
                    row[w] = exp(d)
                    tile_total[w] += row[w]
            else:
                for w in range(m.shape[0]):
                    row[w] = exp(row[w] - m[w])
                    tile_total[w] += row[w]
        for w in range(m.shape[0]):
            total[w] += tile_total[w]
            smooth_sum[w] += tile_smooth_sum[w]


@compiled({"contract"})
def gradient(block, e_factor, v_factor, v):
    """e·e_factor − v·v_factor over the block, which holds e."""
    for k in range(block.shape[0]):
        factor, row = v[k], block[k]
        for w in range(e_factor.shape[0]):
            row[w] = row[w] * e_factor[w] - v_factor[w] * factor


@compiled(set())
def store(block, inexact, any_inexact, out, start):
    """The block as a part of the gradient (K, P). The entries of inexact elements are left as they are."""
    for k in range(block.shape[0]):
        row, target = block[k], out[k][start : start + block.shape[1]]
        if any_inexact:
            for w in range(row.shape[0]):
                if not inexact[w]:
                    target[w] = rounded(target, row[w])
        else:
            for w in range(row.shape[0]):
                target[w] = rounded(target, row[w])


@compiled(set())
def zero_inactive(block, m, active, i, start):
    """Set inactive elements to 0, whatever stood there."""
    for w in range(m.shape[0]):
        if not entry(active, (i, start + w)):
            block[:, w] = m[w] = 0


@compiled(set())
def losses_and_factors(
    m, z_y, total, smooth_sum, a, b, z_loss, active, v_sum, v_unit, i, start, upstream, e_factor, v_factor, losses,
    inexact,
):  # fmt: skip
    """The losses from the sums, and the factors of `gradient`. Returns whether an element is inexact."""
    any_inexact = False
    for w in range(m.shape[0]):
        place, total_w = (i, start + w), float(total[w])
        if not 0 < total_w < np.inf:  # NaN: one of the logits is NaN or +inf, or all are −inf
            inexact[place] = any_inexact = True
            continue
        a_w, b_w, z_loss_w = entry(a, place), entry(b, place), entry(z_loss, place)
        log_total = math.log(total_w)
        lse = m[w] + log_total
        loss = z_loss_w * lse * lse
        if a_w != 0:  # a label whose logit is −inf costs nothing without mass
            loss += a_w * (log_total + (float(m[w]) - z_y[w]))
        if b_w != 0:
            loss += b_w * (v_sum * log_total - v_unit * smooth_sum[w])
        losses[place] = loss
        e_factor[w] = upstream * (a_w + b_w * v_sum + 2 * z_loss_w * lse) / total_w
        v_factor[w] = upstream * b_w * v_unit
        if not entry(active, place):
            e_factor[w] = v_factor[w] = losses[place] = 0
    return any_inexact


@compiled(set(), from_python=True)
def images(
    z,
    labels,
    a,
    b,
    z_loss,
    active,
    v,
    v_sum,
    v_unit,
    mask,
    masked,
    out,
    with_gradient,
    upstream,
    width,
    scratch,
    lines,
    losses,
    inexact,
):
    """The losses of (B, K, P) logits and, `with_gradient`, upstream·gradient to out; inexact elements are only marked.

    Returns whether an element is inexact.

    a, b, z_loss: arrays (B, P) or numbers; active: array or None. v·v_unit is a class's share of the smoothed mass.
    `width`: elements at a time. Scratch: (K·width) for a block, and lines (8, width), one for each intermediate.
    """
    classes, any_inexact = z.shape[1], False
    for i in range(z.shape[0]):
        g = out[i if with_gradient else 0]
        for start in range(0, z.shape[2], width):
            here = min(width, z.shape[2] - start)
            block, y = scratch[: classes * here].reshape(classes, here), labels[i][start : start + here]
            m, z_y, total, smooth_sum = lines[0][:here], lines[1][:here], lines[2][:here], lines[3][:here]
            tile_total, tile_smooth_sum = lines[4][:here], lines[5][:here]
            e_factor, v_factor = lines[6][:here], lines[7][:here]
            load(z[i], start, mask, masked, block, m)
            zero_inactive(block, m, active, i, start)
            for w in range(here):
                z_y[w] = block[y[w], w]
            exponentials(block, m, v, tile_total, total, tile_smooth_sum, smooth_sum)
            inexact_here = losses_and_factors(
                m, z_y, total, smooth_sum, a, b, z_loss, active, v_sum, v_unit,
                i, start, upstream, e_factor, v_factor, losses, inexact,
            )  # fmt: skip
            any_inexact |= inexact_here
            if with_gradient:
                gradient(block, e_factor, v_factor, v)
                for w in range(here):
                    if entry(active, (i, start + w)):
                        block[y[w], w] -= upstream * entry(a, (i, start + w))
                store(block, inexact[i][start : start + here], inexact_here, g, start)
    return any_inexact
