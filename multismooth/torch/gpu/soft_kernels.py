"""The Triton kernels of logits whose targets are rows of probabilities u: `soft_forward`, `soft_backward`, `soft_both`.

They are to rows what `kernels` is to labels. They take the same arguments, and u with strides of its own, class weights
that multiply u (`column`), and the TOLERANCE of `soft_arithmetic`, which says what is computed. In place of a total,
`scales` keeps what multiplies exp(z − peak) in the gradient.

Instructions per logit as in `kernels`, of bfloat16 logits and targets in an everyday call whose rows are checked
(Triton 3.9). To read both and to write the gradient are 6 bytes. An H200 can issue 40 instructions in that time.

    K                     forward   backward  both       what keeps the row in `both`
    1,000                 29        15        26         1 warp
    32,000                30        15        30         4 blocks of 8 warps and 128 registers: two fit together
    50,257 (edges)        35        17        38         8 blocks
    128,256               30        15        31         16 blocks
    32,000, no cluster                        53         nothing: the row is read twice
    150, images           67        25        61         1 block of 8 warps: 32 elements side by side
"""

import triton
import triton.language as tl

from multismooth.torch.gpu.adding_up import add_up, store_losses
from multismooth.torch.gpu.soft_arithmetic import (
    load_and_store_soft_gradient,
    load_weights,
    looping_weights,
    loss_and_scale,
    nan_unless_one,
    soft_coefficients,
    store_soft_gradient,
    times_gap,
)
from multismooth.torch.gpu.soft_cap import cap_of, exponential
from multismooth.torch.gpu.tile_arithmetic import (
    LOWEST_PEAK,
    coefficient,
    edges,
    load_logits,
    place_zero,
    row_bounds,
    row_max,
    row_sum,
    tile_elements,
    whole_accesses,
)


@triton.jit
def soft_forward(
    logits, gradient, losses, peaks, scales, total_loss, ticket, upstream, plan, v, mask, u, column,
    B, K, P, sb, sp, sk, gb, gp, gk, ub, up, uk, TOLERANCE: tl.constexpr,
    STEPS: tl.constexpr, SKIP_IF_ONE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    CTAS: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses, peaks and scales (B·P), from one read."""
    batch, p, exists = tile_elements(B, P, ROWS)
    element, start = batch * P + p, batch * sb + p * sp  # (ROWS, 1)
    a, b, _, z_loss, active = soft_coefficients(plan, element, exists, STEPS, COMPUTE)
    cap = plan[6]
    if plan[6] is not None:
        cap = cap_of(plan, STEPS, COMPUTE)
    lead, first, last = row_bounds(start, K, VEC, EDGE)
    peak, total, w_sum, gap = looping_weights(
        place_zero(logits, start, VEC), place_zero(u, batch * ub + p * up, VEC), sk, uk, K, exists, active, a, b,
        lead, first, last, v, mask, column, cap, ROWS, COLS, GROUP, VEC, EDGE, TOLERANCE, COMPUTE, "",
    )  # fmt: skip
    loss, scale = loss_and_scale(peak, total, w_sum, gap, z_loss, active, plan[4] is not None)
    if peaks is not None:
        tl.store(peaks + element, peak, mask=exists)
        tl.store(scales + element, scale, mask=exists)
    store_losses(losses, loss, element, exists, ticket)
    add_up(losses, total_loss, ticket)


@triton.jit
def soft_backward(
    logits, gradient, losses, peaks, scales, total_loss, ticket, upstream, plan, v, mask, u, column,
    B, K, P, sb, sp, sk, gb, gp, gk, ub, up, uk, TOLERANCE: tl.constexpr,
    STEPS: tl.constexpr, SKIP_IF_ONE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    CTAS: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """The gradient from what `soft_forward` or `soft_both` found, as `kernels.backward`."""
    if SKIP_IF_ONE:  # noqa: SIM102 the compiler knows the first condition, the device alone the second
        if tl.load(upstream).to(COMPUTE) == 1:
            return
    batch, p, exists = tile_elements(B, P, ROWS)
    left = tl.program_id(0) * COLS
    element, start = batch * P + p, batch * sb + p * sp  # (ROWS, 1)
    a, b, _, _, active = soft_coefficients(plan, element, exists, STEPS, COMPUTE)
    cap = plan[6]
    if plan[6] is not None:
        cap = cap_of(plan, STEPS, COMPUTE)
    peak, scale = tl.load(peaks + element, mask=exists, other=0), tl.load(scales + element, mask=exists, other=0)
    if upstream is not None:
        factor = coefficient(upstream, element, exists, STEPS[5], COMPUTE)
        a, b = tl.where(active, a * factor, 0.0), tl.where(active, b * factor, 0.0)  # the factor may be NaN elsewhere
        scale = tl.where(active, scale * factor, 0.0)
    lead, first, last = row_bounds(start, K, VEC, EDGE)
    origin, target = place_zero(logits, start, VEC), place_zero(gradient, batch * gb + p * gp, VEC)
    rows = place_zero(u, batch * ub + p * up, VEC)
    j, inside = whole_accesses(left, first, last, COLS, EDGE)
    load_and_store_soft_gradient(
        origin, rows, target, j, sk, uk, gk, j - lead, K, inside, exists, active, peak, scale, a, b, v, mask, column,
        cap, COMPUTE, "",
    )  # fmt: skip
    if EDGE > 0:  # noqa: SIM102 the compiler knows the first condition, the device alone the second
        if left == 0:
            i, outer = edges(lead, first, last, K, VEC, EDGE)
            load_and_store_soft_gradient(
                origin, rows, target, i, sk, uk, gk, i - lead, K, outer, exists, active, peak, scale, a, b, v, mask,
                column, cap, COMPUTE, "",
            )  # fmt: skip


@triton.jit
def soft_both(
    logits, gradient, losses, peaks, scales, total_loss, ticket, upstream, plan, v, mask, u, column,
    B, K, P, sb, sp, sk, gb, gp, gk, ub, up, uk, TOLERANCE: tl.constexpr,
    STEPS: tl.constexpr, SKIP_IF_ONE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr,
    CTAS: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Losses and gradient, as `kernels.both`."""
    batch, p, exists = tile_elements(B, P, ROWS)
    element, start = batch * P + p, batch * sb + p * sp  # (ROWS, 1)
    a, b, v_sum, z_loss, active = soft_coefficients(plan, element, exists, STEPS, COMPUTE)
    cap = plan[6]
    if plan[6] is not None:
        cap = cap_of(plan, STEPS, COMPUTE)
    lead, first, last = row_bounds(start, K, VEC, EDGE)
    origin, target = place_zero(logits, start, VEC), place_zero(gradient, batch * gb + p * gp, VEC)
    rows = place_zero(u, batch * ub + p * up, VEC)
    j, inside = whole_accesses(0, first, last, COLS, EDGE)
    if EDGE > 0:
        i, outer = edges(lead, first, last, K, VEC, EDGE)
    if GROUP == 0:
        z = load_logits(origin, j, sk, j - lead, inside, exists, active, mask, cap, COMPUTE, "")
        w, u_here = load_weights(
            rows, j, uk, j - lead, K, inside, exists, active, a, b, v, mask, column, TOLERANCE, COMPUTE, ""
        )
        peak = tl.maximum(row_max(z), LOWEST_PEAK)
        if EDGE > 0:
            z_edge = load_logits(origin, i, sk, i - lead, outer, exists, active, mask, cap, COMPUTE, "")
            peak = tl.maximum(row_max(z_edge), peak)
        below = peak - z
        e = exponential(-below)
        total, gap, u_sum = row_sum(e), row_sum(times_gap(w, below)), row_sum(u_here)
        if EDGE > 0:
            w_edge, u_edge = load_weights(
                rows, i, uk, i - lead, K, outer, exists, active, a, b, v, mask, column, TOLERANCE, COMPUTE, ""
            )
            total, u_sum = total + row_sum(exponential(z_edge - peak)), u_sum + row_sum(u_edge)
            gap += row_sum(times_gap(w_edge, peak - z_edge))
        if mask is None and column is None:  # each u has the same share in Σw
            w_sum = a * u_sum + b * v_sum
        else:
            w_sum = row_sum(w)
            if EDGE > 0:
                w_sum += row_sum(w_edge)
        w_sum = nan_unless_one(w_sum, u_sum, TOLERANCE)
    else:
        peak, total, w_sum, gap = looping_weights(
            origin, rows, sk, uk, K, exists, active, a, b, lead, first, last, v, mask, column, cap,
            ROWS, COLS, GROUP, VEC, EDGE, TOLERANCE, COMPUTE, "evict_last",
        )  # fmt: skip
    loss, scale = loss_and_scale(peak, total, w_sum, gap, z_loss, active, plan[4] is not None)
    if peaks is not None:
        tl.store(peaks + element, peak, mask=exists)
        tl.store(scales + element, scale, mask=exists)
    store_losses(losses, loss, element, exists, ticket)
    if GROUP == 0:
        store_soft_gradient(e, w, z, target, j, gk, inside & exists, scale, cap, "")
    else:  # from the last tile to the first: what was read last is the likeliest to be in the L2 cache still
        tl.debug_barrier()  # the gradient may overwrite the logits, and another warp may not have read its own yet
        for tile in range(0, tl.cdiv(K, COLS)):
            j, inside = whole_accesses((tl.cdiv(K, COLS) - 1 - tile) * COLS, first, last, COLS, EDGE)
            load_and_store_soft_gradient(
                origin, rows, target, j, sk, uk, gk, j - lead, K, inside, exists, active, peak, scale, a, b, v, mask,
                column, cap, COMPUTE, "evict_first",
            )  # fmt: skip
    if EDGE > 0:  # read again, which takes fewer registers than to keep it
        load_and_store_soft_gradient(
            origin, rows, target, i, sk, uk, gk, i - lead, K, outer, exists, active, peak, scale, a, b, v, mask, column,
            cap, COMPUTE, "",
        )  # fmt: skip
    add_up(losses, total_loss, ticket)
