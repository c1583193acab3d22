"""The smoothed target of a call, and what its plan takes over the classes.

    q = (1 − ε′)·t + ε′·r

Of the logits only the shape and the dtype are used. Letters as in `spec`.
"""

from functools import reduce
from operator import and_
from typing import Any, NamedTuple

from multismooth.classes import Classes
from multismooth.problem import traceable
from multismooth.spec import rank, wide, zero_unless


def read_targets(problem, settings, classes, xp):
    """(labels, with 0 for those outside [0, K); which labels are inside; which elements are not ignored; soft rows t).

    None where not needed.
    """
    z, targets, s = problem.logits, problem.targets, problem.sample_weight
    if settings.soft:
        t, mask = xp.astype(targets, xp.float_of(z)), existing(problem, classes)
        t = t if mask is None else xp.where(mask, t, xp.zeros_like(t))
        return None, None, None, t if s is None else xp.where(wide(s != 0, settings.axis, xp), t, xp.zeros_like(t))
    if settings.clean:
        return targets, None, None, None
    counted = None if settings.ignore_index is None else targets != settings.ignore_index
    # Checked labels other than the ignored one are in [0, K). An ignore_index in [0, K) is not replaced: the label
    # still selects its class weight.
    checked = settings.valid and not 0 <= settings.ignore_index < classes.count
    inside = counted if checked else (targets >= 0) & (targets < classes.count)
    return xp.where(inside, targets, 0), inside, counted, None


def existing(problem, classes):
    """The mask of existing classes, broadcastable to the logits. None: all exist."""
    mask = problem.class_mask
    return classes.row(mask) if rank(mask) == 1 else mask


def zero_uncounted(problem, settings, counted, z, xp):
    """The problem with ε and sample weight 0 at the elements that do not count. These may hold NaN.

    To multiply by 0 later is not enough: 0·NaN would come back in the derivatives.
    """
    keeps_ignored, s, epsilon = (
        settings.convention.ignore_scope == "nll_only",
        problem.sample_weight,
        problem.label_smoothing,
    )
    if s is not None and counted is not None and not keeps_ignored:
        s = zero_unless(counted, s, z, xp)
    active = None if keeps_ignored else counted
    active = active if s is None else s != 0
    if rank(epsilon) and active is not None:
        epsilon = zero_unless(active, epsilon, z, xp)
    return problem._replace(sample_weight=s, label_smoothing=epsilon)


class Reference(NamedTuple):
    """r, the distribution of the smoothed mass, before it is divided by its sum."""

    row: Any  # None for 1/K on every class
    classes: Any  # its class axis: that of rows with all classes, which every process has, or that of the logits
    restricted: bool  # whether some class takes nothing, because it is absent or excluded. Else r sums to 1
    mask: Any  # of the existing classes, broadcastable to the logits; None: all exist


def reference_of(problem, settings, labels, t, classes, xp):
    """The Reference of a call."""
    z, axis, prior, mask = problem.logits, settings.axis, problem.prior, problem.class_mask
    included = included_classes(settings.convention, classes) if settings.convention.exclude else None
    given = [x for x in (included, mask, prior) if x is not None]
    shared = given and all(rank(x) == 1 for x in given)  # by all elements
    axes = classes.whole if shared else classes
    if prior is not None:
        prior = xp.astype(prior, xp.float_of(z))
        if prior.ndim == 1:
            prior = axes.row(prior)
        else:
            rows = classes.rows_at(prior, labels) if t is None else xp.moveaxis(t, axis, -1) @ prior
            prior = xp.moveaxis(rows, -1, axis)
    allowed = [axes.row(x) if rank(x) == 1 else x for x in (included, mask) if x is not None]
    if not allowed:
        return Reference(prior, axes, False, None)
    allowed = reduce(and_, allowed)
    row = xp.astype(allowed, xp.float_of(z)) if prior is None else xp.where(allowed, prior, xp.zeros_like(prior))
    return Reference(row, axes, True, existing(problem, classes))


def included_classes(convention, classes):
    """Where a class takes smoothed mass, as a (K,) vector."""
    indices = classes.indices()
    return reduce(and_, (indices != k for k in convention.exclude))


@traceable
class Sums(NamedTuple):
    """What a call takes over all classes, per element, of what it knows before. None: it needs no such number."""

    of_r: Any = None  # before r is divided by it
    weight_of_r: Any = None  # Σ_k r_k w_k, also before
    weight_of_t: Any = None  # Σ_k t_k w_k
    likeliest: Any = None  # the class of the largest entry of t
    valid: Any = None  # whether the target is a label of an existing class, or a distribution over these


def sums_of(problem, settings, labels, t, reference, classes, xp):
    """The Sums of a call. Where processes have parts of the classes, this is one exchange."""
    z, found, (row, axes, restricted, mask) = problem.logits, {}, reference
    weight = None if problem.weight is None else xp.astype(problem.weight, xp.float_of(z))
    mixes = weight is not None and mixture_matters(settings)
    if restricted:
        found["of_r"] = axes.sum(row)
    if mixes and row is not None:
        found["weight_of_r"] = axes.sum(row * axes.row(weight))
    if mixes and t is not None:
        found["weight_of_t"] = classes.sum(t * classes.row(weight))
    if weight is not None and t is not None and settings.convention.class_weights == "target":
        found["likeliest"] = classes.argmax(t)
    if t is not None and not settings.valid:
        found["valid"] = classes.valid_rows(xp.astype(problem.targets, t.dtype), mask, settings.row_tolerance)
    elif mask is not None and not settings.valid:
        found["valid"] = classes.pick(mask, labels)
    return Sums(**classes.together(found))


def mixture_matters(settings):
    """Whether Σ_k q_k w_k of a call with class weights enters the loss, or a denominator that is asked for."""
    convention = settings.convention
    denominators = (convention.denominator, convention.smooth_denominator, convention.divides_z_loss(weighted=True))
    return convention.class_weights == "mixture" or (settings.shares and "mixture_weight" in denominators)


def divided(reference, sums, problem, settings, classes, xp):
    """(r as rows, the Sums with the weight of this r, how many classes take smoothed mass, whether the prior has mass).

    The last is None without a prior, or if no class is absent or excluded.
    """
    r, axes, restricted, _ = reference
    count, has_mass = xp.number(classes.count, problem.logits), None
    if r is None and problem.weight is not None and mixture_matters(settings):
        sums = sums._replace(weight_of_r=xp.mean(xp.astype(problem.weight, xp.float_of(problem.logits))))
    if restricted:
        total, weight = sums.of_r, sums.weight_of_r
        safe = xp.where(total == 0, xp.ones_like(total), total)
        r = r / wide(safe, settings.axis, xp)
        sums = sums if weight is None else sums._replace(weight_of_r=weight / safe)
        if problem.prior is None:
            count = total
        else:  # which excludes the spread "others", so ε′ does not depend on the count
            has_mass = total != 0
    return r if r is None or axes is classes else classes.row(xp.reshape(r, (-1,))), sums, count, has_mass


def smoothed_mass(convention, label_smoothing, classes, xp):
    """ε′ = `Convention.mass(ε, classes)`. With a class mask the number of classes is an array."""
    if isinstance(classes, int):
        return convention.mass(label_smoothing, classes)
    others = xp.where(classes > 1, classes - 1, xp.full_like(classes, float("inf")))
    stretch = classes / others / 2 if convention.spread == "others" else xp.ones_like(classes)
    return convention.mass(label_smoothing, 2) * stretch


def valid_targets(settings, inside, counted, found, has_mass):
    """Whether an element's target is valid, and `has_mass`: whether the prior has mass for it.

    `inside`, `counted`: from `read_targets`. `found` is what `Sums` say of it. None where no test is needed.
    """
    if settings.valid:
        return has_mass
    valid = found if inside is None else inside if found is None else inside & found
    valid = valid if has_mass is None else valid & has_mass
    return valid if counted is None else valid | ~counted  # an ignored label need not name a class


def value_or_nan(value, valid, z, xp):
    """`value`, with NaN at invalid targets that no check could read. So no label is wrapped or clamped silently."""
    return value if valid is None else xp.where(valid, xp.constant(value, z), xp.constant(float("nan"), z))


def smooth_targets(problem, settings, xp):
    """q, (N…, K): zeros in the rows of ignored labels, NaN at invalid targets."""
    z, axis = problem.logits, settings.axis
    classes = Classes(z, axis, xp)
    labels, inside, counted, t = read_targets(problem, settings, classes, xp)
    problem = zero_uncounted(problem, settings, counted, z, xp)
    reference = reference_of(problem, settings, labels, t, classes, xp)
    sums = sums_of(problem, settings, labels, t, reference, classes, xp)
    r, _, receivers, has_mass = divided(reference, sums, problem, settings, classes, xp)
    eps = xp.constant(smoothed_mass(settings.convention, problem.label_smoothing, receivers, xp), z)
    r = xp.constant(1 / xp.number(classes.count, z), z) if r is None else r
    q = xp.broadcast_to(wide(eps, axis, xp) * r, z.shape)
    valid = valid_targets(settings, inside, counted, sums.valid, has_mass)
    if t is not None:
        return value_or_nan(q + wide(1 - eps, axis, xp) * t, None if valid is None else wide(valid, axis, xp), z, xp)
    q = xp.deposit(q, labels, value_or_nan(1 - eps, valid, z, xp), axis)
    return q if counted is None else xp.where(wide(counted, axis, xp), q, xp.zeros_like(q))
