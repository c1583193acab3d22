"""The target, and the Plan of a call: targets, ε, weights and the convention, as the coefficients that `spec` names.

    q = (1 − ε′)·t + ε′·r,   loss = a·nll + b·smooth + const + zeta·lse²

Nothing here depends on the logits but by their shape and dtype. Letters as in `spec`.
"""

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


def reference(problem, settings, labels, t, xp):
    """(r, the mask of existing classes, how many classes take smoothed mass); r is None for 1/K on every class."""
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
        return prior, mask, xp.number(z.shape[axis], z)
    ones = xp.astype(allowed, xp.float_of(z))
    r = ones if prior is None else xp.where(allowed, prior, xp.zeros_like(prior))
    total, classes = xp.sum(r, axis=axis), xp.sum(ones, axis=axis)
    total = xp.where(classes == 0, xp.ones_like(total), total)  # an element that counts for nothing may lack classes
    return r / wide(total, axis, xp), mask, classes


def smoothed_mass(convention, label_smoothing, classes, xp):
    """ε′ = `Convention.mass(ε, classes)`, also where a class mask makes the number of classes an array."""
    if isinstance(classes, int):
        return convention.mass(label_smoothing, classes)
    others = xp.where(classes > 1, classes - 1, xp.full_like(classes, float("inf")))
    stretch = classes / others / 2 if convention.spread == "others" else xp.ones_like(classes)
    return convention.mass(label_smoothing, 2) * stretch


def possible(problem, settings, labels, counted, t, mask, xp):
    """Whether an element's target is one: a label of an existing class, or a row that is a distribution over them.

    None where the targets were looked at already.
    """
    if settings.valid:
        return None
    z, axis, targets = problem.logits, settings.axis, problem.targets
    if t is not None:
        return distributed(xp.astype(targets, t.dtype), mask, settings.row_tolerance, axis, xp)
    right = (targets >= 0) & (targets < z.shape[axis])
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
    r, mask, classes = reference(problem, settings, labels, t, xp)
    eps = xp.constant(smoothed_mass(settings.convention, problem.label_smoothing, classes, xp), z)
    r = xp.constant(1 / xp.number(z.shape[axis], z), z) if r is None else r
    q = xp.broadcast_to(wide(eps, axis, xp) * r, z.shape)
    right = possible(problem, settings, labels, counted, t, mask, xp)
    if t is not None:
        return value_or_nan(q + wide(1 - eps, axis, xp) * t, None if right is None else wide(right, axis, xp), z, xp)
    q = xp.deposit(q, labels, value_or_nan(1 - eps, right, z, xp), axis)
    return q if counted is None else xp.where(wide(counted, axis, xp), q, xp.zeros_like(q))


# --- the plan -------------------------------------------------------------------------------------------------------


def plan_of(problem, settings, xp) -> Plan:
    """Targets, ε, weights and the convention, as the coefficients of `loss = a·nll + b·smooth + const + zeta·lse²`."""
    z, axis, convention, s = problem.logits, settings.axis, settings.convention, problem.sample_weight
    labels, counted, t = read_targets(problem, settings, xp)
    r, mask, classes = reference(problem, settings, labels, t, xp)
    eps = smoothed_mass(convention, problem.label_smoothing, classes, xp)
    label_weight, smooth_weight, mixture, u, v = class_weights(problem, settings, labels, t, r, eps, xp)
    a, b = (1 - eps) * (mixture if convention.class_weights == "mixture" else label_weight), eps * smooth_weight
    shares = {"target_weight": label_weight if t is None else 1.0, "mixture_weight": mixture}
    fixed = {None: None, "all": 1.0, "classes": xp.number(z.shape[axis], z) * 1.0}
    right = possible(problem, settings, labels, counted, t, mask, xp)
    a, label_weight = (value_or_nan(x, right, z, xp) for x in (a, label_weight))
    const = entropy(a, b, eps, u, v, r, labels, t, z, axis, xp) if convention.objective == "kl" else None
    zeta, alive = problem.z_loss, None if convention.ignore_scope == "nll_only" else counted
    if s is not None:
        something = s != 0
        counted = something if counted is None else counted & something
        alive = something if alive is None else counted
        s = xp.astype(s, xp.float_of(z))
        a, b, label_weight = a * s, b * s, label_weight * s
        const, zeta = times(const, s), times(zeta, s)

    def share(name):
        value = shares.get(name, 1.0) if s is None or name == "nonzero" else shares.get(name, 1.0) * s
        return fixed[name] if name in fixed else keep(value, counted, z, xp)

    built = Plan(
        labels=labels,
        u=u,
        v=v,
        a=keep(a, counted, z, xp),
        b=keep(b, alive, z, xp),
        u_sum=1.0 if u is None else xp.sum(u, axis=axis),
        v_sum=1.0 if v is None else xp.sum(v, axis=axis),
        const=keep(const, counted, z, xp),
        zeta=keep(zeta, counted, z, xp),
        label_weight=keep(times(label_weight, convention.scale), counted, z, xp),
        share=share(convention.denominator),
        smooth_share=share(convention.smooth_denominator),
        z_loss_share=zeta if zeta is None else share(convention.divides_z_loss(problem.weight is not None)),
        alive=alive,
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
