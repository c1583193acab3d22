"""The target, and the Plan of a call: targets, ε, weights and the convention, as the coefficients that `spec` names.

    q = (1 − ε′)·t + ε′·r,   loss = a·nll + b·smooth + const + z_loss·lse²

Nothing here depends on the logits but by their shape and dtype. Letters as in `spec`.
"""

import math

from multismooth.spec import Plan, along, keep, rank, rows_at, scaled, times, wide, xlogy

# --- the target -----------------------------------------------------------------------------------------------------


def read_targets(problem, settings, xp):
    """(labels moved into [0, K), which elements are not ignored, soft rows t); None for what does not apply."""
    z, targets, s = problem.logits, problem.targets, problem.sample_weight
    if settings.soft:
        t, mask = xp.astype(targets, xp.float_of(z)), existing(problem, settings, xp)
        t = t if mask is None else xp.where(mask, t, xp.zeros_like(t))
        return None, None, t if s is None else xp.where(wide(s != 0, settings.axis, xp), t, xp.zeros_like(t))
    if settings.clean:
        return targets, None, None
    counted = None if settings.ignore_index is None else targets != settings.ignore_index
    sure = settings.valid and not 0 <= settings.ignore_index < z.shape[settings.axis]  # else it keeps its class weight
    inside = counted if sure else (targets >= 0) & (targets < z.shape[settings.axis])
    return xp.where(inside, targets, xp.zeros_like(targets)), counted, None


def existing(problem, settings, xp):
    """The mask of existing classes, which broadcasts to the logits; None: all exist."""
    mask = problem.class_mask
    return along(mask, problem.logits, settings.axis, xp) if rank(mask) == 1 else mask


def silenced(problem, settings, counted, z, xp):
    """The problem without what stands at elements that do not count, NaN maybe: their ε and sample weight are 0.

    A 0 that meets it later is not enough, because derivatives would bring 0·NaN back.
    """
    keeps, s, epsilon = settings.convention.ignore_scope == "nll_only", problem.sample_weight, problem.label_smoothing
    if s is not None and counted is not None and not keeps:
        s = keep(s, counted, z, xp)
    active = None if keeps else counted
    active = active if s is None else s != 0
    if rank(epsilon) and active is not None:
        epsilon = keep(epsilon, active, z, xp)
    return problem._replace(sample_weight=s, label_smoothing=epsilon)


def reference(problem, settings, labels, t, xp):
    """(r, the mask of existing classes, how many classes take smoothed mass, whether a prior has mass on these).

    r is None for 1/K on every class; the last is None where nobody can take a prior's mass away.
    """
    z, axis, prior = problem.logits, settings.axis, problem.prior
    allowed = mask = existing(problem, settings, xp)
    if settings.convention.exclude:
        included = [k not in settings.convention.exclude for k in range(z.shape[axis])]
        included = along(xp.constant(included, z) > 0, z, axis, xp)
        allowed = included if mask is None else included & mask
    if prior is not None:
        prior = xp.astype(prior, xp.float_of(z))
        if prior.ndim == 1:
            prior = along(prior, z, axis, xp)
        else:
            rows = rows_at(prior, labels, xp) if t is None else xp.moveaxis(t, axis, -1) @ prior
            prior = xp.moveaxis(rows, -1, axis)
    if allowed is None:
        return prior, mask, xp.number(z.shape[axis], z), None
    ones = xp.astype(allowed, xp.float_of(z))
    r = ones if prior is None else xp.where(allowed, prior, xp.zeros_like(prior))
    total = xp.sum(r, axis=axis, keepdims=True)
    left = None if prior is None else xp.squeeze(total, axis=axis) != 0
    return r / xp.where(total == 0, xp.ones_like(total), total), mask, xp.sum(ones, axis=axis), left


def smoothed_mass(convention, label_smoothing, classes, xp):
    """ε′ = `Convention.mass(ε, classes)`, also where a class mask makes the number of classes an array."""
    if isinstance(classes, int):
        return convention.mass(label_smoothing, classes)
    others = xp.where(classes > 1, classes - 1, xp.full_like(classes, float("inf")))
    stretch = classes / others / 2 if convention.spread == "others" else xp.ones_like(classes)
    return convention.mass(label_smoothing, 2) * stretch


def possible(problem, settings, labels, counted, t, mask, left, xp):
    """Whether an element's target is one: a label of an existing class, or a row that is a distribution over them, and
    the prior has mass `left` for it. None where the targets were looked at already.
    """
    if settings.valid:
        return left
    z, axis, targets = problem.logits, settings.axis, problem.targets
    if t is not None:
        right = distributed(xp.astype(targets, t.dtype), mask, settings.row_tolerance, axis, xp)
        return right if left is None else right & left
    right = (targets >= 0) & (targets < z.shape[axis])
    right = right if left is None else right & left
    if mask is not None:
        right = right & xp.pick(xp.broadcast_to(mask, z.shape), labels, axis)
    return right if counted is None else right | ~counted  # an ignored label may name nothing


def distributed(t, mask, tolerance, axis, xp):
    """Whether each row of t is ≥ 0, sums to 1 within the tolerance, and has no mass on an absent class."""
    lowest, total = xp.min(t, axis=axis), xp.sum(t, axis=axis)
    right = (lowest >= -tolerance) & (xp.abs(total - 1) <= tolerance)
    if mask is None:
        return right
    absent = xp.where(mask, xp.zeros_like(t), t)
    return right & (xp.max(absent, axis=axis) <= tolerance)


def value_or_nan(value, right, z, xp):
    """`value`, and NaN where nothing could raise for a wrong target: nothing wraps, clamps or trains on garbage."""
    return value if right is None else xp.where(right, xp.constant(value, z), xp.constant(float("nan"), z))


def smooth_targets(problem, settings, xp):
    """q, (N…, K): zeros in the rows of ignored labels, NaN at an impossible label."""
    z, axis = problem.logits, settings.axis
    labels, counted, t = read_targets(problem, settings, xp)
    problem = silenced(problem, settings, counted, z, xp)
    r, mask, classes, left = reference(problem, settings, labels, t, xp)
    eps = xp.constant(smoothed_mass(settings.convention, problem.label_smoothing, classes, xp), z)
    r = xp.constant(1 / xp.number(z.shape[axis], z), z) if r is None else r
    q = xp.broadcast_to(wide(eps, axis, xp) * r, z.shape)
    right = possible(problem, settings, labels, counted, t, mask, left, xp)
    if t is not None:
        return value_or_nan(q + wide(1 - eps, axis, xp) * t, None if right is None else wide(right, axis, xp), z, xp)
    q = xp.deposit(q, labels, value_or_nan(1 - eps, right, z, xp), axis)
    return q if counted is None else xp.where(wide(counted, axis, xp), q, xp.zeros_like(q))


# --- the plan -------------------------------------------------------------------------------------------------------


def plan_of(problem, settings, xp) -> Plan:
    """The coefficients of `loss = a·nll + b·smooth + const + z_loss·lse²` from targets, ε, weights and convention."""
    z, axis, convention = problem.logits, settings.axis, settings.convention
    labels, counted, t = read_targets(problem, settings, xp)
    problem = silenced(problem, settings, counted, z, xp)
    s = problem.sample_weight
    r, mask, classes, left = reference(problem, settings, labels, t, xp)
    eps = smoothed_mass(convention, problem.label_smoothing, classes, xp)
    label_weight, smooth_weight, mixture, u, v = class_weights(problem, settings, labels, t, r, eps, xp)
    a, b = (1 - eps) * (mixture if convention.class_weights == "mixture" else label_weight), eps * smooth_weight
    shares = {"target_weight": label_weight if t is None else 1.0, "mixture_weight": mixture}
    fixed = {None: None, "all": 1.0, "classes": xp.number(z.shape[axis], z) * 1.0}
    right = possible(problem, settings, labels, counted, t, mask, left, xp)
    a, label_weight = (value_or_nan(x, right, z, xp) for x in (a, label_weight))
    const = entropy(a, b, eps, u, v, r, labels, t, z, axis, xp) if convention.objective == "kl" else None
    z_loss, active = problem.z_loss, None if convention.ignore_scope == "nll_only" else counted
    if s is not None:
        something = s != 0
        counted = something if counted is None else counted & something
        active = something if active is None else counted
        s = xp.astype(s, xp.float_of(z))
        a, b, label_weight = a * s, b * s, label_weight * s
        const, z_loss = times(const, s), times(z_loss, s)

    def share(name):
        value = shares.get(name, 1.0) if s is None or name == "nonzero" else shares.get(name, 1.0) * s
        return fixed[name] if name in fixed else keep(value, counted, z, xp)

    built = Plan(
        labels=labels,
        u=u,
        v=v,
        a=keep(a, counted, z, xp),
        b=keep(b, active, z, xp),
        u_sum=1.0 if u is None else xp.sum(u, axis=axis),
        v_sum=1.0 if v is None else xp.sum(v, axis=axis),
        const=keep(const, counted, z, xp),
        z_loss=keep(z_loss, counted, z, xp),
        label_weight=keep(times(label_weight, convention.scale), counted, z, xp),
        denominator_share=share(convention.denominator),
        smooth_denominator_share=share(convention.smooth_denominator),
        z_loss_denominator_share=z_loss
        if z_loss is None
        else share(convention.divides_z_loss(problem.weight is not None)),
        active=active,
        mask=mask,
    )
    return built if convention.scale == 1.0 else scaled(built, convention.scale)


def class_weights(problem, settings, labels, t, r, eps, xp):
    """(label's weight, factor of b, Σ_k q_k w_k, u, v): how class weights enter, by `Convention.class_weights`."""
    weight, axis, mode = problem.weight, settings.axis, settings.convention.class_weights
    if weight is None:
        return 1.0, 1.0, 1.0, t, r
    weight = xp.astype(weight, xp.float_of(problem.logits))
    column = along(weight, problem.logits, axis, xp)
    w_t = rows_at(weight, labels, xp) if t is None else xp.sum(t * column, axis=axis)
    w_r = xp.mean(weight) if r is None else xp.sum(r * column, axis=axis)
    mixture = (1 - eps) * w_t + eps * w_r
    if mode == "mixture":
        return w_t, mixture, mixture, t, r
    if mode == "target":
        w_y = w_t if t is None else rows_at(weight, xp.argmax(t, axis=axis), xp)
        return w_y, w_y, mixture, t, r
    v = r if mode == "nll_only" else column / weight.shape[0] if r is None else column * r
    return (w_t, 1.0, mixture, None, v) if t is None else (1.0, 1.0, mixture, t * column, v)


def entropy(a, b, eps, u, v, r, labels, t, z, axis, xp):
    """Σ_k W_k log q_k with W = a·u + b·v: what "kl" adds. No (N, K) rows are made for labels."""
    eps, b = xp.constant(eps, z), xp.constant(b, z)
    if r is None:
        r = xp.constant(1 / xp.number(z.shape[axis], z), z)
        r = xp.broadcast_to(r, [n if k == axis else 1 for k, n in enumerate(z.shape)])
    v = r if v is None else v
    if t is not None:
        q = wide(1 - eps, axis, xp) * t + wide(eps, axis, xp) * r
        return xp.sum(xlogy(wide(a, axis, xp) * u + wide(b, axis, xp) * v, q, xp), axis=axis)
    r_y, v_y = (xp.pick(xp.broadcast_to(row, z.shape), labels, axis) for row in (r, v))
    away = b * xp.sum(xlogy(v, r, xp), axis=axis) + xp.sum(v, axis=axis) * xlogy(b, eps + 0 * b, xp)
    return away - xlogy(b * v_y, eps * r_y, xp) + xlogy(a + b * v_y, 1 - eps + eps * r_y, xp)


# --- a plan in another shape -----------------------------------------------------------------------------------------

ROWS = ("u", "v", "mask")
NUMBERS = ("a", "b", "u_sum", "v_sum", "const", "z_loss")


def mapped(plan, element, row):
    """The plan with its per-element arrays and its rows (which broadcast to the logits) changed."""

    changed = {}
    for name, value in zip(plan._fields, plan, strict=True):
        if value is not None and type(value) is not float:
            changed[name] = row(value) if name in ROWS else element(value)
    return plan._replace(**changed)


def with_numbers(plan):
    """A plan of NumPy's whose per-element arrays of one entry are plain numbers, in which kernels compute faster."""
    changed = {
        name: value.item()
        for name, value in zip(plan._fields, plan, strict=True)
        if name in NUMBERS and getattr(value, "size", 0) == 1
    }
    return plan._replace(**changed) if changed else plan


def shared(row):
    """Whether a row of a plan, as (1, K) or (1, K, 1), is one for all elements."""
    return row.shape[0] == 1 and math.prod(row.shape) == row.shape[1]
