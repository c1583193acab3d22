"""The Plan of a call, made from targets, ε, weights and the convention.

    loss = a·nll + b·smooth + const + z_loss·lse²

Of the logits only the shape and the dtype are used. Letters as in `spec`.
"""

import math

from multismooth.classes import Classes
from multismooth.spec import Plan, rank, scaled, times, wide, xlogy, zero_unless
from multismooth.target import (
    divided,
    mixture_matters,
    read_targets,
    reference_of,
    smoothed_mass,
    sums_of,
    valid_targets,
    value_or_nan,
    zero_uncounted,
)  # fmt: skip

# --- the plan -------------------------------------------------------------------------------------------------------


def plan_of(problem, settings, xp, classes=None) -> Plan:
    """The coefficients of `loss = a·nll + b·smooth + const + z_loss·lse²` from targets, ε, weights and convention.

    `classes`: None for logits of all classes.
    """
    z, axis, convention = problem.logits, settings.axis, settings.convention
    classes = Classes(z, axis, xp) if classes is None else classes
    labels, inside, counted, t = read_targets(problem, settings, classes, xp)
    problem = zero_uncounted(problem, settings, counted, z, xp)
    s = problem.sample_weight
    reference = reference_of(problem, settings, labels, t, classes, xp)
    sums = sums_of(problem, settings, labels, t, reference, classes, xp)
    r, sums, receivers, has_mass = divided(reference, sums, problem, settings, classes, xp)
    eps = smoothed_mass(convention, problem.label_smoothing, receivers, xp)
    label_weight, smooth_weight, mixture, u, v = class_weights(problem, settings, labels, t, r, eps, sums, classes, xp)
    nll_weight = mixture if convention.class_weights == "mixture" else label_weight
    a, b = times(1 - eps, nll_weight), times(eps, smooth_weight)
    shares = {"target_weight": label_weight if t is None else 1.0, "mixture_weight": mixture}
    fixed = {None: None, "all": 1.0, "classes": xp.number(classes.count, z) * 1.0}
    valid = valid_targets(settings, inside, counted, sums.valid, has_mass)
    a, label_weight = value_or_nan(a, valid, z, xp), value_or_nan(label_weight, valid, z, xp)
    const = entropy(a, b, eps, u, v, r, labels, t, classes.part, xp) if convention.objective == "kl" else None
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
        u_sum=1.0 if u is None else classes.mass(u),
        v_sum=1.0 if v is None else classes.mass(v),
        const=zero_unless(counted, const, z, xp),
        z_loss=zero_unless(counted, z_loss, z, xp),
        label_weight=zero_unless(counted, times(label_weight, convention.scale), z, xp),
        denominator_share=share(convention.denominator),
        smooth_denominator_share=share(convention.smooth_denominator),
        z_loss_denominator_share=z_loss
        if z_loss is None
        else share(convention.divides_z_loss(problem.weight is not None)),
        active=active,
        mask=reference.mask,
        softcap=problem.logit_softcap,
    )
    return built if convention.scale == 1.0 else scaled(built, convention.scale)


def class_weights(problem, settings, labels, t, r, eps, sums, classes, xp):
    """(label's weight, factor of b, Σ_k q_k w_k, u, v), as `Convention.class_weights` says how class weights enter.

    The third is 1 where nobody asks for it.
    """
    weight, mode = problem.weight, settings.convention.class_weights
    if weight is None:
        return 1.0, 1.0, 1.0, t, r
    weight = xp.astype(weight, xp.float_of(problem.logits))
    w_t, mixture = classes.rows_at(weight, labels) if t is None else sums.weight_of_t, 1.0
    if mixture_matters(settings):
        mixture = (1 - eps) * w_t + eps * sums.weight_of_r
    if mode == "mixture":
        return w_t, mixture, mixture, t, r
    if mode == "target":
        w_y = w_t if t is None else classes.rows_at(weight, sums.likeliest)
        return w_y, w_y, mixture, t, r
    column = classes.row(weight)
    v = r if mode == "nll_only" else column / weight.shape[0] if r is None else column * r
    return (w_t, 1.0, mixture, None, v) if t is None else (1.0, 1.0, mixture, t * column, v)


def entropy(a, b, eps, u, v, r, labels, t, classes, xp):
    """Σ_k W_k log q_k with W = a·u + b·v, the term that "kl" adds. For labels it makes no (N, K) rows.

    It adds up over disjoint sets of classes, as nll and smooth do. `classes` are those that the sum is taken over.
    """
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
    here = classes.holds(labels)
    on, t_y = times(a, here), times(1 - eps, here)
    away = b * classes.sum(xlogy(v, r, xp)) + classes.sum(v) * xlogy(b, eps + 0 * b, xp)
    return away - xlogy(b * v_y, eps * r_y, xp) + xlogy(on + b * v_y, t_y + eps * r_y, xp)


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
