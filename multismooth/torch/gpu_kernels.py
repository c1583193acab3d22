"""The Triton kernels for given logits: `forward`, `backward`, and `both` in one. `gpu` chooses among them and launches.

All take the same arguments: the memory, the plan of `spec` as (labels, a, b, Σv, zeta, alive) and its rows v and mask,
sizes and strides, how far the plan's entries lie apart (STEPS), and the tile. `gpu_tiles` says what is computed.

The label's entry of the gradient is found by comparing in the tile. A scalar store after the tile's would save two
instructions per logit, but needs a barrier between them, and across the blocks of a cluster Triton has none.
"""

import triton
import triton.language as tl

from multismooth.torch.gpu_tiles import (
    LOWEST,
    bounds,
    coefficients,
    edges,
    elements,
    held,
    highest,
    interior,
    label_logit,
    located,
    loss_of,
    read,
    scale_of,
    scanned,
    turned,
    write,
)


@triton.jit
def forward(
    logits, gradient, losses, peaks, totals, plan, v, mask, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr, VEC: tl.constexpr,
    EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses, peaks and totals (B·P), from one read."""
    item, p, exists = elements(tl.program_id(0), P, ROWS)
    place, start = item * P + p, item * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, zeta, alive = coefficients(plan, place, exists, STEPS, COMPUTE)
    lead, first, last = bounds(start, K, VEC, EDGE)
    own, anchor = label_logit(logits, start, label, sk, mask, alive, COMPUTE)
    peak, total, away = scanned(
        located(logits, start, VEC), sk, K, anchor, alive, lead, first, last, v, mask,
        ROWS, COLS, GROUP, VEC, EDGE, COMPUTE, "evict_first",
    )  # fmt: skip
    loss = loss_of(peak, total, away, anchor, own, v, K, a, b, v_sum, zeta)
    tl.store(losses + place, tl.where(alive, loss, 0.0), mask=exists)
    tl.store(peaks + place, peak, mask=exists)
    tl.store(totals + place, total, mask=exists)


@triton.jit
def backward(
    logits, gradient, losses, peaks, totals, plan, v, mask, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr, VEC: tl.constexpr,
    EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The gradient from what `forward` left: one read and one write, a program for each COLS classes."""
    DEAD: tl.constexpr = plan[5] is not None
    blocks = tl.cdiv(K, COLS)
    item, p, exists = elements(tl.program_id(0) // blocks, P, ROWS)
    left = tl.program_id(0) % blocks * COLS
    place, start = item * P + p, item * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, zeta, alive = coefficients(plan, place, exists, STEPS, COMPUTE)
    peak, total = tl.load(peaks + place, mask=exists, other=0), tl.load(totals + place, mask=exists, other=1)
    scale = scale_of(peak, total, a, b, v_sum, zeta)
    lead, first, last = bounds(start, K, VEC, EDGE)
    origin, target = located(logits, start, VEC), located(gradient, item * gb + p * gp, VEC)
    j, inside = interior(left, first, last, COLS, EDGE)
    turned(
        origin, target, j, sk, gk, j - lead, K, inside, exists, alive, peak, label, scale, a, b, v, mask, DEAD, COMPUTE
    )
    if EDGE > 0:  # noqa: SIM102 known to the compiler, the other is not
        if left == 0:
            i, outer = edges(lead, first, last, K, VEC, EDGE)
            turned(
                origin, target, i, sk, gk, i - lead, K, outer, exists, alive, peak, label, scale, a, b, v, mask,
                DEAD, COMPUTE,
            )  # fmt: skip


@triton.jit
def both(
    logits, gradient, losses, peaks, totals, plan, v, mask, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr, VEC: tl.constexpr,
    EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses and gradient. GROUP 0: the tile holds all classes, which are read once. Else twice, from L2 at best."""
    DEAD: tl.constexpr = plan[5] is not None
    item, p, exists = elements(tl.program_id(0), P, ROWS)
    place, start = item * P + p, item * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, zeta, alive = coefficients(plan, place, exists, STEPS, COMPUTE)
    lead, first, last = bounds(start, K, VEC, EDGE)
    origin, target = located(logits, start, VEC), located(gradient, item * gb + p * gp, VEC)
    own, anchor = label_logit(logits, start, label, sk, mask, alive, COMPUTE)
    j, inside = interior(0, first, last, COLS, EDGE)
    if EDGE > 0:
        i, outer = edges(lead, first, last, K, VEC, EDGE)
    if GROUP == 0:
        z = read(origin, j, sk, j - lead, inside & alive, mask, COMPUTE, "evict_first")
        peak = tl.maximum(highest(z), LOWEST)
        if EDGE > 0:
            y = read(origin, i, sk, i - lead, outer & alive, mask, COMPUTE, "evict_first")
            peak = tl.maximum(highest(y), peak)
        anchor = peak
        e, total, away = held(z, peak, v, j - lead, inside & alive, COMPUTE)
        if EDGE > 0:
            f, total_f, away_f = held(y, peak, v, i - lead, outer & alive, COMPUTE)
            total, away = total + total_f, away + away_f
    else:
        peak, total, away = scanned(
            origin, sk, K, anchor, alive, lead, first, last, v, mask,
            ROWS, COLS, GROUP, VEC, EDGE, COMPUTE, "evict_last",
        )  # fmt: skip
    loss = loss_of(peak, total, away, anchor, own, v, K, a, b, v_sum, zeta)
    tl.store(losses + place, tl.where(alive, loss, 0.0), mask=exists)
    scale = scale_of(peak, total, a, b, v_sum, zeta)
    tl.debug_barrier()  # the gradient may go over the logits, of which another warp may still want the label's
    if GROUP == 0:
        write(e, target, j, gk, j - lead, K, inside & exists, label, alive, scale, a, b, v, DEAD, COMPUTE)
        if EDGE > 0:
            write(f, target, i, gk, i - lead, K, outer & exists, label, alive, scale, a, b, v, DEAD, COMPUTE)
    else:
        for left in range(0, K, COLS):
            j, inside = interior(left, first, last, COLS, EDGE)
            turned(
                origin, target, j, sk, gk, j - lead, K, inside, exists, alive, peak, label, scale, a, b, v, mask,
                DEAD, COMPUTE,
            )  # fmt: skip
        if EDGE > 0:
            turned(
                origin, target, i, sk, gk, i - lead, K, outer, exists, alive, peak, label, scale, a, b, v, mask,
                DEAD, COMPUTE,
            )  # fmt: skip
