"""Binary and multi-label smoothing: two classes per entry, so ε/2 goes to each.

q    = t·(1 − ε) + ε/2
loss = π·q·log(1 + e^−z) + (1 − q)·log(1 + e^z)  =  −[π·q·log σ(z) + (1 − q)·log(1 − σ(z))]

No summand is negative, so nothing cancels.
"""

from multismooth.reduction import reciprocal, summed


def loss(problem, reduction, xp):
    """The loss of `Functions.binary_loss`, differentiable in all its arrays; `problem.weight` is π (pos_weight)."""
    s = problem.sample_weight
    z = xp.astype(problem.logits, xp.float_of(problem.logits), copy=False)
    t, epsilon, positive = problem.targets, problem.label_smoothing, problem.weight
    if s is not None:  # an entry of weight 0 may hold NaN: 0·NaN would be NaN, so the NaN itself has to go
        z, t, epsilon, positive = (
            x if x is None or isinstance(x, float) else xp.where(s != 0, x, xp.zeros_like(x))
            for x in (z, t, epsilon, positive)
        )
    q = t * (1 - epsilon) + epsilon / 2
    on, off = q if positive is None else positive * q, 1 - q
    certain = xp.isinf(z) & (xp.where(z < 0, on, off) == 0)  # an infinite logit that the target agrees with costs 0
    z = xp.where(certain, xp.zeros_like(z), z)
    each = on * xp.softplus(-z) + off * xp.softplus(z)
    each = xp.where(certain, xp.zeros_like(z), each)
    if s is not None:
        each = each * s
    if reduction == "none":
        return each
    return xp.sum(each if reduction == "sum" else each * _mean_factor(problem, z, xp))


def _mean_factor(problem, z, xp):
    """The factor that makes the sum a mean."""
    s = problem.sample_weight
    if problem.normalizer is not None:
        return reciprocal(problem.normalizer, z, xp, lambda: 0 not in z.shape if s is None else xp.any(s != 0))
    return reciprocal(summed(1.0 if s is None else s, z, None, xp), z, xp)
