"""The denominator D of "mean". The plan is scaled by 1/D, so that kernels only ever compute sums."""

import math
from functools import reduce
from numbers import Real
from operator import or_

from multismooth import spec
from multismooth.plan import plan_of


def summed(share, z, axis, xp):
    """Σ share over the elements of z (over its entries for axis=None). A plain number is the share of each element."""
    shape = z.shape if axis is None else z.shape[:axis] + z.shape[axis + 1 :]
    if not isinstance(share, float):
        return xp.sum(xp.broadcast_to(share, shape))
    count = 1
    for size in shape:
        count *= size
    return share * xp.number(count, z)


def denominator(shares, z, convention, xp):
    """The denominator of the mean: max(Σ share + add, floor)."""
    add, floor = convention.denominator_add, convention.denominator_floor
    total = shares if add == 0.0 else shares + add
    if floor is None:
        return total
    return max(total, floor) if isinstance(total, float) else xp.where(total < floor, xp.constant(floor, z), total)


def reciprocal(total, z, xp, counted=lambda: False):
    """1/total. For a total of 0 it is 0, so that a mean over no elements is 0, or NaN if `counted()` is true.

    This function alone decides what a division by 0 gives. Where values can be read, `value_checks` has refused a call
    of the latter kind.
    """
    if isinstance(total, Real):  # true for NumPy scalars too; arithmetic with Python floats is three times faster
        if total:
            return 1.0 / float(total)
        some_counted = counted()
        if isinstance(some_counted, bool):
            return math.nan if some_counted else 0.0
        return xp.where(some_counted, xp.constant(math.nan, z), xp.constant(0.0, z))
    total = xp.astype(total, xp.float_of(z))
    zero, some_counted = total == 0, counted()
    inverse = 1 / xp.where(zero, xp.constant(math.inf, z), total)
    if isinstance(some_counted, bool):
        return xp.where(zero, xp.constant(math.nan, z), inverse) if some_counted else inverse
    return xp.where(zero & some_counted, xp.constant(math.nan, z), inverse)


SHARES = ("denominator_share", "smooth_denominator_share", "z_loss_denominator_share")
COEFFICIENTS = (("label_weight", "const"), ("b",), ("z_loss",))  # the fields of a plan that each denominator divides


def any_nonzero(plans, names, axis, xp):
    """Whether one of these coefficients is not 0 for some element, so that the sum has summands."""
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


def coefficients(settings, *terms):
    """The names of the coefficients of these terms. The smoothing term of ignored labels does not count, so not "b"."""
    names = [name for term in terms for name in COEFFICIENTS[term]]
    return [name for name in names if name != "b" or settings.convention.ignore_scope != "nll_only"]


def here(total):
    """The total of all processes, where there is one."""
    return total


def denominators(plans, settings, xp, across=here):
    """The denominators of the loss, its smoothing term and its z-loss, over all (plan, logits) pairs of a call.

    None for a term that has the loss's denominator. `across` adds up the totals of several processes.
    """
    first, z = plans[0]

    def total(share):
        if getattr(first, share) is None:
            return None
        shares = None
        for plan, logits in plans:
            part = summed(getattr(plan, share), logits, settings.axis, xp)
            shares = part if shares is None else shares + part
        return denominator(across(shares), z, settings.convention, xp)

    return [total(share) for share in SHARES]


def factors(plans, problem, settings, xp, across=here):
    """The factors of a summed loss, its smoothing term and its z-loss, as the arguments of `spec.scaled`.

    `plans` are the (plan, logits) pairs of all chunks. A normalizer replaces all denominators. `across` adds up the
    totals of several processes.
    """
    if settings.reduction != "mean":
        return (1.0,)
    z, axis = problem.logits, settings.axis
    if problem.normalizer is not None:
        if settings.positive:
            return (reciprocal(problem.normalizer, z, xp),)
        return (
            reciprocal(
                problem.normalizer, z, xp, lambda: any_nonzero(plans, coefficients(settings, 0, 1, 2), axis, xp)
            ),
        )
    plans = list(plans)
    totals = denominators(plans, settings, xp, across)

    def counted(names):
        found = any_nonzero(plans, names, axis, xp)
        return found if across is here else across(found) != 0

    def factor(term):
        if problem.weight is None or settings.positive:  # then a sum of shares is 0 only if no element counts
            return reciprocal(totals[term], z, xp)
        others = [k for k in (1, 2) if term == 0 and totals[k] is None]
        return reciprocal(totals[term], z, xp, lambda: counted(coefficients(settings, term, *others)))

    return [None if total is None else factor(term) for term, total in enumerate(totals)]


def term_factors(plans, problem, settings, xp, across=here):
    """The factors with which Σ loss / Σ weight of the Terms is the mean, as the arguments of `spec.scaled`.

    A term with another denominator than the loss is multiplied by their ratio.
    """
    plans = list(plans)
    if all(getattr(plans[0][0], share) is None for share in SHARES[1:]):
        return (1.0,)
    own, *others = denominators(plans, settings, xp, across)
    return 1.0, *(None if other is None else own * reciprocal(other, problem.logits, xp) for other in others)


def reduced_plan(problem, settings, xp):
    """The plan whose summed losses are the result, also for the reduction "mean"."""
    plan = plan_of(problem, settings, xp)
    return spec.scaled(plan, *factors([(plan, problem.logits)], problem, settings, xp))
