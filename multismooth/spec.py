"""The mathematics of label smoothing, which every backend computes.

Letters: N… the elements' axes (batch, time, pixels), K classes, z logits, p = softmax(z), t the target row (one-hot
of the label y, or a soft row), r the distribution of the smoothed mass (1/K or a prior), w class weights, s sample
weights. Losses are in nats. With a soft cap c, z is c·tanh of the given logits over c, in all of what follows.

    q      = (1 − ε′)·t + ε′·r                                         smoothed target
    loss   = −Σ_k w_k q_k log p_k  (+ Σ_k w_k q_k log q_k: "kl")  (+ z_loss·lse²)

Cross-entropy is linear in its target. So the loss of an element is a combination of two losses, and is computed as:

    loss   = a·nll + b·smooth + const + z_loss·lse²
    nll    = Σ_k u_k (lse − z_k)        u = t, so lse − z_y for a label
    smooth = Σ_k v_k (lse − z_k)        v = w∘r; no summand is negative, so no digits cancel
    ∂/∂z_k = (a·Σu + b·Σv + 2·z_loss·lse)·p_k − a·u_k − b·v_k

A `Plan` holds everything that does not depend on the logits: (a, b, const, z_loss) per element and the row v. It is
the only interface between arguments and kernels. A kernel (fused, chunked, sharded over classes, in a linear head)
takes logits and a Plan and computes three sums per element (lse, nll, smooth). It knows nothing of conventions, ignored
labels or denominators. `plan` makes the Plan from targets, ε, weights and convention; `reduction` computes the
denominator of a mean.

`xp` is an array-API namespace with a few additions (listed in `backend.Backend`), `axis` the class axis. The same code
runs in NumPy, PyTorch and JAX, and their autodiff differentiates it to any order. Faster kernels are tested against it.

Sources: Szegedy et al. 2016 (arXiv:1512.00567) §7 for "all"; Vaswani et al. 2017's tensor2tensor for "others".
"""

from typing import Any, NamedTuple

from multismooth.problem import Terms, traceable


@traceable
class Plan(NamedTuple):
    """The coefficients that a kernel needs. Per-element fields are arrays or plain numbers."""

    labels: Any = None  # (N…) in [0, K), or None for soft targets
    u: Any = None  # (N…, K), or None for labels
    v: Any = None  # broadcasts to (N…, K), or None: 1/K for every class
    a: Any = 1.0
    b: Any = 0.0
    u_sum: Any = 1.0
    v_sum: Any = 1.0
    const: Any = None
    z_loss: Any = None
    label_weight: Any = 1.0  # the factor of nll at ε = 0
    denominator_share: Any = 1.0  # the element's share of the mean's denominator
    smooth_denominator_share: Any = None  # the same for the smoothing term; None: it has the loss's denominator
    z_loss_denominator_share: Any = None  # the same for the z-loss; None: it has the loss's denominator
    active: Any = None  # elements whose logits enter the loss; None: all
    mask: Any = None  # broadcasts to (N…, K), True for classes that exist; None: all
    softcap: Any = None  # c, a number or a 0-d array: z stands for c·tanh(z/c), and ∂/∂z for its derivative; None: z


# --- shapes and products --------------------------------------------------------------------------------------------


def along(vector, z, axis, xp):
    """A (K,) vector shaped to broadcast along the class axis of z."""
    return xp.reshape(vector, tuple(-1 if k == axis % z.ndim else 1 for k in range(z.ndim)))


def rank(value):
    """The number of axes; 0 for None and for a number. It tests the type, because `torch.compile` may be tracing."""
    return 0 if value is None or isinstance(value, (int, float)) else value.ndim


def wide(value, axis, xp):
    """A per-element array with a class axis of size 1 inserted; numbers stay as they are."""
    return xp.expand_dims(value, axis=axis) if rank(value) else value


def rows_at(table, labels, xp):
    """The row (or entry) of the table for each label."""
    return xp.reshape(xp.take(table, xp.reshape(labels, (-1,)), axis=0), (*labels.shape, *table.shape[1:]))


def xlogy(x, y, xp):
    """x·log y with 0·log 0 = 0. At x = 0 and y > 0 the derivative with respect to x stays log y."""
    return x * xp.log(xp.where((x == 0) & (y == 0), xp.ones_like(y), y))


def scaled(plan, factor, smooth_factor=None, z_loss_factor=None):
    """The plan of `factor` times the loss. The smoothing term and the z-loss may have other factors."""
    b = times(plan.b, factor if smooth_factor is None else smooth_factor)
    z_loss = times(plan.z_loss, factor if z_loss_factor is None else z_loss_factor)
    return plan._replace(a=times(plan.a, factor), b=b, const=times(plan.const, factor), z_loss=z_loss)


def zero_unless(where, value, z, xp):
    """`value` where `where` is True, exactly 0 elsewhere. None for `where` means everywhere."""
    if value is None or where is None:
        return value
    if isinstance(value, float):
        return times(xp.astype(where, xp.float_of(z)), value)
    return xp.where(where, xp.constant(value, z), xp.constant(0.0, z))


def times(value, factor):
    """value·factor. None stays None, and a factor of exactly 1 needs no operation."""
    return value if value is None or (isinstance(factor, float) and factor == 1.0) else value * factor


# --- loss and gradient ----------------------------------------------------------------------------------------------


def masked_logits(logits, plan, axis, xp):
    """The logits, with −inf at absent classes and 0 at inactive elements, whatever their values (NaN too)."""
    z = xp.astype(logits, xp.float_of(logits), copy=False)
    z = z if plan.softcap is None else capped(z, plan, axis, xp)
    z = z if plan.mask is None else xp.where(plan.mask, z, -float("inf"))
    return z if plan.active is None else xp.where(wide(plan.active, axis, xp), z, 0.0)


def capped(z, plan, axis, xp):
    """c·tanh(z/c), with 0 at absent classes and inactive elements. A logit of ±inf becomes ±c."""
    return plan.softcap * xp.tanh(readable(z, plan, axis, xp) / plan.softcap)


def readable(z, plan, axis, xp):
    """z with 0 in place of what the loss does not read, which may be NaN: a derivative would multiply it by 0."""
    z = z if plan.mask is None else xp.where(plan.mask, z, 0.0)
    return z if plan.active is None else xp.where(wide(plan.active, axis, xp), z, 0.0)


def through_cap(gradient, logits, plan, axis, xp):
    """The gradient by the given logits, from the one by the capped logits: times 1 − tanh²(z/c)."""
    if plan.softcap is None:
        return gradient
    z = xp.astype(logits, xp.float_of(logits), copy=False)
    return gradient * (1 - xp.tanh(readable(z, plan, axis, xp) / plan.softcap) ** 2)


@traceable
class Statistics(NamedTuple):
    """Sums over a set of classes, per element, with 0·inf = 0:

        peak = max z       total = Σ exp(z − peak)
        u_sum = Σ u        nll = Σ u·(peak − z)
        v_sum = Σ v        smooth = Σ v·(peak − z)

    Statistics form a semigroup. `merged` combines those of two disjoint sets of classes, in any order and bracketing.
    The empty set is neutral: its peak is −inf, its sums are 0. So shards, chunks and a kernel's blocks of classes
    combine in the same way. Logits enter only as differences, so a common offset costs no digits.
    """

    peak: Any
    total: Any
    nll: Any
    smooth: Any
    u_sum: Any
    v_sum: Any


def finite(peak, xp):
    """The peak that is subtracted from the logits: 0 in place of an infinite peak."""
    return xp.where(xp.isinf(peak), 0.0, peak)


def statistics(logits, plan, axis, xp):
    """The Statistics of all classes of every element."""
    peak, gap = peak_and_gap(masked_logits(logits, plan, axis, xp), axis, xp)
    return statistics_of(peak, gap, xp.exp(-gap), plan, axis, xp)


def peak_and_gap(z, axis, xp):
    """(max z per element, peak − z), for masked logits z."""
    peak = xp.stop_gradient(xp.max(z, axis=axis))  # the result does not depend on the number that is subtracted
    return peak, gap_to(peak, z, axis, xp)


def gap_to(peak, z, axis, xp):
    """peak − z."""
    return wide(finite(peak, xp), axis, xp) - z


def statistics_of(peak, gap, e, plan, axis, xp):
    """The Statistics from the distances to the peak and from e = exp(−gap)."""
    return Statistics(
        peak,
        xp.sum(e, axis=axis),
        xp.pick(gap, plan.labels, axis) if plan.u is None else weighted_gap(plan.u, gap, axis, xp),
        xp.mean(gap, axis=axis) if plan.v is None else weighted_gap(plan.v, gap, axis, xp),
        plan.u_sum,
        plan.v_sum,
    )


def merged(sets, xp):
    """The Statistics of the union of disjoint sets of classes, which lie along a new first axis of `sets`."""
    peak = xp.max(sets.peak, axis=0)
    return Statistics(peak, *(xp.sum(x, axis=0) for x in raised(sets, peak, xp)[1:]))


def raised(part, peak, xp):
    """The same sums over the distances to a peak that is at least as high. With one peak, Statistics add."""
    rise = finite(peak, xp) - finite(part.peak, xp)
    scale = xp.where(part.peak == -float("inf"), xp.zeros_like(peak), xp.exp(-rise))
    nll, smooth = part.nll + part.u_sum * rise, part.smooth + part.v_sum * rise
    return Statistics(peak, part.total * scale, nll, smooth, part.u_sum, part.v_sum)


def finished(found, xp, lse=True):
    """(lse, nll, smooth) from the Statistics of all classes: log Σ exp z, Σ u·(lse − z), Σ v·(lse − z).

    lse: whether it is asked for. Else it is None.
    """
    log_total = xp.log(found.total)
    return (
        finite(found.peak, xp) + log_total if lse else None,
        found.nll + times(log_total, found.u_sum),
        found.smooth + times(log_total, found.v_sum),
    )


def weighted_gap(row, gap, axis, xp):
    """Σ row·gap with 0·inf = 0: a class with probability 0 adds nothing if it has no target mass.

    A finite gap is kept where the row is 0, because it is the derivative with respect to that entry of the row.
    """
    return xp.sum(product(row, gap, xp), axis=axis)


def product(factor, value, xp):
    """factor·value with 0·inf = 0."""
    if isinstance(factor, float) and factor != 0.0:
        return factor * value
    factor = xp.constant(factor, value)
    return factor * xp.where((factor == 0) & xp.isinf(value), 0.0, value)


def elements(lse, nll, smooth, plan, xp):
    """loss = a·nll + b·smooth + const + z_loss·lse² per element, with 0·inf = 0 (a logit of −inf, ε = 0 or 1)."""
    loss = product(plan.a, nll, xp)
    loss = loss if isinstance(plan.b, float) and plan.b == 0.0 else loss + product(plan.b, smooth, xp)
    loss = loss if plan.const is None else loss + plan.const
    loss = loss if plan.z_loss is None else loss + plan.z_loss * lse**2
    return zero_unless(plan.active, loss, loss, xp)


def terms(logits, plan, axis, xp):
    """The Terms of every element. The pass that finds the largest logit finds its class too."""
    z = masked_logits(logits, plan, axis, xp)
    peak, predicted = xp.highest(xp.stop_gradient(z), axis)
    gap = gap_to(peak, z, axis, xp)
    return terms_of(*finished(statistics_of(peak, gap, xp.exp(-gap), plan, axis, xp), xp), predicted, plan, xp)


def terms_of(lse, nll, smooth, predicted, plan, xp):
    """The Terms from the three sums and the class of the largest logit."""
    return Terms(
        elements(lse, nll, smooth, plan, xp),
        product(plan.label_weight, nll, xp),
        xp.broadcast_to(xp.constant(plan.denominator_share, lse), lse.shape),
        zero_unless(plan.active, lse, lse, xp),
        predicted if plan.active is None else xp.where(plan.active, predicted, -1),
    )


def losses(logits, plan, axis, xp):
    """The loss per element."""
    return losses_of(statistics(logits, plan, axis, xp), plan, xp)


def losses_of(found, plan, xp):
    """The loss per element, from the Statistics of all classes."""
    return elements(*finished(found, xp, lse=plan.z_loss is not None), plan, xp)


def losses_and_gradient(logits, plan, axis, xp):
    """(the loss per element, ∂(Σ loss)/∂z)."""
    found = statistics(logits, plan, axis, xp)
    return losses_of(found, plan, xp), gradient(logits, found, plan, axis, xp)


def gradient(logits, found, plan, axis, xp):
    """∂(Σ loss)/∂z = (a·Σu + b·Σv + 2·z_loss·lse)·p − a·u − b·v, in the computing dtype.

    `found` are the Statistics of all classes; p = exp(z − peak)/total.
    """
    e = xp.exp(masked_logits(logits, plan, axis, xp) - wide(finite(found.peak, xp), axis, xp))
    return through_cap(gradient_of(e, found, plan, axis, xp), logits, plan, axis, xp)


def gradient_of(e, found, plan, axis, xp):
    """`gradient` by the capped logits, from e = exp(z − peak)."""
    height = plan.a * plan.u_sum + plan.b * plan.v_sum
    height = (
        height if plan.z_loss is None else height + 2 * plan.z_loss * (finite(found.peak, xp) + xp.log(found.total))
    )
    return combination(height, e, found, plan, axis, xp)


def combination(height, e, found, plan, axis, xp):
    """height·p − a·u − b·v, with p = e/total: the derivative of a combination of lse, nll and smooth."""
    v = 1 / e.shape[axis] if plan.v is None else plan.v
    g = wide(height / found.total, axis, xp) * e - wide(plan.b, axis, xp) * v
    g = xp.deposit(g, plan.labels, -plan.a, axis) if plan.u is None else g - wide(plan.a, axis, xp) * plan.u
    return zero_unless(None if plan.active is None else wide(plan.active, axis, xp), g, g, xp)
