"""What the kernels compute of a tile of logits. `kernels` puts these steps together.

Logits are seen as (B, K, P), whatever their layout was: element b·P + p has its class k at b·sb + p·sp + k·sk. A
program takes a tile of ROWS elements and their classes, COLS at a time. For each element, from one read of its logits:
    peak = max z,   total = Σ exp(z − peak),   v_sum_z = Σ v·(z − anchor)
    nll  = log total + peak − z_y,   smooth = Σv·(log total + peak − anchor) − v_sum_z
    ∂/∂z_k = exp(z_k − peak)·scale − b·v_k − (k = y)·a
The anchor is a logit of the row: its peak, or the label's. So a common offset of all logits costs no digits.

If VEC > 1, the classes of a row lie side by side in memory that starts at a multiple of 16 bytes, and VEC logits make
one access of 16 bytes. A row may still start in the middle of an access. Then EDGE > 0, and its first and last few
logits are a small tile of their own. The places j = k + lead are counted from the start of the access that holds the
row's first logit.
"""

import triton
import triton.language as tl

from multismooth.torch.gpu.soft_cap import capped, exponential, slope

LN2 = tl.constexpr(0.6931471805599453)
LOWEST_PEAK = tl.constexpr(-1e38)  # where a maximum starts. It is finite, because −inf − −inf is NaN
MINUS_INFINITY = tl.constexpr(float("-inf"))

# --- where the tile's elements and their logits are ------------------------------------------------------------------


@triton.jit
def tile_elements(B, P, ROWS: tl.constexpr):
    """(b, p, whether it exists) of the tile's elements, in 64 bits. Axes 1 and 2 of the grid count the tiles."""
    tile = tl.program_id(1) + tl.program_id(2).to(tl.int64) * tl.num_programs(1)
    b = tile * 0
    if B != 1:  # 1 is a constant of the compiler, which spares a division
        b = tile // tl.cdiv(P, ROWS)
        tile = tile % tl.cdiv(P, ROWS)
    p = tile * ROWS + tl.arange(0, ROWS)[:, None]
    return b, p, p < tl.where(b < B, P, 0)


@triton.jit
def row_bounds(start, K, VEC: tl.constexpr, EDGE: tl.constexpr):
    """(lead, first, last): a row has the places lead … lead + K, and whole accesses have first … last."""
    if EDGE == 0:
        return 0, 0, K // VEC * VEC
    else:
        lead = (start % VEC).to(tl.int32)
        return lead, (lead + VEC - 1) // VEC * VEC, (lead + K) // VEC * VEC


@triton.jit
def place_zero(memory, start, VEC: tl.constexpr):
    """The address of place 0, written so that the compiler sees that VEC divides it."""
    return memory + start // VEC * VEC


@triton.jit
def whole_accesses(left, first, last, COLS: tl.constexpr, EDGE: tl.constexpr):
    """(COLS places that begin with `left`, which of them are in whole accesses)."""
    j = left + tl.arange(0, COLS)[None, :]
    return j, (j < last if EDGE == 0 else (j >= first) & (j < last))


@triton.jit
def edges(lead, first, last, K, VEC: tl.constexpr, EDGE: tl.constexpr):
    """(the places before the first whole access and after the last one, which of them are the row's)."""
    n = tl.arange(0, EDGE)[None, :]
    j = tl.where(n < VEC, n, last + n - VEC)
    return j, (j >= lead) & (j < lead + K) & ((n >= VEC) | (j < first))


@triton.jit
def load_logits(origin, j, sk, k, inside, exists, active, mask, cap, COMPUTE: tl.constexpr, POLICY: tl.constexpr):
    """The logits at the places j, capped. They are −inf outside the row, at inactive elements, and at absent classes.

    A single inactive row is not read. Of several elements side by side, some inactive, all are: else an access of 16
    bytes would fall apart.
    """
    ONE: tl.constexpr = active.shape[0] == 1
    read = inside & (active if ONE else exists)
    z = tl.load(origin + j.to(tl.int64) * sk, mask=read, other=MINUS_INFINITY, eviction_policy=POLICY).to(COMPUTE)
    if cap is not None:
        z = tl.where(read, capped(z, cap), MINUS_INFINITY)
    if not ONE:
        z = tl.where(active, z, MINUS_INFINITY)
    if mask is not None:
        z = tl.where(tl.load(mask + k, mask=inside, other=0) != 0, z, MINUS_INFINITY)
    return z


# --- what the plan says about the elements ---------------------------------------------------------------------------


@triton.jit
def coefficient(value, element, exists, STEP: tl.constexpr, COMPUTE: tl.constexpr):
    """A coefficient of each element: a number (STEP None), or entries of an array that lie STEP apart."""
    if STEP is None:
        return tl.zeros(element.shape, COMPUTE) + value
    else:
        return tl.load(value + element * STEP, mask=exists, other=0).to(COMPUTE)


@triton.jit
def coefficients(plan, element, exists, STEPS: tl.constexpr, COMPUTE: tl.constexpr):
    """(label or 0, a, b, Σv, z_loss or 0, whether its logits count) of the tile's elements."""
    labels, a, b, v_sum, z_loss, active, _ = plan
    label = 0
    if labels is not None:
        label = tl.load(labels + element, mask=exists, other=0).to(tl.int32)
    a = coefficient(a, element, exists, STEPS[0], COMPUTE)
    b = coefficient(b, element, exists, STEPS[1], COMPUTE)
    v_sum = coefficient(v_sum, element, exists, STEPS[2], COMPUTE)
    z_loss = coefficient(0.0 if z_loss is None else z_loss, element, exists, STEPS[3], COMPUTE)
    if active is not None:
        exists = exists & (tl.load(active + element, mask=exists, other=0) != 0)
    return label, a, b, v_sum, z_loss, exists


@triton.jit
def times_v(x, v, k, inside, COMPUTE: tl.constexpr):
    """v·x with 0·inf = 0. Without v, x itself: its sum is divided by K later."""
    if v is None:
        return tl.where(inside, x, 0.0)
    else:
        share = tl.load(v + k, mask=inside, other=0).to(COMPUTE)
        return tl.where(share == 0, 0.0, share * x)


# --- statistics ------------------------------------------------------------------------------------------------------

# The statistics of a single element go through scalars, which have no layout. Otherwise the compiler keeps the tile in
# two layouts, that of its own [1, 1] results and that of its edge's, and computes every exponential twice (measured,
# Triton 3.9).


@triton.jit
def row_max(x):
    """The largest entry of each row."""
    if x.shape[0] == 1:
        return tl.zeros((1, 1), x.dtype) + tl.max(tl.max(x, 1), 0)
    else:
        return tl.max(x, 1, keep_dims=True)


@triton.jit
def row_sum(x):
    """The sum of each row."""
    if x.shape[0] == 1:
        return tl.zeros((1, 1), x.dtype) + tl.sum(tl.sum(x, 1), 0)
    else:
        return tl.sum(x, 1, keep_dims=True)


@triton.jit
def updated(z, term, peak, total, v_sum_z, GROUP: tl.constexpr):
    """The running statistics after one more tile. Each GROUP of logits has its own, and costs one more exponential."""
    ROWS: tl.constexpr = z.shape[0]
    GROUPS: tl.constexpr = z.shape[1] // GROUP
    z = tl.reshape(z, (ROWS, GROUPS, GROUP))
    new_peak = tl.maximum(peak, tl.max(z, 2))
    total = total * exponential(peak - new_peak) + tl.sum(exponential(z - new_peak[:, :, None]), 2)
    return new_peak, total, v_sum_z + tl.sum(tl.reshape(term, (ROWS, GROUPS, GROUP)), 2)


@triton.jit
def looping_statistics(
    origin, sk, K, anchor, exists, active, lead, first, last, v, mask, cap,
    ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr,
    COMPUTE: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """(peak, total, v_sum_z) of rows of any length, from one read."""
    GROUPS: tl.constexpr = COLS // GROUP
    peaks = tl.full((ROWS, GROUPS), LOWEST_PEAK, COMPUTE)
    totals, v_sums_z = tl.zeros((ROWS, GROUPS), COMPUTE), tl.zeros((ROWS, GROUPS), COMPUTE)
    for left in range(0, K, COLS):
        j, inside = whole_accesses(left, first, last, COLS, EDGE)
        z = load_logits(origin, j, sk, j - lead, inside, exists, active, mask, cap, COMPUTE, POLICY)
        term = times_v(z - anchor, v, j - lead, inside & active, COMPUTE)
        peaks, totals, v_sums_z = updated(z, term, peaks, totals, v_sums_z, GROUP)
    peak = row_max(peaks)
    total, v_sum_z = row_sum(totals * exponential(peaks - peak)), row_sum(v_sums_z)
    if EDGE > 0:
        j, inside = edges(lead, first, last, K, VEC, EDGE)
        z = load_logits(origin, j, sk, j - lead, inside, exists, active, mask, cap, COMPUTE, POLICY)
        term = times_v(z - anchor, v, j - lead, inside & active, COMPUTE)
        new_peak = tl.maximum(peak, row_max(z))
        total = total * exponential(peak - new_peak) + row_sum(exponential(z - new_peak))
        peak, v_sum_z = new_peak, v_sum_z + row_sum(term)
    return peak, total, v_sum_z


@triton.jit
def resident_statistics(z, peak, v, k, inside, COMPUTE: tl.constexpr):
    """(exp(z − peak), its sum, Σ v·(z − peak)) of a tile that stays in registers."""
    x = z - peak
    e = exponential(x)
    return e, row_sum(e), row_sum(times_v(x, v, k, inside, COMPUTE))


@triton.jit
def label_logit(memory, start, label, sk, mask, cap, active, COMPUTE: tl.constexpr):
    """(the label's logit, an anchor): the anchor is the same logit, or 0 if that is not finite."""
    z_y = load_logits(memory + start, label, sk, label, active, active, active, mask, cap, COMPUTE, "")
    return z_y, tl.where(tl.abs(z_y) < float("inf"), z_y, 0.0)


@triton.jit
def label_is_mine(place, left, first, last, active, COLS: tl.constexpr, EDGE: tl.constexpr):
    """Whether the program that begins at the place `left` writes the label's entry. The first one writes the edge."""
    mine = (place >= left) & (place < left + COLS)
    if EDGE > 0:
        mine = tl.where((place >= first) & (place < last), mine, left + 0 * place == 0)
    return mine & active


@triton.jit
def loss_of(peak, total, v_sum_z, anchor, z_y, v, K, a, b, v_sum, z_loss, HAS_Z_LOSS: tl.constexpr):
    """a·nll + b·smooth + z_loss·lse². A term whose factor is 0 is 0, even if it is infinite."""
    log_total = tl.log2(total) * LN2
    lse = log_total + peak
    smooth = v_sum * (log_total + (peak - anchor)) - (v_sum_z / K if v is None else v_sum_z)
    loss = tl.where(a == 0, 0.0, a * (log_total + (peak - z_y))) + tl.where(b == 0, 0.0, b * smooth)
    if HAS_Z_LOSS:
        loss += tl.where(z_loss == 0, 0.0, z_loss * lse * lse)
    return loss


# --- gradient --------------------------------------------------------------------------------------------------------


@triton.jit
def gradient_factors(active, peak, total, a, b, v_sum, z_loss, HAS_Z_LOSS: tl.constexpr):
    """(a, b, what multiplies exp(z − peak)) in the gradient. All are 0 for elements whose logits do not count."""
    factor = a + b * v_sum
    if HAS_Z_LOSS:
        factor += 2 * z_loss * (tl.log2(total) * LN2 + peak)
    scale = factor / total
    return tl.where(active, a, 0.0), tl.where(active, b, 0.0), tl.where(active, scale, 0.0)


@triton.jit
def share(b, v, k, K, inside, COMPUTE: tl.constexpr):
    """b·v of the classes k."""
    return b / K if v is None else b * tl.load(v + k, mask=inside, other=0).to(COMPUTE)


@triton.jit
def store_gradient(
    e, z, target, j, gk, k, K, inside, label, active, scale, a, b, v, cap, COMPARES: tl.constexpr, POLICY: tl.constexpr,
    COMPUTE: tl.constexpr,
):  # fmt: skip
    """Write e·scale − b·v to the places j. COMPARES: less a at the label, which `store_label_gradient` writes else."""
    bv = share(b, v, k, K, inside, COMPUTE)
    g = e * scale - (tl.where(k == label, bv + a, bv) if COMPARES else bv)
    if v is not None:  # which may hold NaN. Without v, an inactive element's g is 0·0 − 0
        g = tl.where(active, g, 0.0)
    if cap is not None:
        g *= slope(z, cap)
    g = g.to(target.dtype.element_ty)
    tl.store(target + j.to(tl.int64) * gk, g, mask=inside, eviction_policy=POLICY)


@triton.jit
def store_label_gradient(target, z_y, label, gk, K, mine, peak, scale, a, b, v, cap, COMPUTE: tl.constexpr):
    """Write the label's entry over that of `store_gradient`, after a barrier."""
    g = exponential(z_y - peak) * scale - (share(b, v, label, K, mine, COMPUTE) + a)
    if cap is not None:
        g *= slope(z_y, cap)
    tl.store(target + label.to(tl.int64) * gk, g.to(target.dtype.element_ty), mask=mine)


@triton.jit
def load_and_store_gradient(
    origin, target, j, sk, gk, k, K, inside, exists, active, peak, label, scale, a, b, v, mask, cap,
    COMPARES: tl.constexpr, POLICY: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Read the logits at the places j once more and write their gradient."""
    z = load_logits(origin, j, sk, k, inside, exists, active, mask, cap, COMPUTE, POLICY)
    e = exponential(z - peak)
    store_gradient(
        e, z, target, j, gk, k, K, inside & exists, label, active, scale, a, b, v, cap, COMPARES, POLICY, COMPUTE
    )
