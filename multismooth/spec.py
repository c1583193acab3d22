"""The mathematics of label smoothing, once. Read this file to know what every backend computes.

Letters: N… the elements' axes (batch, time, pixels), K classes, z logits, p = softmax(z), t the target row (one-hot
of the label y, or the given soft row), r where the smoothed mass goes, w class weights, s sample weights. Nats.

    q      = (1 − ε′)·t + ε′·r                                         smoothed target
    loss   = −Σ_k w_k q_k log p_k  (+ Σ_k w_k q_k log q_k: "kl")  (+ z_loss·lse²)

Cross-entropy is linear in its target, so per element it is a mix of two losses, which is how it is computed:

    loss   = a·nll + b·smooth + const + z_loss·lse²
    nll    = Σ_k u_k (lse − z_k)        u = t, so lse − z_y for a label
    smooth = Σ_k v_k (lse − z_k)        v = w∘r; no summand is negative, so nothing cancels
    ∂/∂z_k = (a·Σu + b·Σv + 2·z_loss·lse)·p_k − a·u_k − b·v_k

Everything that does not depend on the logits is gathered in a `Plan`: (a, b, const, z_loss) per element and the row v.
That is the one seam. A kernel (fused, chunked, sharded over classes, fed by a linear head) takes logits and a Plan,
needs three sums per element (lse, nll, smooth), and never hears of conventions, ignored labels or denominators.
`plan` makes it of a call's targets, ε, weights and convention; `reduction` says what a mean divides by.

`xp` is an array-API namespace with a few additions (listed in `backend.Backend`), `axis` the class axis. The one text
runs in NumPy, PyTorch and JAX, differentiable to any order by their autodiff; faster kernels are tested against it.

Sources: Szegedy et al. 2016 (arXiv:1512.00567) §7 for "all"; Vaswani et al. 2017's tensor2tensor for "others".
"""

from typing import Any, NamedTuple

from multismooth.problem import traceable


@traceable
class Plan(NamedTuple):
    """What a kernel must know about the targets. Per-element fields are arrays or plain numbers."""

    labels: Any = None  # (N…) in [0, K), or None for soft targets
    u: Any = None  # (N…, K), or None for labels
    v: Any = None  # broadcasts to (N…, K), or None: 1/K for every class
    a: Any = 1.0
    b: Any = 0.0
    u_sum: Any = 1.0
    v_sum: Any = 1.0
    const: Any = None
    z_loss: Any = None
    label_weight: Any = 1.0  # what multiplies nll at ε = 0
    denominator_share: Any = 1.0  # the element's share of the mean's denominator
    smooth_denominator_share: Any = None  # the same for the smoothing term, where it has a denominator of its own
    z_loss_denominator_share: Any = None  # the same for the z-loss
    active: Any = None  # elements whose logits count; None: all
    mask: Any = None  # broadcasts to (N…, K), classes that exist; None: all


# --- shapes and products --------------------------------------------------------------------------------------------


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


def scaled(plan, factor, smooth_factor=None, z_loss_factor=None):
    """The plan of `factor` times the loss; the smoothing term and the z-loss may have factors of their own."""
    own = ((plan.b, smooth_factor), (plan.z_loss, z_loss_factor))
    b, z_loss = (times(value, factor if other is None else other) for value, other in own)
    return plan._replace(a=times(plan.a, factor), b=b, const=times(plan.const, factor), z_loss=z_loss)


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


# --- loss and gradient ----------------------------------------------------------------------------------------------


def masked_logits(logits, plan, axis, xp):
    """The logits with absent classes at −inf and dead elements at 0, whatever stood there (NaN too)."""
    z = xp.astype(logits, xp.float_of(logits), copy=False)
    z = z if plan.mask is None else xp.where(plan.mask, z, xp.constant(-float("inf"), z))
    return z if plan.active is None else xp.where(wide(plan.active, axis, xp), z, xp.constant(0.0, z))


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
    z = masked_logits(logits, plan, axis, xp)
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
    """loss = a·nll + b·smooth + const + z_loss·lse² per element, with 0·inf = 0 (a −inf logit, ε = 0 or 1)."""
    loss = product(plan.a, nll, xp)
    loss = loss if isinstance(plan.b, float) and plan.b == 0.0 else loss + product(plan.b, smooth, xp)
    loss = loss if plan.const is None else loss + plan.const
    loss = loss if plan.z_loss is None else loss + plan.z_loss * lse**2
    return keep(loss, plan.active, loss, xp)


def losses(logits, plan, axis, xp):
    """The loss per element."""
    return elements(*finished(statistics(logits, plan, axis, xp), xp), plan, xp)


def losses_and_gradient(logits, plan, axis, xp):
    """(the loss per element, ∂(Σ loss)/∂z)."""
    found = statistics(logits, plan, axis, xp)
    return elements(*finished(found, xp), plan, xp), gradient(logits, found, plan, axis, xp)


def gradient(logits, found, plan, axis, xp):
    """∂(Σ loss)/∂z = (a·Σu + b·Σv + 2·z_loss·lse)·p − a·u − b·v, in the dtype that is computed in.

    `found` are the Statistics of all classes; p = exp(z − peak)/total.
    """
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    height = (
        height if plan.z_loss is None else height + 2 * plan.z_loss * (finite(found.peak, xp) + xp.log(found.total))
    )
    e = xp.exp(masked_logits(logits, plan, axis, xp) - wide(finite(found.peak, xp), axis, xp))
    v = 1 / e.shape[axis] if plan.v is None else plan.v
    g = wide(height / found.total, axis, xp) * e - wide(plan.b, axis, xp) * v
    own = xp.deposit(g, plan.labels, -plan.a, axis) if plan.u is None else g - wide(plan.a, axis, xp) * plan.u
    return keep(own, None if plan.active is None else wide(plan.active, axis, xp), own, xp)
