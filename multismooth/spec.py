"""The mathematics of label smoothing, once. Read this file to know what every backend computes.

Letters: N… the elements' axes (batch, time, pixels), K classes, z logits, p = softmax(z), t the target row (one-hot
of the label y, or the given soft row), r where the smoothed mass goes, w class weights, s sample weights. Nats.

    q      = (1 − ε′)·t + ε′·r                                         smoothed target
    loss   = −Σ_k w_k q_k log p_k  (+ Σ_k w_k q_k log q_k: "kl")  (+ z_loss·lse²)

Cross-entropy is linear in its target, so per element it is a mix of two losses, which is how it is computed:

    loss   = a·nll + b·smooth + const + zeta·lse²
    nll    = Σ_k u_k (lse − z_k)        u = t, so lse − z_y for a label
    smooth = Σ_k v_k (lse − z_k)        v = w∘r; no summand is negative, so nothing cancels
    ∂/∂z_k = (a·Σu + b·Σv + 2·zeta·lse)·p_k − a·u_k − b·v_k

Everything that does not depend on the logits is gathered in a `Plan`: (a, b, const, zeta) per element and the row v.
That is the one seam. A kernel (fused, chunked, sharded over classes, fed by a linear head) takes logits and a Plan,
needs three sums per element (lse, nll, smooth), and never hears of conventions, ignored labels or denominators.

`xp` is an array-API namespace with a few additions (listed in `backend.Backend`), `axis` the class axis. The one text
runs in NumPy, PyTorch and JAX, differentiable to any order by their autodiff; faster kernels are tested against it.

Sources: Szegedy et al. 2016 (arXiv:1512.00567) §7 for "all"; Vaswani et al. 2017's tensor2tensor for "others".
"""

from typing import Any, NamedTuple

from multismooth.problem import traceable


@traceable
class Plan(NamedTuple):
    """What a kernel must know about the targets. Per-element fields are arrays or plain numbers."""

    labels: Any  # (N…) in [0, K), or None for soft targets
    u: Any  # (N…, K), or None for labels
    v: Any  # broadcasts to (N…, K), or None: 1/K for every class
    a: Any
    b: Any
    u_sum: Any
    v_sum: Any
    const: Any  # or None
    zeta: Any  # or None
    label_weight: Any  # what multiplies nll at ε = 0
    share: Any  # the element's share of the mean's denominator
    smooth_share: Any  # the same for the smoothing term, where it has a denominator of its own
    alive: Any  # elements whose logits count; None: all
    mask: Any  # broadcasts to (N…, K), classes that exist; None: all


# --- the target -----------------------------------------------------------------------------------------------------


def along(vector, z, axis, xp):
    """A (K,) vector shaped to broadcast along the class axis of z."""
    return xp.reshape(vector, tuple(-1 if k == axis % z.ndim else 1 for k in range(z.ndim)))


def rank(value):
    """The number of axes; 0 for None and for a number (asked by type: `torch.compile` may be tracing it)."""
    return 0 if value is None or isinstance(value, (int, float)) else value.ndim


def wide(value, axis, xp):
    """A per-element array with the class axis put back; numbers stay."""
    return xp.expand_dims(value, axis=axis) if rank(value) else value


def rows_at(table, labels, xp):
    """The table's row (or entry) for every label."""
    return xp.reshape(xp.take(table, xp.reshape(labels, (-1,)), axis=0), (*labels.shape, *table.shape[1:]))


def xlogy(x, y, xp):
    """x·log y with 0·log 0 = 0. Only a y of 0 is replaced, so that the derivative at x = 0 is log y elsewhere."""
    return x * xp.log(xp.where((x == 0) & (y == 0), xp.ones_like(y), y))


def read_targets(problem, settings, xp):
    """(labels moved into [0, K), which elements are not ignored, soft rows t); None for what does not apply."""
    z, targets, s = problem.logits, problem.targets, problem.sample_weight
    if settings.soft:
        t = xp.astype(targets, xp.float_of(z))
        return None, None, t if s is None else xp.where(wide(s != 0, settings.axis, xp), t, xp.zeros_like(t))
    if settings.clean:
        return targets, None, None
    counted = None if settings.ignore_index is None else targets != settings.ignore_index
    sure = settings.valid and not 0 <= settings.ignore_index < z.shape[settings.axis]  # else it keeps its class weight
    inside = counted if sure else (targets >= 0) & (targets < z.shape[settings.axis])
    return xp.where(inside, targets, xp.zeros_like(targets)), counted, None


def reference(problem, settings, labels, t, xp):
    """(r, the mask of existing classes, how many classes take smoothed mass); r is None for 1/K on every class."""
    z, axis, prior, mask = problem.logits, settings.axis, problem.prior, problem.class_mask
    mask = along(mask, z, axis, xp) if rank(mask) == 1 else mask
    allowed = mask
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
        return prior, mask, z.shape[axis]
    ones = xp.astype(allowed, xp.float_of(z))
    r = ones if prior is None else xp.where(allowed, prior, xp.zeros_like(prior))
    return r / xp.sum(r, axis=axis, keepdims=True), mask, xp.sum(ones, axis=axis)


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
        return distributed(t, mask, settings.row_tolerance, axis, xp)
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
    r = xp.constant(1 / z.shape[axis], z) if r is None else r
    q = xp.broadcast_to(wide(eps, axis, xp) * r, z.shape)
    right = possible(problem, settings, labels, counted, t, mask, xp)
    if t is not None:
        return value_or_nan(q + wide(1 - eps, axis, xp) * t, None if right is None else wide(right, axis, xp), z, xp)
    q = xp.deposit(q, labels, value_or_nan(1 - eps, right, z, xp), axis)
    return q if counted is None else xp.where(wide(counted, axis, xp), q, xp.zeros_like(q))


# --- the plan -------------------------------------------------------------------------------------------------------


def plan(problem, settings, xp) -> Plan:
    """Targets, ε, weights and the convention, as the coefficients of `loss = a·nll + b·smooth + const + zeta·lse²`."""
    z, axis, convention, s = problem.logits, settings.axis, settings.convention, problem.sample_weight
    labels, counted, t = read_targets(problem, settings, xp)
    r, mask, classes = reference(problem, settings, labels, t, xp)
    eps = smoothed_mass(convention, problem.label_smoothing, classes, xp)
    label_weight, smooth_weight, mixture, u, v = class_weights(problem, settings, labels, t, r, eps, xp)
    a, b = (1 - eps) * (mixture if convention.class_weights == "mixture" else label_weight), eps * smooth_weight
    shares = {"target_weight": label_weight if t is None else 1.0, "mixture_weight": mixture}
    fixed = {None: None, "all": 1.0, "classes": float(z.shape[axis])}
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
        alive=alive,
        mask=mask,
    )
    return built if convention.scale == 1.0 else scaled(built, convention.scale)


def scaled(plan, factor, smooth_factor=None):
    """The plan of `factor` times the loss; the smoothing term may have a factor of its own."""
    smooth_factor = factor if smooth_factor is None else smooth_factor
    return plan._replace(
        a=times(plan.a, factor),
        b=times(plan.b, smooth_factor),
        const=times(plan.const, factor),
        zeta=times(plan.zeta, factor),
    )


def keep(value, where, z, xp):
    """`value` at the elements that count, exactly 0 elsewhere."""
    if value is None or where is None:
        return value
    if isinstance(value, float):
        return times(xp.astype(where, xp.float_of(z)), value)
    return xp.where(where, xp.constant(value, z), xp.constant(0.0, z))


def times(value, factor):
    """value·factor, where None stays None and a factor of exactly 1 costs nothing."""
    return value if value is None or (isinstance(factor, float) and factor == 1.0) else value * factor


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
        r = xp.broadcast_to(xp.constant(1 / z.shape[axis], z), [n if k == axis else 1 for k, n in enumerate(z.shape)])
    v = r if v is None else v
    if t is not None:
        q = wide(1 - eps, axis, xp) * t + wide(eps, axis, xp) * r
        return xp.sum(xlogy(wide(a, axis, xp) * u + wide(b, axis, xp) * v, q, xp), axis=axis)
    r_y, v_y = (xp.pick(xp.broadcast_to(row, z.shape), labels, axis) for row in (r, v))
    away = b * xp.sum(xlogy(v, r, xp), axis=axis) + xp.sum(v, axis=axis) * xlogy(b, eps + 0 * b, xp)
    return away - xlogy(b * v_y, eps * r_y, xp) + xlogy(a + b * v_y, 1 - eps + eps * r_y, xp)


# --- loss and gradient ----------------------------------------------------------------------------------------------


def quiet(logits, plan, axis, xp):
    """The logits with absent classes at −inf and dead elements at 0, whatever stood there (NaN too)."""
    z = xp.astype(logits, xp.float_of(logits), copy=False)
    z = z if plan.mask is None else xp.where(plan.mask, z, xp.constant(-float("inf"), z))
    return z if plan.alive is None else xp.where(wide(plan.alive, axis, xp), z, xp.constant(0.0, z))


class Statistics(NamedTuple):
    """What some of the classes say of an element, with 0·inf = 0:

        peak = max z       total = Σ exp(z − peak)
        u_sum = Σ u        nll = Σ u·(peak − z)
        v_sum = Σ v        smooth = Σ v·(peak − z)

    These are a semigroup. `merged` gives those of two sets of classes together, in any order and bracketing, and the
    empty set is neutral: peak −inf and zeros. A shard, a chunk and a kernel's block of classes are therefore one law.
    Logits enter as differences alone, so that a common offset costs no digits.
    """

    peak: Any
    total: Any
    nll: Any
    smooth: Any
    u_sum: Any
    v_sum: Any


def finite(peak, xp):
    """The peak that logits are counted from: 0 in place of an infinite one."""
    return xp.where(xp.isinf(peak), xp.zeros_like(peak), peak)


def statistics(logits, plan, axis, xp):
    """The Statistics of all classes of every element."""
    z = quiet(logits, plan, axis, xp)
    peak = xp.stop_gradient(xp.max(z, axis=axis))  # no result depends on what the logits are counted from
    gap = wide(finite(peak, xp), axis, xp) - z
    return Statistics(
        peak,
        xp.sum(xp.exp(-gap), axis=axis),
        xp.pick(gap, plan.labels, axis) if plan.u is None else weighted_gap(plan.u, gap, axis, xp),
        xp.mean(gap, axis=axis) if plan.v is None else weighted_gap(plan.v, gap, axis, xp),
        plan.u_sum,
        plan.v_sum,
    )


def merged(one, other, xp):
    """The Statistics of two disjoint sets of classes together."""
    peak = xp.maximum(one.peak, other.peak)
    parts = []
    for part in (one, other):
        rise = finite(peak, xp) - finite(part.peak, xp)
        scale = xp.where(part.peak == -float("inf"), xp.zeros_like(peak), xp.exp(-rise))
        sums = (part.nll + part.u_sum * rise, part.smooth + part.v_sum * rise, part.u_sum, part.v_sum)
        parts.append((part.total * scale, *sums))
    return Statistics(peak, *map(sum, zip(*parts, strict=True)))


def finished(found, xp):
    """(lse, nll, smooth) from the Statistics of all classes: log Σ exp z, Σ u·(lse − z), Σ v·(lse − z)."""
    log_total = xp.log(found.total)
    return (
        finite(found.peak, xp) + log_total,
        found.nll + found.u_sum * log_total,
        found.smooth + found.v_sum * log_total,
    )


def weighted_gap(row, gap, axis, xp):
    """Σ row·gap with 0·inf = 0: a class without target mass costs nothing, however impossible it is.

    A finite gap stays beside a row's 0, because it is the derivative with respect to that entry of the row.
    """
    return xp.sum(product(row, gap, xp), axis=axis)


def product(factor, value, xp):
    """factor·value with 0·inf = 0."""
    if isinstance(factor, float) and factor != 0.0:
        return factor * value
    factor = xp.constant(factor, value)
    return factor * xp.where((factor == 0) & xp.isinf(value), xp.zeros_like(value), value)


def elements(lse, nll, smooth, plan, xp):
    """loss = a·nll + b·smooth + const + zeta·lse² per element, with 0·inf = 0 (a −inf logit, ε = 0 or 1)."""
    loss = product(plan.a, nll, xp)
    loss = loss if isinstance(plan.b, float) and plan.b == 0.0 else loss + product(plan.b, smooth, xp)
    loss = loss if plan.const is None else loss + plan.const
    loss = loss if plan.zeta is None else loss + plan.zeta * lse**2
    return keep(loss, plan.alive, loss, xp)


def losses(logits, plan, axis, xp):
    """The loss per element."""
    return elements(*finished(statistics(logits, plan, axis, xp), xp), plan, xp)


def losses_and_gradient(logits, plan, axis, xp):
    """(the loss per element, ∂(Σ loss)/∂z)."""
    found = statistics(logits, plan, axis, xp)
    return elements(*finished(found, xp), plan, xp), gradient(logits, found, plan, axis, xp)


def gradient(logits, found, plan, axis, xp):
    """∂(Σ loss)/∂z = (a·Σu + b·Σv + 2·zeta·lse)·p − a·u − b·v, in the dtype that is computed in.

    `found` are the Statistics of all classes; p = exp(z − peak)/total.
    """
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    height = height if plan.zeta is None else height + 2 * plan.zeta * (finite(found.peak, xp) + xp.log(found.total))
    e = xp.exp(quiet(logits, plan, axis, xp) - wide(finite(found.peak, xp), axis, xp))
    v = 1 / e.shape[axis] if plan.v is None else plan.v
    g = wide(height / found.total, axis, xp) * e - wide(plan.b, axis, xp) * v
    own = xp.deposit(g, plan.labels, -plan.a, axis) if plan.u is None else g - wide(plan.a, axis, xp) * plan.u
    return keep(own, None if plan.alive is None else wide(plan.alive, axis, xp), own, xp)
