"""What label smoothing adds to a linear head's hard-label loss: a correction of rank one, which needs no logits.

    loss(ε) − loss(0) = b·(z_y − Σ_k v_k z_k) + const,   z = W·x + c,   Σ_k v_k z_k = (Σ_k v_k W_k)·x + Σ_k v_k c_k

Smoothing moves the mass b from the label to v, and does not change the factor of lse(z). b, v and const are those of
the `Plan`. Besides the labels' rows of the classifier, the correction needs one row only: the mean of all.
"""

from multismooth import spec
from multismooth.errors import complain
from multismooth.reduction import reduced_plan


def refuse(problem, settings):
    """Refuse calls whose correction needs the logits' lse, or a mean row for every element: it has not rank one."""
    convention = settings.convention
    remedy = "Use linear_loss, which makes the logits a chunk at a time."
    if settings.soft:
        raise complain("targets", "integer labels", "soft targets", remedy)
    if problem.prior is not None and problem.prior.ndim == 2:
        raise complain("prior", "shape (K,), one for all elements", f"shape {tuple(problem.prior.shape)}", remedy)
    if convention.ignore_scope == "nll_only" or convention.smooth_denominator is not None:
        expected = "a convention that ignores and divides both terms of the loss alike"
        raise complain("convention", expected, convention.name or repr(convention), remedy)


def mean_row(table, v, xp):
    """Σ_k v_k table_k, with v_k = 1/K for None; half precision is summed in float32."""
    dtype = xp.float_of(table)
    if v is None:
        return xp.sum(table, axis=0, dtype=dtype) / table.shape[0]
    v = xp.reshape(v, (-1,))
    if table.ndim == 1:
        # The bias of an absent class may be −inf; this product has 0·inf = 0.
        return xp.sum(spec.product(v, xp.astype(table, dtype, copy=False), xp))
    if table.dtype == v.dtype:
        return v @ table
    return xp.sum(xp.expand_dims(v, axis=-1) * table, axis=0)


def correction(hidden, classifier, bias, problem, settings, xp, rows_at=spec.rows_at):
    """The correction of a call, with the same reduction as its loss; `rows_at` looks up the labels' rows."""
    refuse(problem, settings)
    plan = reduced_plan(problem, settings, xp)
    x = xp.astype(xp.moveaxis(hidden, settings.axis, -1), xp.float_of(hidden), copy=False)
    if plan.active is not None:
        x = xp.where(xp.expand_dims(plan.active, axis=-1), x, xp.zeros_like(x))

    def minus_mean(table):
        rows, mean = xp.astype(rows_at(table, plan.labels, xp), x.dtype, copy=False), mean_row(table, plan.v, xp)
        return rows - xp.reshape(mean, (1,) * (rows.ndim - mean.ndim) + tuple(mean.shape))

    gap = xp.sum(x * minus_mean(classifier), axis=-1)
    gap = gap if bias is None else gap + minus_mean(bias)
    loss = spec.product(plan.b + 0 * plan.a, gap, xp)  # a is NaN where the label names no class; then this is NaN too
    loss = loss if plan.const is None else loss + plan.const
    return loss if settings.reduction == "none" else xp.sum(loss)
