"""The Triton kernels for given logits: `forward`, `backward`, and `both` in one. `gpu` chooses among them and launches.

All take the same arguments: the memory, the plan of `spec` as (labels, a, b, Σv, z_loss, active) and its rows v and
mask, sizes and strides, how far the plan's entries lie apart (STEPS), and the tile. `tile_arithmetic` says what is
computed.

Instructions per logit in the machine code for sm_90, Triton 3.9, bfloat16, a shared a and b, v = 1/K; in brackets with
everything else that a plan may hold. Per logit of a tile, the tile's own included, a loop's body counted once; nothing
was run: `python tests/test_gpu_compiled.py` prints all of it. An H200 can issue 27 in the time of 4 bytes.

    K                  forward      backward     both         both is held by
    32,000             19           16           24           2 blocks of 16 warps, 64 registers: two are at home
    50,257 (edges)     22 (33)      20 (30)      32 (48)      4
    128,256            19 (27)      16 (25)      24 (38)      8
    262,144            19           16           24           16
    32,000, no cluster                           22           1 block of 32 warps
    128,256, no cluster                          32           nothing: read twice
    150, images        44           17           44           1 block of 8 warps: 32 elements side by side
One exponential per logit, and one for each 16 bytes of them where a maximum is running. Logits and their gradient are
read and written 16 bytes at a time, but for edges.

The label's entry of the gradient is found by comparing in the tile. A scalar store after the tile's would save two
instructions per logit, but needs a barrier between them, and across the blocks of a cluster Triton has none.
"""

import triton
import triton.language as tl

from multismooth.torch.gpu.tile_arithmetic import (
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
    logits, gradient, losses, peaks, totals, upstream, plan, v, mask, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, GUARD: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses, peaks and totals (B·P), from one read."""
    item, p, exists = elements(tl.program_id(0), P, ROWS)
    place, start = item * P + p, item * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, z_loss, active = coefficients(plan, place, exists, STEPS, COMPUTE)
    lead, first, last = bounds(start, K, VEC, EDGE)
    own, anchor = label_logit(logits, start, label, sk, mask, active, COMPUTE)
    peak, total, away = scanned(
        located(logits, start, VEC), sk, K, anchor, active, lead, first, last, v, mask,
        ROWS, COLS, GROUP, VEC, EDGE, COMPUTE, "evict_first",
    )  # fmt: skip
    loss = loss_of(peak, total, away, anchor, own, v, K, a, b, v_sum, z_loss)
    tl.store(losses + place, tl.where(active, loss, 0.0), mask=exists)
    tl.store(peaks + place, peak, mask=exists)
    tl.store(totals + place, total, mask=exists)


@triton.jit
def backward(
    logits, gradient, losses, peaks, totals, upstream, plan, v, mask, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, GUARD: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The gradient from what `forward` or `both` left: one read and one write, a program for each COLS classes.

    GUARD: it is there already for an upstream gradient of 1, which the device alone can see.
    """
    DEAD: tl.constexpr = plan[5] is not None
    factor = 1.0
    if upstream is not None:
        factor = tl.load(upstream)
    if GUARD:  # noqa: SIM102 known to the compiler, the other is not
        if factor == 1:
            return
    blocks = tl.cdiv(K, COLS)
    item, p, exists = elements(tl.program_id(0) // blocks, P, ROWS)
    left = tl.program_id(0) % blocks * COLS
    place, start = item * P + p, item * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, z_loss, active = coefficients(plan, place, exists, STEPS, COMPUTE)
    peak, total = tl.load(peaks + place, mask=exists, other=0), tl.load(totals + place, mask=exists, other=1)
    if upstream is not None:
        a, b, z_loss = a * factor, b * factor, z_loss * factor
    scale = scale_of(peak, total, a, b, v_sum, z_loss)
    lead, first, last = bounds(start, K, VEC, EDGE)
    origin, target = located(logits, start, VEC), located(gradient, item * gb + p * gp, VEC)
    j, inside = interior(left, first, last, COLS, EDGE)
    turned(
        origin, target, j, sk, gk, j - lead, K, inside, exists, active, peak, label, scale, a, b, v, mask, DEAD, COMPUTE
    )
    if EDGE > 0:  # noqa: SIM102 known to the compiler, the other is not
        if left == 0:
            i, outer = edges(lead, first, last, K, VEC, EDGE)
            turned(
                origin, target, i, sk, gk, i - lead, K, outer, exists, active, peak, label, scale, a, b, v, mask,
                DEAD, COMPUTE,
            )  # fmt: skip


@triton.jit
def both(
    logits, gradient, losses, peaks, totals, upstream, plan, v, mask, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, GUARD: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses and gradient. GROUP 0: the tile holds all classes, which are read once. Else twice, from L2 at best."""
    DEAD: tl.constexpr = plan[5] is not None
    item, p, exists = elements(tl.program_id(0), P, ROWS)
    place, start = item * P + p, item * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, z_loss, active = coefficients(plan, place, exists, STEPS, COMPUTE)
    lead, first, last = bounds(start, K, VEC, EDGE)
    origin, target = located(logits, start, VEC), located(gradient, item * gb + p * gp, VEC)
    own, anchor = label_logit(logits, start, label, sk, mask, active, COMPUTE)
    j, inside = interior(0, first, last, COLS, EDGE)
    if EDGE > 0:
        i, outer = edges(lead, first, last, K, VEC, EDGE)
    if GROUP == 0:
        z = read(origin, j, sk, j - lead, inside & active, mask, COMPUTE, "evict_first")
        peak = tl.maximum(highest(z), LOWEST)
        if EDGE > 0:
            y = read(origin, i, sk, i - lead, outer & active, mask, COMPUTE, "evict_first")
            peak = tl.maximum(highest(y), peak)
        anchor = peak
        e, total, away = held(z, peak, v, j - lead, inside & active, COMPUTE)
        if EDGE > 0:
            f, total_f, away_f = held(y, peak, v, i - lead, outer & active, COMPUTE)
            total, away = total + total_f, away + away_f
    else:
        peak, total, away = scanned(
            origin, sk, K, anchor, active, lead, first, last, v, mask,
            ROWS, COLS, GROUP, VEC, EDGE, COMPUTE, "evict_last",
        )  # fmt: skip
    if peaks is not None:  # at once: kept until the loss is there, they spill where a row is shared
        tl.store(peaks + place, peak, mask=exists)
        tl.store(totals + place, total, mask=exists)
    scale = scale_of(peak, total, a, b, v_sum, z_loss)
    loss = loss_of(peak, total, away, anchor, own, v, K, a, b, v_sum, z_loss)
    tl.store(losses + place, tl.where(active, loss, 0.0), mask=exists)
    tl.debug_barrier()  # the gradient may go over the logits, of which another warp may still want the label's
    if GROUP == 0:
        write(e, target, j, gk, j - lead, K, inside & exists, label, active, scale, a, b, v, DEAD, COMPUTE)
        if EDGE > 0:
            write(f, target, i, gk, i - lead, K, outer & exists, label, active, scale, a, b, v, DEAD, COMPUTE)
    else:
        for left in range(0, K, COLS):
            j, inside = interior(left, first, last, COLS, EDGE)
            turned(
                origin, target, j, sk, gk, j - lead, K, inside, exists, active, peak, label, scale, a, b, v, mask,
                DEAD, COMPUTE,
            )  # fmt: skip
        if EDGE > 0:
            turned(
                origin, target, i, sk, gk, i - lead, K, outer, exists, active, peak, label, scale, a, b, v, mask,
                DEAD, COMPUTE,
            )  # fmt: skip


# --- what is not about a tile of logits -------------------------------------------------------------------------------


@triton.jit
def pieces(targets, start, size, ignored, BLOCK: tl.constexpr):
    """(place, whether it is one, label, whether that is ignored) of BLOCK elements."""
    i = start + tl.arange(0, BLOCK)
    y = tl.load(targets + i, mask=i < size, other=0)
    return i, i < size, y, (y != y if ignored is None else y == ignored) & (i < size)


@triton.jit
def picked(memory, pair, i, here, gone, factor):
    """What a pair of numbers says of each element, times the mean's factor."""
    if memory is not None:
        tl.store(memory + i, tl.where(gone, pair[1], pair[0]) * factor, mask=here)


@triton.jit
def lookup(
    targets, labels, active, memory, pairs, size, K, ignored, share, ignored_share, add, floor,
    COUNTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A plan's labels, active, a, b, const and z_loss from pairs of numbers: see `gpu_plans`. One program for all."""
    factor = 1.0
    if COUNTED:  # the mean: `reduction.denominator`
        count = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, size, BLOCK):
            i, here, y, gone = pieces(targets, start, size, ignored, BLOCK)
            count += gone.to(tl.int32)
        dead = tl.sum(count)
        total = tl.maximum(share * (size - dead) + ignored_share * dead + add, floor)
        factor = tl.where(total == 0, 0.0, 1 / tl.where(total == 0, 1.0, total))
    for start in range(0, size, BLOCK):
        i, here, y, gone = pieces(targets, start, size, ignored, BLOCK)
        inside = (y >= 0) & (y < K)
        tl.store(labels + i, tl.where(inside, y, 0), mask=here)
        if active is not None:
            tl.store(active + i, gone == 0, mask=here)
        known = tl.where(inside | gone, factor, float("nan"))  # a label that names no class is NaN for its element
        picked(memory[0], pairs[0], i, here, gone, known)
        picked(memory[1], pairs[1], i, here, gone, factor)
        picked(memory[2], pairs[2], i, here, gone, known)
        picked(memory[3], pairs[3], i, here, gone, factor)


@triton.jit
def rescale(memory, factor, size, BLOCK: tl.constexpr):
    """memory·factor in place; nothing is read where the factor, known to the device alone, is 1."""
    scale = tl.load(factor)
    if scale != 1:
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, step):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(memory + i, mask=i < size)
            tl.store(memory + i, (x.to(tl.float32) * scale).to(memory.dtype.element_ty), mask=i < size)
