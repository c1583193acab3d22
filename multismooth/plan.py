"""The smoothed target and the Plan of a call, made from targets, ε, weights and the convention.

    q = (1 − ε′)·t + ε′·r,   loss = a·nll + b·smooth + const + z_loss·lse²

Of the logits only the shape and the dtype are used. Letters as in `spec`.
"""

import math
from functools import reduce
from operator import and_

from multismooth.classes import Classes
from multismooth.spec import Plan, rank, scaled, times, wide, xlogy, zero_unless

# --- the target -----------------------------------------------------------------------------------------------------


def read_targets(problem, settings, classes, xp):
    """(labels, with 0 for those outside [0, K); which elements are not ignored; soft rows t). None where not needed."""
    z, targets, s = problem.logits, problem.targets, problem.sample_weight
    if settings.soft:
        t, mask = xp.astype(targets, xp.float_of(z)), existing(problem, classes)
        t = t if mask is None else xp.where(mask, t, xp.zeros_like(t))
        return None, None, t if s is None else xp.where(wide(s != 0, settings.axis, xp), t, xp.zeros_like(t))
    if settings.clean:
        return targets, None, None
    counted = None if settings.ignore_index is None else targets != settings.ignore_index
    # Checked labels other than the ignored one are in [0, K). An ignore_index in [0, K) is not replaced: the label
    # still selects its class weight.
    checked = settings.valid and not 0 <= settings.ignore_index < classes.count
    inside = counted if checked else (targets >= 0) & (targets < classes.count)
    return xp.where(inside, targets, xp.zeros_like(targets)), counted, None


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


def reference(problem, settings, labels, t, classes, xp):
    """(r, the mask of existing classes, how many classes take smoothed mass, whether the prior has mass on these).

    r is None for 1/K on every class. The last is None without a prior, or if no class is masked or excluded.
    """
    z, axis, prior = problem.logits, settings.axis, problem.prior
    allowed = mask = existing(problem, classes)
    if settings.convention.exclude:
        included = included_classes(settings.convention, classes)
        allowed = included if mask is None else included & mask
    if prior is not None:
        prior = xp.astype(prior, xp.float_of(z))
        if prior.ndim == 1:
            prior = classes.row(prior)
        else:
            rows = classes.rows_at(prior, labels) if t is None else xp.moveaxis(t, axis, -1) @ prior
            prior = xp.moveaxis(rows, -1, axis)
    if allowed is None:
        return prior, mask, xp.number(classes.count, z), None
    ones = xp.astype(allowed, xp.float_of(z))
    r = ones if prior is None else xp.where(allowed, prior, xp.zeros_like(prior))
    total = classes.sum(r, keepdims=True)
    has_mass = None if prior is None else xp.squeeze(total, axis=axis) != 0
    return r / xp.where(total == 0, xp.ones_like(total), total), mask, classes.sum(ones), has_mass


def included_classes(convention, classes):
    """Where a class takes smoothed mass."""
    indices = classes.row(classes.indices())
    return reduce(and_, (indices != k for k in convention.exclude))


def smoothed_mass(convention, label_smoothing, classes, xp):
    """ε′ = `Convention.mass(ε, classes)`. With a class mask the number of classes is an array."""
    if isinstance(classes, int):
        return convention.mass(label_smoothing, classes)
    others = xp.where(classes > 1, classes - 1, xp.full_like(classes, float("inf")))
    stretch = classes / others / 2 if convention.spread == "others" else xp.ones_like(classes)
    return convention.mass(label_smoothing, 2) * stretch


def valid_targets(problem, settings, labels, counted, t, mask, has_mass, classes, xp):
    """Whether an element's target is valid: a label of an existing class, or a distribution over these classes.

    `has_mass`: whether the prior has mass for it, which is also required. None where no test is needed.
    """
    if settings.valid:
        return has_mass
    targets = problem.targets
    if t is not None:
        valid = valid_rows(xp.astype(targets, t.dtype), mask, settings.row_tolerance, classes, xp)
        return valid if has_mass is None else valid & has_mass
    valid = (targets >= 0) & (targets < classes.count)
    valid = valid if has_mass is None else valid & has_mass
    if mask is not None:
        valid = valid & classes.pick(mask, labels)
    return valid if counted is None else valid | ~counted  # an ignored label need not name a class


def valid_rows(t, mask, tolerance, classes, xp):
    """Whether each row of t is ≥ 0, sums to 1 within the tolerance, and has no mass on an absent class."""
    lowest, total = classes.min(t), classes.sum(t)
    valid = (lowest >= -tolerance) & (xp.abs(total - 1) <= tolerance)
    if mask is None:
        return valid
    absent = xp.where(mask, xp.zeros_like(t), t)
    return valid & (classes.max(absent) <= tolerance)


def value_or_nan(value, valid, z, xp):
    """`value`, with NaN at invalid targets that no check could read. So no label is wrapped or clamped silently."""
    return value if valid is None else xp.where(valid, xp.constant(value, z), xp.constant(float("nan"), z))


def smooth_targets(problem, settings, xp):
    """q, (N…, K): zeros in the rows of ignored labels, NaN at invalid targets."""
    z, axis = problem.logits, settings.axis
    classes = Classes(z, axis, xp)
    labels, counted, t = read_targets(problem, settings, classes, xp)
    problem = zero_uncounted(problem, settings, counted, z, xp)
    r, mask, receivers, has_mass = reference(problem, settings, labels, t, classes, xp)
    eps = xp.constant(smoothed_mass(settings.convention, problem.label_smoothing, receivers, xp), z)
    r = xp.constant(1 / xp.number(classes.count, z), z) if r is None else r
    q = xp.broadcast_to(wide(eps, axis, xp) * r, z.shape)
    valid = valid_targets(problem, settings, labels, counted, t, mask, has_mass, classes, xp)
    if t is not None:
        return value_or_nan(q + wide(1 - eps, axis, xp) * t, None if valid is None else wide(valid, axis, xp), z, xp)
    q = xp.deposit(q, labels, value_or_nan(1 - eps, valid, z, xp), axis)
    return q if counted is None else xp.where(wide(counted, axis, xp), q, xp.zeros_like(q))


# --- the plan -------------------------------------------------------------------------------------------------------


def plan_of(problem, settings, xp, classes=None) -> Plan:
    """The coefficients of `loss = a·nll + b·smooth + const + z_loss·lse²` from targets, ε, weights and convention.

    `classes`: None for logits of all classes.
    """
    z, axis, convention = problem.logits, settings.axis, settings.convention
    classes = Classes(z, axis, xp) if classes is None else classes
    labels, counted, t = read_targets(problem, settings, classes, xp)
    problem = zero_uncounted(problem, settings, counted, z, xp)
    s = problem.sample_weight
    r, mask, receivers, has_mass = reference(problem, settings, labels, t, classes, xp)
    eps = smoothed_mass(convention, problem.label_smoothing, receivers, xp)
    label_weight, smooth_weight, mixture, u, v = class_weights(problem, settings, labels, t, r, eps, classes, xp)
    a, b = (1 - eps) * (mixture if convention.class_weights == "mixture" else label_weight), eps * smooth_weight
    shares = {"target_weight": label_weight if t is None else 1.0, "mixture_weight": mixture}
    fixed = {None: None, "all": 1.0, "classes": xp.number(classes.count, z) * 1.0}
    valid = valid_targets(problem, settings, labels, counted, t, mask, has_mass, classes, xp)
    a, label_weight = (value_or_nan(x, valid, z, xp) for x in (a, label_weight))
    const = entropy(a, b, eps, u, v, r, labels, t, classes, xp) if convention.objective == "kl" else None
    z_loss, active = problem.z_loss, None if convention.ignore_scope == "nll_only" else counted
    if s is not None:
        weighted = s != 0 if rank(s) else xp.broadcast_to(s != 0, (*z.shape[:axis], *z.shape[axis + 1 :]))
        counted = weighted if counted is None else counted & weighted
        active = weighted if active is None else counted
        s = xp.astype(s, xp.float_of(z))
        a, b, label_weight = a * s, b * s, label_weight * s
        const, z_loss = times(const, s), times(z_loss, s)

    def share(name):
        value = shares.get(name, 1.0) if s is None or name == "nonzero" else shares.get(name, 1.0) * s
        return fixed[name] if name in fixed else zero_unless(counted, value, z, xp)

    built = Plan(
        labels=labels,
        u=u,
        v=v,
        a=zero_unless(counted, a, z, xp),
        b=zero_unless(active, b, z, xp),
        u_sum=1.0 if u is None else classes.sum(u),
        v_sum=1.0 if v is None else classes.sum(v),
        const=zero_unless(counted, const, z, xp),
        z_loss=zero_unless(counted, z_loss, z, xp),
        label_weight=zero_unless(counted, times(label_weight, convention.scale), z, xp),
        denominator_share=share(convention.denominator),
        smooth_denominator_share=share(convention.smooth_denominator),
        z_loss_denominator_share=z_loss
        if z_loss is None
        else share(convention.divides_z_loss(problem.weight is not None)),
        active=active,
        mask=mask,
        softcap=problem.logit_softcap,
    )
    return built if convention.scale == 1.0 else scaled(built, convention.scale)


def class_weights(problem, settings, labels, t, r, eps, classes, xp):
    """(label's weight, factor of b, Σ_k q_k w_k, u, v), as `Convention.class_weights` says how class weights enter."""
    weight, mode = problem.weight, settings.convention.class_weights
    if weight is None:
        return 1.0, 1.0, 1.0, t, r
    weight = xp.astype(weight, xp.float_of(problem.logits))
    column = classes.row(weight)
    w_t = classes.rows_at(weight, labels) if t is None else classes.sum(t * column)
    w_r = xp.mean(weight) if r is None else classes.sum(r * column)
    mixture = (1 - eps) * w_t + eps * w_r
    if mode == "mixture":
        return w_t, mixture, mixture, t, r
    if mode == "target":
        w_y = w_t if t is None else classes.rows_at(weight, classes.argmax(t))
        return w_y, w_y, mixture, t, r
    v = r if mode == "nll_only" else column / weight.shape[0] if r is None else column * r
    return (w_t, 1.0, mixture, None, v) if t is None else (1.0, 1.0, mixture, t * column, v)


def entropy(a, b, eps, u, v, r, labels, t, classes, xp):
    """Σ_k W_k log q_k with W = a·u + b·v, the term that "kl" adds. For labels it makes no (N, K) rows."""
    z, axis = classes.z, classes.axis
    eps, b = xp.constant(eps, z), xp.constant(b, z)
    if r is None:
        r = xp.constant(1 / xp.number(classes.count, z), z)
        r = xp.broadcast_to(r, [n if k == axis else 1 for k, n in enumerate(z.shape)])
    v = r if v is None else v
    if t is not None:
        q = wide(1 - eps, axis, xp) * t + wide(eps, axis, xp) * r
        return classes.sum(xlogy(wide(a, axis, xp) * u + wide(b, axis, xp) * v, q, xp))
    r_y, v_y = (classes.pick(row, labels) for row in (r, v))
    away = b * classes.sum(xlogy(v, r, xp)) + classes.sum(v) * xlogy(b, eps + 0 * b, xp)
    return away - xlogy(b * v_y, eps * r_y, xp) + xlogy(a + b * v_y, 1 - eps + eps * r_y, xp)


# --- a plan in another shape -----------------------------------------------------------------------------------------

ROWS = ("u", "v", "mask")
NUMBERS = ("a", "b", "u_sum", "v_sum", "const", "z_loss", "softcap")
COMMON = ("softcap",)  # to all elements


def mapped(plan, element, row):
    """The plan with `element` applied to its per-element arrays, and `row` to its rows of classes."""
    changed = {}
    for name, value in zip(plan._fields, plan, strict=True):
        if value is not None and type(value) is not float and name not in COMMON:
            changed[name] = row(value) if name in ROWS else element(value)
    return plan._replace(**changed) if changed else plan


def with_numbers(plan):
    """A NumPy plan with plain numbers in place of per-element arrays of one entry. Kernels are faster with numbers."""
    changed = {
        name: value.item()
        for name, value in zip(plan._fields, plan, strict=True)
        if name in NUMBERS and getattr(value, "size", 0) == 1
    }
    return plan._replace(**changed) if changed else plan


def shared(row):
    """Whether all elements share this row of a plan, which then has shape (1, K) or (1, K, 1)."""
    return row.shape[0] == 1 and math.prod(row.shape) == row.shape[1]
