"""The Triton kernels of logits: `forward`, `backward`, and `both` in one. `tiles` chooses tiles, `launch` launches.

All three take the same arguments: the memory, the plan as (labels, a, b, Σv, z_loss, active, soft cap), its rows v and
mask, sizes and strides, the distances between the plan's entries (STEPS), and the tile. `tile_arithmetic` says what is
computed. The file ends with two kernels that take no tile of logits: `lookup` makes a plan, `rescale` multiplies a
gradient.

Instructions per logit in the machine code for sm_90 (bfloat16, Triton 3.9; in brackets 3.6), of an everyday call on a
GPU: coefficients of its own for each element, v = 1/K, some elements ignored. The counts are per logit of a tile,
include the tile's own instructions, and count the body of a loop once. Nothing was run; `python
tests/test_gpu_compiled.py` prints all of it. An H200 can issue 27 instructions in the time of 4 bytes.

    K                     forward   backward  both       what keeps the row in `both`
    1,000                 18 (18)   12 (13)   18 (20)    1 warp
    32,000                19 (20)   13 (14)   19         2 blocks of 8 warps and 128 registers: two fit together
    50,257 (edges)        22 (24)   15 (16)   26         4 blocks
    128,256               19 (20)   13 (14)   20         8 blocks
    262,144               19 (20)   13 (14)   20         16 blocks
    32,000, no cluster                        20 (22)    1 block of 32 warps
    128,256, no cluster                       25 (27)    nothing: the row is read twice
    150, images           53 (56)   20 (20)   54 (53)    1 block of 8 warps: 32 elements side by side

There is one exponential for each logit, and one for each 16 bytes of logits where a maximum is running. Logits and
their gradient are read and written 16 bytes at a time, except at edges.

The label's entry of the gradient is written over the tile's, after a barrier. Where blocks of a cluster share the tile,
Triton has no such barrier, and the label is found by comparing every class. That is three instructions per logit.
"""

import triton
import triton.language as tl

from multismooth.torch.gpu.adding_up import add_up, store_losses
from multismooth.torch.gpu.plan_kernels import everyday, guard, sums
from multismooth.torch.gpu.soft_cap import cap_of
from multismooth.torch.gpu.soft_kernels import soft_backward, soft_both, soft_forward
from multismooth.torch.gpu.tile_arithmetic import (
    LOWEST_PEAK,
    coefficient,
    coefficients,
    edges,
    gradient_factors,
    label_is_mine,
    label_logit,
    load_and_store_gradient,
    load_logits,
    looping_statistics,
    loss_of,
    place_zero,
    resident_statistics,
    row_bounds,
    row_max,
    store_gradient,
    store_label_gradient,
    tile_elements,
    whole_accesses,
)

__all__ = ["backward", "both", "everyday", "forward", "guard", "lookup", "rescale", "sums", "tl"]
__all__ += ["soft_backward", "soft_both", "soft_forward"]


@triton.jit
def forward(
    logits, gradient, losses, peaks, totals, total_loss, ticket, upstream, plan, v, mask,
    B, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, SKIP_IF_ONE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    CTAS: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses, peaks and totals (B·P), from one read.

    With a ticket, `losses` has room for the sum of each tile, and the last program writes that of all to `total_loss`.
    The loss of an element whose logits do not count is 0, or NaN if its a is: so a plan marks a mean over nothing.
    """
    batch, p, exists = tile_elements(B, P, ROWS)
    element, start = batch * P + p, batch * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, z_loss, active = coefficients(plan, element, exists, STEPS, COMPUTE)
    cap = plan[6]
    if plan[6] is not None:
        cap = cap_of(plan, STEPS, COMPUTE)
    lead, first, last = row_bounds(start, K, VEC, EDGE)
    z_y, anchor = label_logit(logits, start, label, sk, mask, cap, active, COMPUTE)
    peak, total, v_sum_z = looping_statistics(
        place_zero(logits, start, VEC), sk, K, anchor, exists, active, lead, first, last, v, mask, cap,
        ROWS, COLS, GROUP, VEC, EDGE, COMPUTE, "",
    )  # fmt: skip
    loss = loss_of(peak, total, v_sum_z, anchor, z_y, v, K, a, b, v_sum, z_loss, plan[4] is not None)
    if peaks is not None:
        tl.store(peaks + element, peak, mask=exists)
        tl.store(totals + element, total, mask=exists)
    store_losses(losses, tl.where(active, loss, tl.where(a == a, 0.0, a)), element, exists, ticket)
    add_up(losses, total_loss, ticket)


@triton.jit
def backward(
    logits, gradient, losses, peaks, totals, total_loss, ticket, upstream, plan, v, mask,
    B, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, SKIP_IF_ONE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    CTAS: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The gradient from what `forward` or `both` found: one read and one write, with a program for each COLS classes.

    SKIP_IF_ONE: `gradient` already holds the gradient for an upstream gradient of 1. Only the device can see that
    number, so the kernel looks and returns.
    """
    if SKIP_IF_ONE:  # noqa: SIM102 the compiler knows the first condition, the device alone the second
        if tl.load(upstream).to(COMPUTE) == 1:
            return
    batch, p, exists = tile_elements(B, P, ROWS)
    left = tl.program_id(0) * COLS
    element, start = batch * P + p, batch * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, z_loss, active = coefficients(plan, element, exists, STEPS, COMPUTE)
    cap = plan[6]
    if plan[6] is not None:
        cap = cap_of(plan, STEPS, COMPUTE)
    peak, total = tl.load(peaks + element, mask=exists, other=0), tl.load(totals + element, mask=exists, other=1)
    if upstream is not None:
        factor = coefficient(upstream, element, exists, STEPS[5], COMPUTE)
        a, b, z_loss = a * factor, b * factor, z_loss * factor
    a, b, scale = gradient_factors(active, peak, total, a, b, v_sum, z_loss, plan[4] is not None)
    lead, first, last = row_bounds(start, K, VEC, EDGE)
    origin, target = place_zero(logits, start, VEC), place_zero(gradient, batch * gb + p * gp, VEC)
    mine = label_is_mine(label + lead, left, first, last, active, COLS, EDGE)
    z_y, _ = label_logit(logits, start, label, sk, mask, cap, mine, COMPUTE)
    tl.debug_barrier()  # the gradient may overwrite the logits, and another warp may not have read the label's yet
    j, inside = whole_accesses(left, first, last, COLS, EDGE)
    load_and_store_gradient(
        origin, target, j, sk, gk, j - lead, K, inside, exists, active, peak, label, scale, a, b, v, mask, cap,
        False, "", COMPUTE,
    )  # fmt: skip
    if EDGE > 0:  # noqa: SIM102 the compiler knows the first condition, the device alone the second
        if left == 0:
            i, outer = edges(lead, first, last, K, VEC, EDGE)
            load_and_store_gradient(
                origin, target, i, sk, gk, i - lead, K, outer, exists, active, peak, label, scale, a, b, v, mask, cap,
                False, "", COMPUTE,
            )  # fmt: skip
    tl.debug_barrier()
    place = gradient + batch * gb + p * gp
    store_label_gradient(place, z_y, label, gk, K, mine, peak, scale, a, b, v, cap, COMPUTE)


@triton.jit
def both(
    logits, gradient, losses, peaks, totals, total_loss, ticket, upstream, plan, v, mask,
    B, K, P, sb, sp, sk, gb, gp, gk,
    STEPS: tl.constexpr, SKIP_IF_ONE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    CTAS: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses and gradient.

    GROUP 0: the tile holds all classes, which are read once. Otherwise they are read twice, the second time from the
    L2 cache at best. With a ticket, `losses` has room for the sum of each tile, and the last program writes that of all
    to `total_loss`.
    """
    COMPARES: tl.constexpr = CTAS > 1
    batch, p, exists = tile_elements(B, P, ROWS)
    element, start = batch * P + p, batch * sb + p * sp  # (ROWS, 1)
    label, a, b, v_sum, z_loss, active = coefficients(plan, element, exists, STEPS, COMPUTE)
    cap = plan[6]
    if plan[6] is not None:
        cap = cap_of(plan, STEPS, COMPUTE)
    lead, first, last = row_bounds(start, K, VEC, EDGE)
    origin, target = place_zero(logits, start, VEC), place_zero(gradient, batch * gb + p * gp, VEC)
    z_y, anchor = label_logit(logits, start, label, sk, mask, cap, active, COMPUTE)
    j, inside = whole_accesses(0, first, last, COLS, EDGE)
    if EDGE > 0:
        i, outer = edges(lead, first, last, K, VEC, EDGE)
    if GROUP == 0:
        z = load_logits(origin, j, sk, j - lead, inside, exists, active, mask, cap, COMPUTE, "")
        peak = tl.maximum(row_max(z), LOWEST_PEAK)
        if EDGE > 0:
            z_edge = load_logits(origin, i, sk, i - lead, outer, exists, active, mask, cap, COMPUTE, "")
            peak = tl.maximum(row_max(z_edge), peak)
        anchor = peak
        e, total, v_sum_z = resident_statistics(z, peak, v, j - lead, inside & active, COMPUTE)
        if EDGE > 0:
            _, more, v_more = resident_statistics(z_edge, peak, v, i - lead, outer & active, COMPUTE)
            total, v_sum_z = total + more, v_sum_z + v_more
    else:
        peak, total, v_sum_z = looping_statistics(
            origin, sk, K, anchor, exists, active, lead, first, last, v, mask, cap,
            ROWS, COLS, GROUP, VEC, EDGE, COMPUTE, "evict_last",
        )  # fmt: skip
    if peaks is not None:  # stored now: if they wait for the loss, they spill where blocks share a row
        tl.store(peaks + element, peak, mask=exists)
        tl.store(totals + element, total, mask=exists)
    loss = loss_of(peak, total, v_sum_z, anchor, z_y, v, K, a, b, v_sum, z_loss, plan[4] is not None)
    store_losses(losses, tl.where(active, loss, tl.where(a == a, 0.0, a)), element, exists, ticket)
    a, b, scale = gradient_factors(active, peak, total, a, b, v_sum, z_loss, plan[4] is not None)
    tl.debug_barrier()  # the gradient may overwrite the logits, and another warp may not have read the label's yet
    if GROUP == 0:
        store_gradient(
            e, z, target, j, gk, j - lead, K, inside & exists, label, active, scale, a, b, v, cap, COMPARES, "", COMPUTE
        )
    else:  # from the last tile to the first: what was read last is the likeliest to be in the L2 cache still
        for tile in range(0, tl.cdiv(K, COLS)):
            j, inside = whole_accesses((tl.cdiv(K, COLS) - 1 - tile) * COLS, first, last, COLS, EDGE)
            load_and_store_gradient(
                origin, target, j, sk, gk, j - lead, K, inside, exists, active, peak, label, scale, a, b, v, mask, cap,
                COMPARES, "evict_first", COMPUTE,
            )  # fmt: skip
    if EDGE > 0:  # read again, which takes fewer registers than to keep it
        load_and_store_gradient(
            origin, target, i, sk, gk, i - lead, K, outer, exists, active, peak, label, scale, a, b, v, mask, cap,
            COMPARES, "", COMPUTE,
        )  # fmt: skip
    if not COMPARES:
        tl.debug_barrier()
        place = gradient + batch * gb + p * gp
        store_label_gradient(place, z_y, label, gk, K, active, peak, scale, a, b, v, cap, COMPUTE)
    add_up(losses, total_loss, ticket)


# --- kernels that take no tile of logits -----------------------------------------------------------------------------


@triton.jit
def load_labels(targets, start, size, ignore_index, BLOCK: tl.constexpr):
    """(index, whether it is below `size`, label, whether that is ignored) of BLOCK elements."""
    i = start + tl.arange(0, BLOCK)
    y = tl.load(targets + i, mask=i < size, other=0)
    return i, i < size, y, (y != y if ignore_index is None else y == ignore_index) & (i < size)


@triton.jit
def store_coefficient(memory, pair, i, exists, ignored, factor):
    """Write the coefficient of a pair (of a class, of the ignored label) to each element, times the mean's factor."""
    if memory is not None:
        tl.store(memory + i, tl.where(ignored, pair[1], pair[0]) * factor, mask=exists)


@triton.jit
def lookup(
    targets, labels, active, ticket, memory, pairs, size, K, ignore_index, share, ignored_share, add, floor,
    DIVIDES_BY_COUNT: tl.constexpr, NOTHING_IS_NAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A plan's labels, active, ticket, a, b, const and z_loss from pairs of numbers: see `plans`. A single program."""
    if ticket is not None:
        tl.store(ticket, 0)
    factor, of_ignored = 1.0, 0.0
    if DIVIDES_BY_COUNT:  # a mean: `reduction.denominator`
        counts = tl.zeros((BLOCK,), tl.int32)
        for start in range(0, size, BLOCK):
            i, exists, y, ignored = load_labels(targets, start, size, ignore_index, BLOCK)
            counts += ignored.to(tl.int32)
        number_ignored = tl.sum(counts)
        total = tl.maximum(share * (size - number_ignored) + ignored_share * number_ignored + add, floor)
        factor = tl.where(total == 0, 0.0, 1 / tl.where(total == 0, 1.0, total))
        if NOTHING_IS_NAN:
            of_ignored = tl.where(total == 0, float("nan"), 0.0)
    for start in range(0, size, BLOCK):
        i, exists, y, ignored = load_labels(targets, start, size, ignore_index, BLOCK)
        is_class = (y >= 0) & (y < K)
        tl.store(labels + i, tl.where(is_class, y, 0), mask=exists)
        if active is not None:
            tl.store(active + i, ignored == 0, mask=exists)
        nan_if_bad = tl.where(
            is_class | ignored, factor, float("nan")
        )  # a label that names no class: its element is NaN
        a = tl.where(ignored, pairs[0][1] * factor + of_ignored, pairs[0][0] * nan_if_bad)
        tl.store(memory[0] + i, a, mask=exists)
        store_coefficient(memory[1], pairs[1], i, exists, ignored, factor)
        store_coefficient(memory[2], pairs[2], i, exists, ignored, nan_if_bad)
        store_coefficient(memory[3], pairs[3], i, exists, ignored, factor)


@triton.jit
def rescale(memory, factor, size, BLOCK: tl.constexpr):
    """memory·factor in place. The device alone knows the factor; if it is 1, nothing is read."""
    scale = tl.load(factor).to(tl.float32)
    if scale != 1:
        step = tl.num_programs(0).to(tl.int64) * BLOCK
        for start in range(tl.program_id(0).to(tl.int64) * BLOCK, size, step):
            i = start + tl.arange(0, BLOCK)
            x = tl.load(memory + i, mask=i < size)
            tl.store(memory + i, (x.to(tl.float32) * scale).to(memory.dtype.element_ty), mask=i < size)
