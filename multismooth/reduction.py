"""What "mean" divides by. A mean is the plan scaled by 1/D: then every loss is a sum, for every kernel."""

import math
from functools import reduce
from numbers import Real
from operator import or_

from multismooth import spec
from multismooth.plan import plan_of


def summed(share, z, axis, xp):
    """Σ share over the elements of z (axis None: its entries); a plain number is every element's share."""
    shape = z.shape if axis is None else z.shape[:axis] + z.shape[axis + 1 :]
    if not isinstance(share, float):
        return xp.sum(xp.broadcast_to(share, shape))
    count = 1
    for size in shape:
        count *= size
    return share * xp.number(count, z)


def denominator(shares, z, convention, xp):
    """max(Σ share + add, floor): what the mean divides by."""
    total, floor = shares + convention.denominator_add, convention.denominator_floor
    if floor is None:
        return total
    return max(total, floor) if isinstance(total, float) else xp.where(total < floor, xp.constant(floor, z), total)


def reciprocal(total, z, xp, counted=lambda: False):
    """1/total. The mean over nothing is 0, so 1/0 is 0 there; where `counted()` finds something after all, it is NaN.

    The only place that says what is divided by 0. Where values are in sight, `values` has refused such a call.
    """
    if isinstance(total, Real):  # NumPy's numbers are, too, and arithmetic with Python's own is three times faster
        if total:
            return 1.0 / float(total)
        something = counted()
        if isinstance(something, bool):
            return math.nan if something else 0.0
        return xp.where(something, xp.constant(math.nan, z), xp.constant(0.0, z))
    total = xp.astype(total, xp.float_of(z))
    zero, something = total == 0, counted()
    inverse = 1 / xp.where(zero, xp.constant(math.inf, z), total)
    if isinstance(something, bool):
        return xp.where(zero, xp.constant(math.nan, z), inverse) if something else inverse
    return xp.where(zero & something, xp.constant(math.nan, z), inverse)


SHARES = ("denominator_share", "smooth_denominator_share", "z_loss_denominator_share")
ADDED = (("label_weight", "const"), ("b",), ("z_loss",))  # what of a plan each of them divides


def adds(plans, names, axis, xp):
    """Whether anything is added up: one of these coefficients is not 0 somewhere."""
    found = []
    for plan, z in plans:
        if 0 in (*z.shape[:axis], *z.shape[axis + 1 :]):
            continue
        for value in (getattr(plan, name) for name in names):
            if isinstance(value, float) and value != 0:
                return True
            if value is not None and not isinstance(value, float):
                found.append(xp.any(value != 0))
    return reduce(or_, found) if found else False


def added(settings, *terms):
    """The names of what these terms of the loss add up. An ignored label's smoothing term is not counted."""
    names = [name for term in terms for name in ADDED[term]]
    return [name for name in names if name != "b" or settings.convention.ignore_scope != "nll_only"]


def denominators(plans, settings, xp):
    """What the loss, its smoothing term and its z-loss are divided by, over all (plan, logits) pairs of a call.

    None for a term that has no denominator of its own.
    """
    first, z = plans[0]

    def total(share):
        if getattr(first, share) is None:
            return None
        shares = sum(summed(getattr(plan, share), logits, settings.axis, xp) for plan, logits in plans)
        return denominator(shares, z, settings.convention, xp)

    return [total(share) for share in SHARES]


def factors(plans, problem, settings, xp):
    """What multiplies a summed loss, its smoothing term and its z-loss, as the arguments of `spec.scaled`.

    `plans` are (plan, logits) pairs, of which there may be many. A normalizer takes the place of all denominators.
    """
    if settings.reduction != "mean":
        return (1.0,)
    z, axis = problem.logits, settings.axis
    if problem.normalizer is not None:
        if settings.positive:
            return (reciprocal(problem.normalizer, z, xp),)
        return (reciprocal(problem.normalizer, z, xp, lambda: adds(plans, added(settings, 0, 1, 2), axis, xp)),)
    plans = list(plans)
    totals = denominators(plans, settings, xp)

    def factor(term):
        if problem.weight is None or settings.positive:  # then a sum of shares is 0 only where there are none
            return reciprocal(totals[term], z, xp)
        others = [k for k in (1, 2) if term == 0 and totals[k] is None]
        return reciprocal(totals[term], z, xp, lambda: adds(plans, added(settings, term, *others), axis, xp))

    return [None if total is None else factor(term) for term, total in enumerate(totals)]


def reduced_plan(problem, settings, xp):
    """The plan whose summed losses are the result: averaged if "mean" is asked for."""
    plan = plan_of(problem, settings, xp)
    return spec.scaled(plan, *factors([(plan, problem.logits)], problem, settings, xp))
