"""What the kernels for given logits do with a tile: `gpu_kernels` puts it together.

Logits are seen as (B, K, P): element b·P + p has its class k at b·sb + p·sp + k·sk, whatever the layout was. A program
takes a tile of ROWS elements and their classes, COLS at a time:
    peak = max z,   total = Σ exp(z − peak),   away = Σ v·(z − anchor)      per element, all from one read
    nll  = log total + peak − z_y,   smooth = Σv·(log total + peak − anchor) − away
    ∂/∂z_k = exp(z_k − peak)·scale − b·v_k − (k = y)·a
The anchor is a logit of the row (its peak, or the label's), so that a common offset of all logits costs no digits.

VEC > 1 promises rows of classes side by side in memory that starts at a multiple of 16 bytes: what is read and written
in pieces of VEC logits. A row may still start between two pieces; then (EDGE > 0) its first and last few logits are a
small tile of their own, and j = k + lead counts the places from the start of the piece that holds the first.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)
LOWEST = tl.constexpr(-1e38)  # what a maximum starts from: finite, for −inf − −inf is NaN
NOTHING = tl.constexpr(float("-inf"))

# --- where the tile's elements and their logits are ------------------------------------------------------------------


@triton.jit
def elements(tile, P, ROWS: tl.constexpr):
    """(b, p, whether it exists) of the tile's elements, in 64 bits."""
    tiles = tl.cdiv(P, ROWS)
    b, p = (tile // tiles).to(tl.int64), (tile % tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    return b, p, p < P


@triton.jit
def bounds(start, K, VEC: tl.constexpr, EDGE: tl.constexpr):
    """(lead, first, last): a row's logits have the places lead … lead + K, whole pieces of it first … last."""
    if EDGE == 0:
        return 0, 0, K // VEC * VEC
    else:
        lead = (start % VEC).to(tl.int32)
        return lead, (lead + VEC - 1) // VEC * VEC, (lead + K) // VEC * VEC


@triton.jit
def located(memory, start, VEC: tl.constexpr):
    """The address of place 0, so written that the compiler sees what divides it."""
    return memory + start // VEC * VEC


@triton.jit
def interior(left, first, last, COLS: tl.constexpr, EDGE: tl.constexpr):
    """(COLS places from `left` on, which of them are in whole pieces)."""
    j = left + tl.arange(0, COLS)[None, :]
    return j, (j < last if EDGE == 0 else (j >= first) & (j < last))


@triton.jit
def edges(lead, first, last, K, VEC: tl.constexpr, EDGE: tl.constexpr):
    """(the places before the first whole piece and after the last one, which of them are the row's)."""
    n = tl.arange(0, EDGE)[None, :]
    j = tl.where(n < VEC, n, last + n - VEC)
    return j, (j >= lead) & (j < lead + K) & ((n >= VEC) | (j < first))


@triton.jit
def read(origin, j, sk, k, inside, mask, COMPUTE: tl.constexpr, POLICY: tl.constexpr):
    """The logits at the places j; −inf where there is none, and where the class is absent."""
    z = tl.load(origin + j.to(tl.int64) * sk, mask=inside, other=NOTHING, eviction_policy=POLICY).to(COMPUTE)
    if mask is not None:
        z = tl.where(tl.load(mask + k, mask=inside, other=0) != 0, z, NOTHING)
    return z


# --- what the plan says about them -----------------------------------------------------------------------------------


@triton.jit
def each(value, place, exists, STEP: tl.constexpr, COMPUTE: tl.constexpr):
    """A coefficient per element: a run-time number (STEP None), or entries that lie STEP apart."""
    if STEP is None:
        return tl.zeros(place.shape, COMPUTE) + value
    else:
        return tl.load(value + place * STEP, mask=exists, other=0).to(COMPUTE)


@triton.jit
def coefficients(plan, place, exists, STEPS: tl.constexpr, COMPUTE: tl.constexpr):
    """(label, a, b, Σv, z_loss, whether its logits count) of the tile's elements."""
    labels, a, b, v_sum, z_loss, active = plan
    label = tl.load(labels + place, mask=exists, other=0).to(tl.int32)
    a = each(a, place, exists, STEPS[0], COMPUTE)
    b = each(b, place, exists, STEPS[1], COMPUTE)
    v_sum = each(v_sum, place, exists, STEPS[2], COMPUTE)
    z_loss = each(z_loss, place, exists, STEPS[3], COMPUTE)
    if active is not None:
        exists = exists & (tl.load(active + place, mask=exists, other=0) != 0)
    return label, a, b, v_sum, z_loss, exists


@triton.jit
def weighted(x, v, k, inside, COMPUTE: tl.constexpr):
    """v·x with 0·inf = 0."""
    if v is None:
        return tl.where(inside, x, 0.0)
    else:
        share = tl.load(v + k, mask=inside, other=0).to(COMPUTE)
        return tl.where(share == 0, 0.0, share * x)


# --- statistics ------------------------------------------------------------------------------------------------------

# One element's statistics go through scalars, which have no layout: the compiler would otherwise keep the tile in the
# layouts of both its own [1, 1] results and its edges', with every exponential twice (measured, Triton 3.9).


@triton.jit
def highest(x):
    """The largest of each row."""
    if x.shape[0] == 1:
        return tl.zeros((1, 1), x.dtype) + tl.max(tl.max(x, 1), 0)
    else:
        return tl.max(x, 1, keep_dims=True)


@triton.jit
def summed(x):
    """The sum of each row."""
    if x.shape[0] == 1:
        return tl.zeros((1, 1), x.dtype) + tl.sum(tl.sum(x, 1), 0)
    else:
        return tl.sum(x, 1, keep_dims=True)


@triton.jit
def exponential(x):
    return tl.exp2(x * LOG2E)


@triton.jit
def online(z, term, peak, total, away, GROUP: tl.constexpr):
    """The running statistics after one more tile. There is one for each GROUP of logits: its extra exponential."""
    ROWS: tl.constexpr = z.shape[0]
    GROUPS: tl.constexpr = z.shape[1] // GROUP
    z = tl.reshape(z, (ROWS, GROUPS, GROUP))
    top = tl.maximum(peak, tl.max(z, 2))
    total = total * exponential(peak - top) + tl.sum(exponential(z - top[:, :, None]), 2)
    return top, total, away + tl.sum(tl.reshape(term, (ROWS, GROUPS, GROUP)), 2)


@triton.jit
def scanned(
    origin, sk, K, anchor, active, lead, first, last, v, mask,
    ROWS: tl.constexpr, COLS: tl.constexpr, GROUP: tl.constexpr, VEC: tl.constexpr, EDGE: tl.constexpr,
    COMPUTE: tl.constexpr, POLICY: tl.constexpr,
):  # fmt: skip
    """(peak, total, away) of rows of any length, from one read."""
    GROUPS: tl.constexpr = COLS // GROUP
    tops = tl.full((ROWS, GROUPS), LOWEST, COMPUTE)
    totals, aways = tl.zeros((ROWS, GROUPS), COMPUTE), tl.zeros((ROWS, GROUPS), COMPUTE)
    for left in range(0, K, COLS):
        j, inside = interior(left, first, last, COLS, EDGE)
        z = read(origin, j, sk, j - lead, inside & active, mask, COMPUTE, POLICY)
        term = weighted(z - anchor, v, j - lead, inside & active, COMPUTE)
        tops, totals, aways = online(z, term, tops, totals, aways, GROUP)
    peak = highest(tops)
    total, away = summed(totals * exponential(tops - peak)), summed(aways)
    if EDGE > 0:
        j, inside = edges(lead, first, last, K, VEC, EDGE)
        z = read(origin, j, sk, j - lead, inside & active, mask, COMPUTE, POLICY)
        term = weighted(z - anchor, v, j - lead, inside & active, COMPUTE)
        top = tl.maximum(peak, highest(z))
        total = total * exponential(peak - top) + summed(exponential(z - top))
        peak, away = top, away + summed(term)
    return peak, total, away


@triton.jit
def held(z, peak, v, k, inside, COMPUTE: tl.constexpr):
    """(exp(z − peak), its sum, Σ v·(z − peak)) of a tile that is kept."""
    x = z - peak
    e = exponential(x)
    return e, summed(e), summed(weighted(x, v, k, inside, COMPUTE))


@triton.jit
def label_logit(memory, start, label, sk, mask, active, COMPUTE: tl.constexpr):
    """(the label's logit, the same or 0 where it is not finite: what the others are counted from)."""
    own = read(memory + start, label, sk, label, active, mask, COMPUTE, "")
    return own, tl.where(tl.abs(own) < float("inf"), own, 0.0)


@triton.jit
def loss_of(peak, total, away, anchor, own, v, K, a, b, v_sum, z_loss):
    """a·nll + b·smooth + z_loss·lse², where a factor of 0 makes nothing of inf."""
    log_total = tl.log2(total) * LN2
    lse = log_total + peak
    smooth = v_sum * (log_total + (peak - anchor)) - (away / K if v is None else away)
    loss = tl.where(a == 0, 0.0, a * (log_total + (peak - own))) + tl.where(b == 0, 0.0, b * smooth)
    return loss + tl.where(z_loss == 0, 0.0, z_loss * lse * lse)


# --- gradient --------------------------------------------------------------------------------------------------------


@triton.jit
def scale_of(peak, total, a, b, v_sum, z_loss):
    """What exp(z − peak) is multiplied by."""
    lse = tl.log2(total) * LN2 + peak
    return (a + b * v_sum + 2 * z_loss * lse) / total


@triton.jit
def write(e, target, j, gk, k, K, inside, label, active, scale, a, b, v, DEAD: tl.constexpr, COMPUTE: tl.constexpr):
    """e·scale − b·v, less a at the label; zeros for elements whose logits do not count."""
    away = b / K if v is None else b * tl.load(v + k, mask=inside, other=0).to(COMPUTE)
    g = e * scale - tl.where(k == label, away + a, away)
    if DEAD:
        g = tl.where(active, g, 0.0)
    g = g.to(target.dtype.element_ty)
    tl.store(target + j.to(tl.int64) * gk, g, mask=inside, eviction_policy="evict_first")


@triton.jit
def turned(
    origin, target, j, sk, gk, k, K, inside, exists, active, peak, label, scale, a, b, v, mask,
    DEAD: tl.constexpr, COMPUTE: tl.constexpr,
):  # fmt: skip
    """Logits into their gradient, at the places j."""
    e = exponential(read(origin, j, sk, k, inside & active, mask, COMPUTE, "evict_first") - peak)
    write(e, target, j, gk, k, K, inside & exists, label, active, scale, a, b, v, DEAD, COMPUTE)
