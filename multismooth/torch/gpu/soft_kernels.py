"""The Triton kernels of logits whose targets are rows of probabilities u: `soft_forward`, `soft_backward`, `soft_both`.

They are to rows what `kernels` is to labels, and take the same arguments, with a dtype and strides of their own for u,
and class weights that multiply u (`column`). An element's rows are one row of weights:
    w = a·u + b·v,   loss = Σ w·(lse − z) + z_loss·lse²,   ∂/∂z_k = exp(z_k − peak)·scale − w_k
From one read of logits and u come, for each element, with no summand of `gap` below 0:
    peak = max z,   total = Σ exp(z − peak),   w_sum = Σw,   gap = Σ w·(peak − z)
    scale = (Σw + 2·z_loss·lse) / total
With TOLERANCE, an element whose row of u is no distribution has a w_sum of NaN, so loss and gradient are NaN.

Instructions per logit as in `kernels`: forward 24, backward 15, both 24 to 29 in one block or a cluster.
"""

import triton
import triton.language as tl

from multismooth.torch.gpu.adding_up import add_up, store_losses
from multismooth.torch.gpu.soft_cap import cap_of, exponential, slope
from multismooth.torch.gpu.tile_arithmetic import (
    LN2,
    LOWEST_PEAK,
    coefficient,
    coefficients,
    edges,
    load_logits,
    place_zero,
    row_bounds,
    row_max,
    row_sum,
    share,
    tile_elements,
    whole_accesses,
)

# --- an element's weights ---------------------------------------------------------------------------------------------


@triton.jit
def load_weights(
    origin, j, uk, k, K, inside, exists, active, a, b, v, mask, column, TOLERANCE: tl.constexpr, COMPUTE: tl.constexpr,
    POLICY: tl.constexpr,
):  # fmt: skip
    """(w, u) of the classes k. Both are 0 outside the row; w is 0 at inactive elements and absent classes.

    With TOLERANCE, u is infinite where no distribution has such an entry.
    """
    ONE: tl.constexpr = active.shape[0] == 1
    read = inside & (active if ONE else exists)
    u = tl.load(origin + j.to(tl.int64) * uk, mask=read, other=0, eviction_policy=POLICY).to(COMPUTE)
    t = u
    if TOLERANCE is not None:
        u = tl.where(t < -TOLERANCE, float("inf"), t)
    if mask is not None:
        here = tl.load(mask + k, mask=inside, other=0) != 0
        if TOLERANCE is not None:
            u = tl.where((t > TOLERANCE) & (here == 0), float("inf"), u)
        t = tl.where(here, t, 0.0)
    if column is not None:
        t *= tl.load(column + k, mask=inside, other=0).to(COMPUTE)
    return tl.where(inside & active, a * t + share(b, v, k, K, inside, COMPUTE), 0.0), u


@triton.jit
def times_gap(w, gap):
    """w·gap with 0·inf = 0."""
    return tl.where(w == 0, 0.0, w * gap)


@triton.jit
def nan_unless_one(w_sum, u_sum, TOLERANCE: tl.constexpr):
    """Σw, or NaN where Σu is not 1."""
    if TOLERANCE is None:
        return w_sum
    else:
        return tl.where(tl.abs(u_sum - 1) <= TOLERANCE, w_sum, float("nan"))


# --- statistics -------------------------------------------------------------------------------------------------------


@triton.jit
def updated_weights(z, w, peak, total, w_sum, gap, GROUP: tl.constexpr):
    """The running statistics after one more tile: see `tile_arithmetic.updated`."""
    ROWS: tl.constexpr = z.shape[0]
    GROUPS: tl.constexpr = z.shape[1] // GROUP
    z, w = tl.reshape(z, (ROWS, GROUPS, GROUP)), tl.reshape(w, (ROWS, GROUPS, GROUP))
    new_peak = tl.maximum(peak, tl.max(z, 2))
    rise, below = new_peak - peak, new_peak[:, :, None] - z
    total = total * exponential(-rise) + tl.sum(exponential(-below), 2)
    return new_peak, total, w_sum + tl.sum(w, 2), gap + w_sum * rise + tl.sum(times_gap(w, below), 2)


@triton.jit
def looping_weights(
    origin, rows, sk, uk, K, exists, active, a, b, lead, first, last, v, mask, column, cap,
    ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr,
    TOLERANCE: tl.constexpr, COMPUTE: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """(peak, total, Σw, gap) of rows of any length, from one read."""
    GROUPS: tl.constexpr = COLS // GROUP
    peaks = tl.full((ROWS, GROUPS), LOWEST_PEAK, COMPUTE)
    totals, w_sums = tl.zeros((ROWS, GROUPS), COMPUTE), tl.zeros((ROWS, GROUPS), COMPUTE)
    gaps, u_sums = tl.zeros((ROWS, GROUPS), COMPUTE), tl.zeros((ROWS, GROUPS), COMPUTE)
    for left in range(0, K, COLS):
        j, inside = whole_accesses(left, first, last, COLS, EDGE)
        z = load_logits(origin, j, sk, j - lead, inside, exists, active, mask, cap, COMPUTE, POLICY)
        w, u = load_weights(
            rows, j, uk, j - lead, K, inside, exists, active, a, b, v, mask, column, TOLERANCE, COMPUTE, POLICY
        )
        peaks, totals, w_sums, gaps = updated_weights(z, w, peaks, totals, w_sums, gaps, GROUP)
        if TOLERANCE is not None:
            u_sums += tl.sum(tl.reshape(u, (ROWS, GROUPS, GROUP)), 2)
    peak = row_max(peaks)
    total, gap = row_sum(totals * exponential(peaks - peak)), row_sum(gaps + w_sums * (peak - peaks))
    w_sum, u_sum = row_sum(w_sums), row_sum(u_sums)
    if EDGE > 0:
        j, inside = edges(lead, first, last, K, VEC, EDGE)
        z = load_logits(origin, j, sk, j - lead, inside, exists, active, mask, cap, COMPUTE, POLICY)
        w, u = load_weights(
            rows, j, uk, j - lead, K, inside, exists, active, a, b, v, mask, column, TOLERANCE, COMPUTE, POLICY
        )
        new_peak = tl.maximum(peak, row_max(z))
        total = total * exponential(peak - new_peak) + row_sum(exponential(z - new_peak))
        gap += w_sum * (new_peak - peak) + row_sum(times_gap(w, new_peak - z))
        peak, w_sum, u_sum = new_peak, w_sum + row_sum(w), u_sum + row_sum(u)
    return peak, total, nan_unless_one(w_sum, u_sum, TOLERANCE), gap


@triton.jit
def loss_and_scale(peak, total, w_sum, gap, z_loss, active, HAS_Z_LOSS: tl.constexpr):
    """(the loss, what multiplies exp(z − peak) in the gradient). Both are 0 for elements whose logits do not count."""
    log_total = tl.log2(total) * LN2
    loss, factor = gap + tl.where(w_sum == 0, 0.0, w_sum * log_total), w_sum
    if HAS_Z_LOSS:
        lse = log_total + peak
        loss += tl.where(z_loss == 0, 0.0, z_loss * lse * lse)
        factor += 2 * z_loss * lse
    return tl.where(active, loss, 0.0), tl.where(active, factor / total, 0.0)


# --- gradient ---------------------------------------------------------------------------------------------------------


@triton.jit
def store_soft_gradient(e, w, z, target, j, gk, inside, scale, cap, POLICY: tl.constexpr):
    """Write e·scale − w to the places j."""
    g = e * scale - w
    if cap is not None:
        g *= slope(z, cap)
    tl.store(target + j.to(tl.int64) * gk, g.to(target.dtype.element_ty), mask=inside, eviction_policy=POLICY)


@triton.jit
def load_and_store_soft_gradient(
    origin, rows, target, j, sk, uk, gk, k, K, inside, exists, active, peak, scale, a, b, v, mask, column, cap,
    COMPUTE: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """Read logits and u at the places j once more and write the gradient."""
    z = load_logits(origin, j, sk, k, inside, exists, active, mask, cap, COMPUTE, POLICY)
    w, _ = load_weights(rows, j, uk, k, K, inside, exists, active, a, b, v, mask, column, None, COMPUTE, POLICY)
    store_soft_gradient(exponential(z - peak), w, z, target, j, gk, inside & exists, scale, cap, POLICY)


# --- kernels ----------------------------------------------------------------------------------------------------------


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
    _, a, b, _, z_loss, active = coefficients(plan, element, exists, STEPS, COMPUTE)
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
    _, a, b, _, _, active = coefficients(plan, element, exists, STEPS, COMPUTE)
    cap = plan[6]
    if plan[6] is not None:
        cap = cap_of(plan, STEPS, COMPUTE)
    peak, scale = tl.load(peaks + element, mask=exists, other=0), tl.load(scales + element, mask=exists, other=0)
    if upstream is not None:
        factor = coefficient(upstream, element, exists, STEPS[5], COMPUTE)
        a, b, scale = a * factor, b * factor, tl.where(active, scale * factor, 0.0)
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
    _, a, b, _, z_loss, active = coefficients(plan, element, exists, STEPS, COMPUTE)
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
        e = exponential(z - peak)
        total, w_sum, gap, u_sum = row_sum(e), row_sum(w), row_sum(times_gap(w, peak - z)), row_sum(u_here)
        if EDGE > 0:
            w_edge, u_edge = load_weights(
                rows, i, uk, i - lead, K, outer, exists, active, a, b, v, mask, column, TOLERANCE, COMPUTE, ""
            )
            total, w_sum = total + row_sum(exponential(z_edge - peak)), w_sum + row_sum(w_edge)
            gap, u_sum = gap + row_sum(times_gap(w_edge, peak - z_edge)), u_sum + row_sum(u_edge)
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
