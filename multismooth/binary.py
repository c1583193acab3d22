"""Binary and multi-label smoothing: two classes per entry, so ε/2 goes to each.

q    = t·(1 − ε) + ε/2
loss = (1 − q)·z + (1 + (π − 1)·q)·log(1 + e^−z)  =  −[π·q·log σ(z) + (1 − q)·log(1 − σ(z))]
"""


def loss(problem, reduction, xp):
    """The loss of `Functions.binary_loss`, differentiable in everything; `problem.weight` is π (pos_weight)."""
    s = problem.sample_weight
    z = xp.astype(problem.logits, xp.float_of(problem.logits), copy=False)
    t = problem.targets
    if s is not None:
        z, t = (xp.where(s != 0, x, xp.zeros_like(x)) for x in (z, t))
    q = t * (1 - problem.label_smoothing) + problem.label_smoothing / 2
    balance = 1.0 if problem.weight is None else 1 + (problem.weight - 1) * q
    each = (1 - q) * z + balance * xp.logaddexp(xp.zeros_like(z), -z)
    if s is not None:
        each = each * s
    if reduction == "none":
        return each
    total = xp.sum(each)
    if reduction == "sum":
        return total
    if problem.normalizer is not None:
        over = xp.constant(problem.normalizer, z)
    else:
        over = xp.sum(xp.ones_like(z) if s is None else xp.broadcast_to(s, z.shape))
    return xp.where(over == 0, xp.zeros_like(total), total / xp.where(over == 0, xp.ones_like(over), over))
