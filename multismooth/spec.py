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
    z_loss_share: Any  # the same for the z-loss
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
    """x·log y with 0·log 0 = 0."""
    return x * xp.log(xp.where(x == 0, xp.ones_like(y), y))


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


def label_or_nan(value, problem, settings, labels, counted, mask, xp):
    """`value` where the label names an existing class, else NaN: where nothing can raise, nothing wraps or clamps."""
    if settings.valid:
        return value
    z, axis = problem.logits, settings.axis
    possible = (problem.targets >= 0) & (problem.targets < z.shape[axis])
    if mask is not None:
        possible = possible & xp.pick(xp.broadcast_to(mask, z.shape), labels, axis)
    if counted is not None:  # an ignored label is no class either, and 0·NaN would reach the gradient of ε
        possible = possible | ~counted
    return xp.where(possible, xp.constant(value, z), xp.constant(float("nan"), z))


def smooth_targets(problem, settings, xp):
    """q, (N…, K): zeros in the rows of ignored labels, NaN at an impossible label."""
    z, axis = problem.logits, settings.axis
    labels, counted, t = read_targets(problem, settings, xp)
    r, mask, classes = reference(problem, settings, labels, t, xp)
    eps = xp.constant(smoothed_mass(settings.convention, problem.label_smoothing, classes, xp), z)
    r = xp.constant(1 / z.shape[axis], z) if r is None else r
    q = xp.broadcast_to(wide(eps, axis, xp) * r, z.shape)
    if t is not None:
        return q + wide(1 - eps, axis, xp) * t
    q = xp.deposit(q, labels, label_or_nan(1 - eps, problem, settings, labels, counted, mask, xp), axis)
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
    if t is None:
        a, label_weight = (label_or_nan(x, problem, settings, labels, counted, mask, xp) for x in (a, label_weight))
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


def scaled(plan, factor, smooth_factor=None, z_loss_factor=None):
    """The plan of `factor` times the loss; the smoothing term and the z-loss may have factors of their own."""
    own = ((plan.b, smooth_factor), (plan.zeta, z_loss_factor))
    b, zeta = (times(value, factor if other is None else other) for value, other in own)
    return plan._replace(a=times(plan.a, factor), b=b, const=times(plan.const, factor), zeta=zeta)


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
    r = along(xp.constant([1 / z.shape[axis]] * z.shape[axis], z), z, axis, xp) if r is None else r
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


def statistics(logits, plan, axis, xp):
    """(lse, nll, smooth) per element: log Σ exp z, Σ u·(lse − z), Σ v·(lse − z) over the existing classes."""
    z = quiet(logits, plan, axis, xp)
    lse = xp.logsumexp(z, axis)
    gap = wide(lse, axis, xp) - z
    nll = xp.pick(gap, plan.labels, axis) if plan.u is None else weighted_gap(plan.u, gap, axis, xp)
    smooth = xp.mean(gap, axis=axis) if plan.v is None else weighted_gap(plan.v, gap, axis, xp)
    return lse, nll, smooth


def weighted_gap(row, gap, axis, xp):
    """Σ row·gap with 0·inf = 0: a class without target mass costs nothing, however impossible it is."""
    return xp.sum(row * xp.where(row == 0, xp.constant(0.0, gap), gap), axis=axis)


def elements(lse, nll, smooth, plan, xp):
    """loss = a·nll + b·smooth + const + zeta·lse² per element, with b·inf = 0 at b = 0 (a −inf logit, ε = 0)."""
    loss = plan.a * nll
    if not isinstance(plan.b, float):
        b = xp.constant(plan.b, nll)
        loss = loss + b * xp.where((b == 0) & xp.isinf(smooth), xp.zeros_like(smooth), smooth)
    elif plan.b != 0.0:
        loss = loss + plan.b * smooth
    loss = loss if plan.const is None else loss + plan.const
    loss = loss if plan.zeta is None else loss + plan.zeta * lse**2
    return keep(loss, plan.alive, loss, xp)


def gradient(logits, lse, plan, axis, xp):
    """∂(Σ loss)/∂z = (a·Σu + b·Σv + 2·zeta·lse)·p − a·u − b·v, in the dtype that is computed in."""
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    height = height if plan.zeta is None else height + 2 * plan.zeta * lse
    p = xp.exp(quiet(logits, plan, axis, xp) - wide(lse, axis, xp))
    v = 1 / p.shape[axis] if plan.v is None else plan.v
    g = wide(height, axis, xp) * p - wide(plan.b, axis, xp) * v
    own = xp.deposit(g, plan.labels, -plan.a, axis) if plan.u is None else g - wide(plan.a, axis, xp) * plan.u
    return keep(own, None if plan.alive is None else wide(plan.alive, axis, xp), own, xp)
