"""What the kernels of soft targets compute of a tile of logits, in place of the second half of `tile_arithmetic`.

The rows of an element are one row of weights, w:
    w = a·u + b·v,   loss = Σ w·(lse − z) + z_loss·lse²,   ∂/∂z_k = exp(z_k − peak)·scale − w_k
From one read of logits and u come, for each element,
    peak = max z,   total = Σ exp(z − peak),   w_sum = Σw,   gap = Σ w·(peak − z)
    lse = peak + log total,   scale = (Σw + 2·z_loss·lse) / total
No summand of `gap` is negative. The peak rises while a long row is read, and Σw says by how much `gap` does. With
TOLERANCE, an element whose u is no distribution has a w_sum of NaN, so its loss and its gradient are NaN.
"""

import triton
import triton.language as tl

from multismooth.torch.gpu.soft_cap import exponential, slope
from multismooth.torch.gpu.tile_arithmetic import (
    LN2,
    LOWEST_PEAK,
    coefficients,
    edges,
    load_logits,
    row_max,
    row_sum,
    share,
    whole_accesses,
)

# --- an element's weights ---------------------------------------------------------------------------------------------


@triton.jit
def load_weights(
    origin, j, uk, k, K, inside, exists, active, a, b, v, mask, column, TOLERANCE: tl.constexpr, COMPUTE: tl.constexpr,
    POLICY: tl.constexpr,
):  # fmt: skip
    """(w, u) of the classes k. Both are 0 outside the row and at inactive elements, whose a and b must be 0.

    At absent classes w is 0. With TOLERANCE, u is infinite where no distribution has such an entry.
    """
    ONE: tl.constexpr = active.shape[0] == 1
    read = inside & (active if ONE else exists)
    u = tl.load(origin + j.to(tl.int64) * uk, mask=read, other=0, eviction_policy=POLICY).to(COMPUTE)
    if not ONE:
        u = tl.where(active, u, 0.0)
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
    w = a * t + tl.where(inside, share(b, v, k, K, inside, COMPUTE), 0.0)
    if v is not None:  # which may hold NaN
        w = tl.where(active, w, 0.0)
    return w, u


@triton.jit
def soft_coefficients(plan, element, exists, STEPS: tl.constexpr, COMPUTE: tl.constexpr):
    """(a, b, Σv, z_loss or 0, whether its logits count) of the tile's elements. a and b are 0 where they do not."""
    _, a, b, v_sum, z_loss, active = coefficients(plan, element, exists, STEPS, COMPUTE)
    return tl.where(active, a, 0.0), tl.where(active, b, 0.0), v_sum, z_loss, active


@triton.jit
def times_gap(w, gap):
    """w·gap with 0·inf = 0."""
    return w * tl.where(w != 0, gap, 0.0)


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
