"""Rows of the terms that are added to the loss, compiled: see `alternatives`, whose `row` calls one of the last four.

`own` and `found` are as in `focal_rows`.
"""

import math

import numpy as np

from multismooth.cpu.compiled.arithmetic import FAST, compiled, exp, rounded
from multismooth.cpu.compiled.by_rows import EVEN, highest


@compiled(FAST)
def weighted_distances(z, e, m):
    """Σ e·(z − m)."""
    total = rounded(e, 0.0)
    for k in range(z.shape[0]):
        total += e[k] * (z[k] - m)
    return total


@compiled(FAST)
def penalised(z, e, m, constant, factor, even_term, kind, v_factor, v):
    """e becomes e·(constant + factor·(z − m)) − v·v_factor."""
    if kind == EVEN:
        for k in range(z.shape[0]):
            e[k] = e[k] * (constant + factor * (z[k] - m)) - even_term
    else:
        for k in range(z.shape[0]):
            e[k] = e[k] * (constant + factor * (z[k] - m)) - v_factor * v[k]


@compiled(FAST)
def beyond(z, m, margin):
    """(how many logits lie more than the margin below m, Σ of how much more, how many logits are m)."""
    count, total, top, zero, one = rounded(z, 0.0), rounded(z, 0.0), rounded(z, 0.0), rounded(z, 0.0), rounded(z, 1.0)
    for k in range(z.shape[0]):
        excess = m - z[k] - margin
        count += one if excess > zero else zero
        total += excess if excess > zero else zero
        top += one if z[k] == m else zero
    return count, total, top


@compiled(FAST)
def pulled(z, e, m, factor, margin, pull, even_term, kind, v_factor, v):
    """e becomes e·factor − v·v_factor − pull where the logit lies beyond the margin."""
    zero = rounded(e, 0.0)
    if kind == EVEN:
        for k in range(z.shape[0]):
            e[k] = e[k] * factor - even_term - (pull if m - z[k] - margin > zero else zero)
    else:
        for k in range(z.shape[0]):
            e[k] = e[k] * factor - v_factor * v[k] - (pull if m - z[k] - margin > zero else zero)


@compiled(FAST)
def raised(z, e, m, by):
    """Add to e where the logit is m."""
    zero = rounded(e, 0.0)
    for k in range(z.shape[0]):
        e[k] += by if z[k] == m else zero


@compiled(FAST)
def teachers(z, t, e, m, t_m, cold):
    """(Σ exp((t − t_m)/T), Σ of it times ((t − t_m) − (z − m))/T) with cold = 1/T; the exponentials go to e."""
    total, distance = rounded(e, 0.0), rounded(e, 0.0)
    for k in range(z.shape[0]):
        d = (t[k] - t_m) * cold
        e[k] = exp(d)
        total += e[k]
        distance += e[k] * (d - (z[k] - m) * cold)
    return total, distance


@compiled(FAST)
def cooled(z, e, m, cold):
    """Σ exp((z − m)/T); the exponentials go to e."""
    total = rounded(e, 0.0)
    for k in range(z.shape[0]):
        e[k] = exp((z[k] - m) * cold)
        total += e[k]
    return total


@compiled(FAST)
def powers(z, m, temperature, kind, v, soft, e):
    """`cooled` into soft and `by_rows.exponentials` into e, which is soft^T for T of 1 to 4: their three sums."""
    c1, c2 = rounded(e, temperature == 1), rounded(e, temperature == 2)
    c3, c4 = rounded(e, temperature == 3), rounded(e, temperature == 4)
    zero, cold = rounded(e, 0.0), rounded(e, 1 / temperature)
    soft_total, total, smooth_sum = zero, zero, zero
    for k in range(z.shape[0]):
        d = z[k] - m
        s = exp(d * cold)
        square = s * s
        soft[k] = s
        e[k] = s * (c1 + c3 * square) + square * (c2 + c4 * square)
        soft_total += s
        total += e[k]
        smooth_sum += d
    if kind != EVEN:
        smooth_sum = zero
        for k in range(z.shape[0]):
            smooth_sum += v[k] * (z[k] - m) if v[k] != 0 else zero
    return soft_total, total, smooth_sum


@compiled(FAST)
def taught(e, soft, q, factor, soft_factor, q_factor, even_term, kind, v_factor, v):
    """e becomes e·factor + soft·soft_factor − q·q_factor − v·v_factor."""
    if kind == EVEN:
        for k in range(e.shape[0]):
            e[k] = e[k] * factor + soft[k] * soft_factor - q[k] * q_factor - even_term
    else:
        for k in range(e.shape[0]):
            e[k] = e[k] * factor + soft[k] * soft_factor - q[k] * q_factor - v_factor * v[k]


@compiled(FAST)
def differences(e, q, factor, q_factor):
    """e becomes e·factor − q·q_factor."""
    for k in range(e.shape[0]):
        e[k] = e[k] * factor - q[k] * q_factor


@compiled(set())
def plain(own, found):
    """(loss of the plan, Σ of its weights, what the gradient multiplies e by, v, the share of every class)."""
    _, a, b, z_loss, _, v_sum, _, _ = own
    m, total, log_total, nll, smooth = found
    lse = m + log_total
    loss = z_loss * lse * lse + (a * nll if a != 0 else 0.0) + (b * smooth if b != 0 else 0.0)
    return loss, (a + b * v_sum + 2 * z_loss * lse) / total


@compiled(set())
def penalty(z, e, with_gradient, strength, own, found):
    label, a, b, _, v, _, kind, share = own
    m, total, log_total, _, _ = found
    loss, factor = plain(own, found)
    mean = weighted_distances(z, e, m) / total  # −H is mean − log total
    loss += strength * (mean - log_total)
    if with_gradient:
        slope = strength / total
        constant = rounded(e, factor - slope * mean)
        penalised(z, e, m, constant, rounded(e, slope), rounded(e, b * share), kind, rounded(e, b), v)
        e[label] -= a
    return loss, math.isfinite(loss)


@compiled(set())
def margin(z, e, with_gradient, strength, margin, own, found):
    label, a, b, _, v, _, kind, share = own
    loss, factor = plain(own, found)
    m, allowed, each = found[0], rounded(e, margin), strength / z.shape[0]
    count, excess, top = beyond(z, m, allowed)
    loss += each * excess if strength != 0 else 0.0
    if with_gradient:
        smoothing = rounded(e, b * share), kind, rounded(e, b), v
        pulled(z, e, m, rounded(e, factor), allowed, rounded(e, each), *smoothing)
        if count > 0:
            raised(z, e, m, rounded(e, each * count / top))
        e[label] -= a
    return loss, math.isfinite(loss)


@compiled(set())
def divergence(z, t, e, soft, q, with_gradient, strength, temperature, absent, soft_total, own, found):
    label, a, b, _, v, _, kind, share = own
    loss, factor = plain(own, found)
    m, cold, t_m = found[0], rounded(e, 1 / temperature), highest(t, EVEN, absent, rounded(e, -np.inf))
    t_total, distance = teachers(z, t, q, m, t_m, cold)
    loss += strength * (distance / t_total - math.log(t_total) + math.log(soft_total))
    if with_gradient:
        pull = strength / temperature
        factors = rounded(e, factor), rounded(e, pull / soft_total), rounded(e, pull / t_total)
        taught(e, soft, q, *factors, rounded(e, b * share), kind, rounded(e, b), v)
        e[label] -= a
    return loss, math.isfinite(loss)


@compiled(set())
def divergence_alone(z, t, e, q, with_gradient, m, strength, temperature, absent):
    """`divergence` where the plan is empty."""
    cold, t_m = rounded(e, 1 / temperature), highest(t, EVEN, absent, rounded(e, -np.inf))
    t_total, distance = teachers(z, t, q, m, t_m, cold)
    total = cooled(z, e, m, cold)
    loss = strength * (distance / t_total - math.log(t_total) + math.log(total))
    if with_gradient:
        pull = strength / temperature
        differences(e, q, rounded(e, pull / total), rounded(e, pull / t_total))
    return loss, math.isfinite(loss)
