"""Rows of the focal losses, compiled: see `alternatives`, whose `row` calls one of the three functions at the end.

`own` is (label, a, b, z_loss, v, v_sum, kind, share) of the plan. `found` is (m, total, log total, nll, smooth) of the
row.
"""

import math

from multismooth.cpu.compiled.arithmetic import FAST, compiled, rounded
from multismooth.cpu.compiled.by_rows import EVEN, gradient


@compiled(FAST)
def summed(e):
    total = rounded(e, 0.0)
    for k in range(e.shape[0]):
        total += e[k]
    return total


@compiled(FAST)
def modulated(z, e, m, log_total, inverse, gamma, kind, v):
    """(Σ v·cost, Σ v·D) of `alternatives.Focal`, for γ of 1, 2 or 3; without v where the block is EVEN."""
    c0, c1, c2 = rounded(e, gamma == 1), rounded(e, gamma == 2), rounded(e, gamma == 3)
    cost, slope, one, by = rounded(e, 0.0), rounded(e, 0.0), rounded(e, 1.0), rounded(e, gamma)
    for k in range(z.shape[0]):
        surprise, p = log_total - (z[k] - m), e[k] * inverse
        rest = one - p
        power = (c0 + rest * (c1 + rest * c2)) * (one if kind == EVEN else v[k])
        cost += power * rest * surprise
        slope += power * (rest + by * p * surprise)
    return cost, slope


@compiled(FAST)
def modulate(z, e, m, log_total, inverse, gamma, factor, b, kind, v):
    """e becomes e·factor − b·v·D; without v where the block is EVEN."""
    c0, c1, c2 = rounded(e, gamma == 1), rounded(e, gamma == 2), rounded(e, gamma == 3)
    one, by = rounded(e, 1.0), rounded(e, gamma)
    for k in range(z.shape[0]):
        surprise, p = log_total - (z[k] - m), e[k] * inverse
        rest = one - p
        power = (c0 + rest * (c1 + rest * c2)) * (b if kind == EVEN else b * v[k])
        e[k] = e[k] * factor - power * (rest + by * p * surprise)


@compiled(set())
def of_label(nll, gamma):
    """(m^γ·nll, D) of a label, as in `alternatives.Focal`."""
    rest = -math.expm1(-nll)
    if not rest > 0:
        return 0.0, 0.0
    power = rest**gamma
    return power * nll, power * (1 + gamma * math.exp(-nll) * nll / rest)


@compiled(set())
def unsmoothed(z, e, with_gradient, gamma, own, found):
    """`Focal` and `LabelFocal` without smoothing, which are the same: b is 0."""
    label, a, _, z_loss, v, _, kind, _ = own
    m, total, log_total, nll, _ = found
    lse = m + log_total
    cost, slope = of_label(nll, gamma)
    loss = z_loss * lse * lse + (a * cost if a != 0 else 0.0)
    if with_gradient:
        zero = rounded(e, 0.0)
        gradient(e, rounded(e, (a * slope + 2 * z_loss * lse) / total), zero, zero, kind, v)
        e[label] -= a * slope
    return loss, math.isfinite(loss)


@compiled(set())
def by_class(z, e, with_gradient, gamma, own, found):
    """`Focal`."""
    label, a, b, z_loss, v, _, kind, share = own
    m, total, log_total, nll, _ = found
    lse, each = m + log_total, b * share if kind == EVEN else b
    of_row = rounded(e, log_total), rounded(e, 1 / total), gamma
    cost, slope = of_label(nll, gamma)
    costs, slopes = modulated(z, e, m, *of_row, kind, v)
    loss = z_loss * lse * lse + (a * cost if a != 0 else 0.0) + each * costs
    if with_gradient:
        factor = rounded(e, (a * slope + each * slopes + 2 * z_loss * lse) / total)
        modulate(z, e, m, *of_row, factor, rounded(e, each), kind, v)
        e[label] -= a * slope
    return loss, math.isfinite(loss)


@compiled(set())
def by_label(z, e, with_gradient, gamma, own, found):
    """`LabelFocal`. The sum over the other classes leaves the label out: a difference would have no digits."""
    label, a, b, z_loss, v, v_sum, kind, share = own
    m, total, log_total, nll, smooth = found
    lse, e_y = m + log_total, e[label]
    e[label] = 0
    rest = float(summed(e))
    e[label] = e_y
    power = (rest / total) ** gamma if rest > 0 else 0.0
    loss = (a * nll if a != 0 else 0.0) + (b * smooth if b != 0 else 0.0)
    rise = gamma * power * (e_y / total) * loss
    pull = rise / rest if rest > 0 else 0.0
    if with_gradient:
        height, smoothing = power * (a + b * v_sum) + 2 * z_loss * lse, power * b
        factor = rounded(e, height / total + pull)
        gradient(e, factor, rounded(e, smoothing), rounded(e, smoothing * share), kind, v)
        own_share = share if kind == EVEN else v[label]
        e[label] = e_y * (height / total) - smoothing * own_share - power * a - rise  # `pull` is of the others
    return power * loss + z_loss * lse * lse, math.isfinite(loss) and pull < 1e30
