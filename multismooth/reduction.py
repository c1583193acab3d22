"""What "mean" divides by. A mean is the plan scaled by 1/D: then every loss is a sum, for every kernel."""

from multismooth import spec


def summed(share, z, axis, xp):
    """Σ share over the elements of z; a plain number is every element's share."""
    if not isinstance(share, float):
        return xp.sum(xp.broadcast_to(share, z.shape[:axis] + z.shape[axis + 1 :]))
    count = 1
    for place, size in enumerate(z.shape):
        count *= size if place != axis else 1
    return share * count


def denominator(shares, z, convention, xp):
    """max(Σ share + add, floor): what the mean divides by."""
    total, floor = shares + convention.denominator_add, convention.denominator_floor
    if floor is None:
        return total
    return max(total, floor) if isinstance(total, float) else xp.where(total < floor, xp.constant(floor, z), total)


def reciprocal(total, z, xp):
    """1/total, and 0 for a total of 0: the mean over nothing."""
    if isinstance(total, (int, float)):
        return 1.0 / total if total else 0.0
    total = xp.astype(total, xp.float_of(z))
    nothing = total == 0
    return xp.where(nothing, xp.zeros_like(total), 1 / xp.where(nothing, xp.ones_like(total), total))


def denominators(plans, settings, xp):
    """(1/D, 1/D of the smoothing term or None) over all (plan, logits) pairs of a call."""
    convention, z = settings.convention, plans[0][1]
    shares = sum(summed(plan.share, logits, settings.axis, xp) for plan, logits in plans)
    own = reciprocal(denominator(shares, z, convention, xp), z, xp)
    if plans[0][0].smooth_share is None:
        return own, None
    shares = sum(summed(plan.smooth_share, logits, settings.axis, xp) for plan, logits in plans)
    return own, reciprocal(denominator(shares, z, convention, xp), z, xp)


def reduced_plan(problem, settings, xp):
    """The plan whose summed losses are the result: averaged if "mean" is asked for."""
    plan = spec.plan(problem, settings, xp)
    if settings.reduction != "mean":
        return plan
    if problem.normalizer is not None:
        return spec.scaled(plan, reciprocal(problem.normalizer, problem.logits, xp))
    return spec.scaled(plan, *denominators([(plan, problem.logits)], settings, xp))
