"""The focal losses: a confident class counts less, by the power γ of m = 1 − p."""

from collections import namedtuple

from multismooth import spec
from multismooth.alternatives.softmax import softmax
from multismooth.spec import masked_logits, product, wide


def power(base, exponent, xp):
    """base^exponent for 0 ≤ base ≤ 1. At 0, where its slope may be infinite, it has the right value and slope 0."""
    positive = xp.where(base == 0, xp.ones_like(base), base)
    if isinstance(exponent, float):
        return positive if exponent == 0.0 else xp.where(base == 0, xp.zeros_like(base), positive**exponent)
    at_zero = xp.astype(exponent == 0, base.dtype)
    return xp.where(base == 0, at_zero, positive**exponent)


class Focal(namedtuple("Focal", "gamma")):
    """−Σ_k W_k·m_k^γ·log p_k with m = 1 − p, plus the plan's constant and z-loss: smoothed first, then modulated.

    With D_k = m_k^γ·(1 − γ·p_k·log p_k/m_k), the gradient is that of the loss with the target W∘D.
    """

    __slots__ = ()

    def weighted(self, plan, weight):
        return plan, self

    def losses(self, logits, plan, axis, xp):
        found = softmax(masked_logits(logits, plan, axis, xp), axis, xp)
        return self.elements(found, plan, axis, xp)

    def elements(self, found, plan, axis, xp):
        lse, label = xp.squeeze(found.peak + found.log_total, axis=axis), plan.labels
        if only_label(plan):
            gap = xp.pick(found.gap, label, axis) + xp.squeeze(found.log_total, axis=axis)
            return spec.elements(lse, self.cost(gap, xp), 0.0, plan, xp)
        cost = self.cost(found.gap + found.log_total, xp)
        nll = xp.pick(cost, label, axis) if plan.u is None else spec.weighted_gap(plan.u, cost, axis, xp)
        smooth = xp.mean(cost, axis=axis) if plan.v is None else spec.weighted_gap(plan.v, cost, axis, xp)
        return spec.elements(lse, nll, smooth, plan, xp)

    def cost(self, surprise, xp):
        """m^γ·surprise, the surprise being −log p. An infinite one is not modulated: m is 1 there."""
        p = xp.exp(-surprise)
        known = xp.where(p == 0, xp.zeros_like(p), surprise)
        return xp.where(p == 0, surprise, power(1 - p, self.gamma, xp) * known)

    def slope(self, surprise, xp):
        """D, the derivative of `cost` with respect to the surprise."""
        p = xp.exp(-surprise)
        m = 1 - p
        p_log_p = product(p, -surprise, xp)
        ratio = xp.where(m == 0, -xp.ones_like(p), p_log_p / xp.where(m == 0, xp.ones_like(m), m))
        return power(m, self.gamma, xp) * (1 - self.gamma * ratio)

    def losses_and_gradient(self, logits, plan, axis, xp):
        found = softmax(masked_logits(logits, plan, axis, xp), axis, xp)
        peak, total, log_total = (xp.squeeze(x, axis=axis) for x in (found.peak, found.total, found.log_total))
        target = self.target(found, log_total, plan, axis, xp)
        statistics = spec.Statistics(peak, total, None, None, None, None)
        return self.elements(found, plan, axis, xp), spec.gradient(logits, statistics, target, axis, xp)

    def target(self, found, log_total, plan, axis, xp):
        """The plan with the target W∘D."""
        if only_label(plan):
            at_label = self.slope(xp.pick(found.gap, plan.labels, axis) + log_total, xp)
            return plan._replace(a=plan.a * at_label)
        slope = self.slope(found.gap + found.log_total, xp)
        v = slope / xp.number(slope.shape[axis], slope) if plan.v is None else plan.v * slope
        plan = plan._replace(v=v, v_sum=xp.sum(v, axis=axis))
        if plan.u is None:
            return plan._replace(a=plan.a * xp.pick(slope, plan.labels, axis))
        u = plan.u * slope
        return plan._replace(u=u, u_sum=xp.sum(u, axis=axis))


def only_label(plan):
    """Whether the target is the label alone: known to be unsmoothed."""
    return plan.u is None and isinstance(plan.b, float) and plan.b == 0.0


class LabelFocal(namedtuple("LabelFocal", "gamma")):
    """m_y^γ·loss with m_y = 1 − p_y, for labels; the z-loss is added as it is.

    With ρ the softmax of the other classes and δ one at the label, the gradient of m_y^γ is γ·m_y^γ·p_y·(ρ − δ). m_y
    is a sum over the other classes: 1 − p_y would have no digits where p_y is almost 1.
    """

    __slots__ = ()

    def weighted(self, plan, weight):
        return plan, self

    def others(self, z, plan, axis, xp):
        """(the Softmax, e without the label's entry, its sum, m_y^γ), the sums without the class axis."""
        found = softmax(z, axis, xp)
        others = xp.deposit(found.e, plan.labels, -xp.pick(found.e, plan.labels, axis), axis)
        rest = xp.sum(others, axis=axis)
        return found, others, rest, power(rest / xp.squeeze(found.total, axis=axis), self.gamma, xp)

    def losses(self, logits, plan, axis, xp):
        found, _, _, factor = self.others(masked_logits(logits, plan, axis, xp), plan, axis, xp)
        loss = spec.losses(logits, plan._replace(z_loss=None), axis, xp)
        infinite = xp.isinf(loss)
        known = factor * xp.where(infinite, xp.zeros_like(loss), loss)
        return self.with_z_loss(
            xp.where(infinite, product(xp.stop_gradient(factor), loss, xp), known), found, plan, axis, xp
        )

    def with_z_loss(self, loss, found, plan, axis, xp):
        if plan.z_loss is None:
            return loss
        lse = xp.squeeze(found.peak + found.log_total, axis=axis)
        return loss + plan.z_loss * lse**2

    def losses_and_gradient(self, logits, plan, axis, xp):
        found, others, rest, factor = self.others(masked_logits(logits, plan, axis, xp), plan, axis, xp)
        statistics = spec.statistics(logits, plan, axis, xp)
        loss = spec.elements(*spec.finished(statistics, xp), plan._replace(z_loss=None), xp)
        scaled = spec.scaled(plan, factor, z_loss_factor=1.0)
        gradient = spec.gradient(logits, statistics, scaled, axis, xp)
        p_y = xp.pick(found.e, plan.labels, axis) / xp.squeeze(found.total, axis=axis)
        known = xp.where(xp.isinf(loss), xp.zeros_like(loss), loss)
        rise = self.gamma * factor * p_y * known
        rho = others / wide(xp.where(rest == 0, xp.ones_like(rest), rest), axis, xp)
        gradient = gradient + xp.deposit(wide(rise, axis, xp) * rho, plan.labels, -rise, axis)
        return self.with_z_loss(product(factor, loss, xp), found, plan, axis, xp), gradient
