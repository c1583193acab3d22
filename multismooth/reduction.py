"""What "mean" divides by. A mean is the plan scaled by 1/D: then every loss is a sum, for every kernel."""

from numbers import Real

from multismooth import spec
from multismooth.problem import Usual


def summed(share, z, axis, xp):
    """Σ share over the elements of z; a plain number is every element's share."""
    if not isinstance(share, float):
        return xp.sum(xp.broadcast_to(share, z.shape[:axis] + z.shape[axis + 1 :]))
    count = 1
    for place, size in enumerate(z.shape):
        count *= size if place != axis else 1
    return share * xp.number(count, z)


def denominator(shares, z, convention, xp):
    """max(Σ share + add, floor): what the mean divides by."""
    total, floor = shares + convention.denominator_add, convention.denominator_floor
    if floor is None:
        return total
    return max(total, floor) if isinstance(total, float) else xp.where(total < floor, xp.constant(floor, z), total)


def reciprocal(total, z, xp):
    """1/total, and 0 for a total of 0: the mean over nothing."""
    if isinstance(total, Real):  # NumPy's numbers are, too, and arithmetic with Python's own is three times faster
        return 1.0 / float(total) if total else 0.0
    total = xp.astype(total, xp.float_of(z))
    nothing = total == 0
    return xp.where(nothing, xp.zeros_like(total), 1 / xp.where(nothing, xp.ones_like(total), total))


def denominators(plans, settings, xp):
    """(1/D, 1/D of the smoothing term or None) over all (plan, logits) pairs of a call."""
    plans = list(plans)
    first, z = plans[0]

    def one_over(share):
        total = sum(summed(getattr(plan, share), logits, settings.axis, xp) for plan, logits in plans)
        return reciprocal(denominator(total, z, settings.convention, xp), z, xp)

    return one_over("share"), None if first.smooth_share is None else one_over("smooth_share")


def factors(plans, problem, settings, xp):
    """(what multiplies a summed loss, the same for its smoothing term or None); `plans` as in `denominators`."""
    if settings.reduction != "mean":
        return 1.0, None
    if problem.normalizer is not None:
        return reciprocal(problem.normalizer, problem.logits, xp), None
    return denominators(plans, settings, xp)


def reduced_plan(problem, settings, xp):
    """The plan whose summed losses are the result: averaged if "mean" is asked for."""
    usual = isinstance(settings, Usual)
    if usual and settings.plan is not None:
        return settings.plan._replace(labels=problem.targets)
    plan = spec.plan(problem, settings, xp)
    plan = spec.scaled(plan, *factors([(plan, problem.logits)], problem, settings, xp))
    if usual and all(value is None or isinstance(value, float) for value in plan[1:]):
        settings.plan = plan._replace(labels=None)
    return plan
