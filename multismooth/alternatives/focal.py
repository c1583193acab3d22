"""The focal losses: a confident class counts less, by the power γ of m = 1 − p."""

from collections import namedtuple

from multismooth import spec
from multismooth.alternatives.softmax import Alternative, softmax, times_surprise
from multismooth.spec import masked_logits, product, wide


def power(base, exponent, xp):
    """base^exponent for 0 ≤ base ≤ 1. At 0, where its slope may be infinite, it has the right value and slope 0."""
    if isinstance(exponent, float) and (exponent == 1.0 or exponent >= 2.0):
        return base**exponent  # whose first two derivatives are finite
    positive = xp.where(base == 0, xp.ones_like(base), base)
    if isinstance(exponent, float):
        return positive if exponent == 0.0 else xp.where(base == 0, xp.zeros_like(base), positive**exponent)
    at_zero = xp.astype(exponent == 0, base.dtype)
    return xp.where(base == 0, at_zero, positive**exponent)


class Modulated(Alternative):
    """What the focal losses share: they change the loss, and have no array of their own."""

    __slots__ = ()

    def weighted(self, plan, weight):
        return plan, self

    def arrays(self):
        return None, None

    def with_arrays(self, strength, teacher):
        return self

    @property
    def number(self):
        return self.gamma


class Focal(Modulated, namedtuple("Focal", "gamma")):
    """−Σ_k W_k·m_k^γ·log p_k with m = 1 − p, plus the plan's constant and z-loss: smoothed first, then modulated.

    With D_k = m_k^γ·(1 − γ·p_k·log p_k/m_k), the gradient is that of the loss with the target W∘D.
    """

    __slots__ = ()

    def losses(self, logits, plan, axis, xp):
        found = softmax(masked_logits(logits, plan, axis, xp), axis, xp)
        surprise, p = surprises(found, plan, axis, xp)
        return self.elements(found, self.cost(surprise, p, self.modulator(p, xp), xp), plan, axis, xp)

    def of_capped(self, z, plan, axis, xp):
        found = softmax(z, axis, xp)
        surprise, p = surprises(found, plan, axis, xp)
        modulator = self.modulator(p, xp)
        loss = self.elements(found, self.cost(surprise, p, modulator, xp), plan, axis, xp)
        target = self.target(self.slope(surprise, p, modulator, xp), plan, axis, xp)
        return loss, spec.gradient_of(found.e, found.statistics(target, axis, xp), target, axis, xp)

    def modulator(self, p, xp):
        """m^γ."""
        return power(1 - p, self.gamma, xp)

    def cost(self, surprise, p, modulator, xp):
        """m^γ·surprise. Where p is 0, m is 1, and an infinite surprise stays what it is."""
        impossible = p == 0
        known = xp.where(impossible, xp.constant(0.0, p), surprise)
        return xp.where(impossible, surprise, modulator * known)

    def slope(self, surprise, p, modulator, xp):
        """D, the derivative of `cost` with respect to the surprise. surprise/m is 1 where m is 0."""
        m = 1 - p
        certain = m == 0
        ratio = xp.where(certain, p, times_surprise(p, surprise, xp) / xp.where(certain, p, m))
        return modulator * (1 + self.gamma * ratio)

    def elements(self, found, cost, plan, axis, xp):
        """The losses per element from `cost`, which is that of the label alone where it is `only_label`."""
        if only_label(plan):
            return spec.elements(found.lse(axis, xp), cost, 0.0, plan, xp)
        nll = xp.pick(cost, plan.labels, axis) if plan.u is None else spec.weighted_gap(plan.u, cost, axis, xp)
        smooth = xp.mean(cost, axis=axis) if plan.v is None else spec.weighted_gap(plan.v, cost, axis, xp)
        return spec.elements(found.lse(axis, xp), nll, smooth, plan, xp)

    def target(self, slope, plan, axis, xp):
        """The plan with the target W∘D."""
        if only_label(plan):
            return plan._replace(a=plan.a * slope)
        v = slope / xp.number(slope.shape[axis], slope) if plan.v is None else plan.v * slope
        plan = plan._replace(v=v, v_sum=xp.sum(v, axis=axis))
        if plan.u is None:
            return plan._replace(a=plan.a * xp.pick(slope, plan.labels, axis))
        u = plan.u * slope
        return plan._replace(u=u, u_sum=xp.sum(u, axis=axis))


def surprises(found, plan, axis, xp):
    """(−log p, p) of all classes, or of the label where the target is the label alone."""
    if not only_label(plan):
        return found.surprise, found.p
    surprise = xp.pick(found.gap, plan.labels, axis) + xp.squeeze(found.log_total, axis=axis)
    return surprise, xp.exp(-surprise)


def only_label(plan):
    """Whether the target is the label alone: known to be unsmoothed."""
    return plan.u is None and isinstance(plan.b, float) and plan.b == 0.0


class LabelFocal(Modulated, namedtuple("LabelFocal", "gamma")):
    """m_y^γ·loss with m_y = 1 − p_y, for labels; the z-loss is added as it is.

    With ρ the softmax of the other classes and δ one at the label, the gradient of m_y^γ is γ·m_y^γ·p_y·(ρ − δ). m_y
    is a sum over the other classes: 1 − p_y would have no digits where p_y is almost 1.
    """

    __slots__ = ()

    def others(self, z, plan, axis, xp):
        """(the Softmax, e without the label's entry, its sum, m_y^γ), the sums without the class axis."""
        found = softmax(z, axis, xp)
        others = xp.deposit(found.e + 0.0, plan.labels, -xp.pick(found.e, plan.labels, axis), axis)
        rest = xp.sum(others, axis=axis)
        return found, others, rest, power(rest / xp.squeeze(found.total, axis=axis), self.gamma, xp)

    def losses(self, logits, plan, axis, xp):
        found, _, _, factor = self.others(masked_logits(logits, plan, axis, xp), plan, axis, xp)
        loss = self.unmodulated(found.statistics(plan, axis, xp), plan, xp)
        infinite = xp.isinf(loss)
        finite = factor * xp.where(infinite, xp.zeros_like(loss), loss)
        loss = xp.where(infinite, product(xp.stop_gradient(factor), loss, xp), finite)
        return with_z_loss(loss, found, plan, axis, xp)

    def unmodulated(self, statistics, plan, xp):
        return spec.losses_of(statistics, plan._replace(z_loss=None), xp)

    def of_capped(self, z, plan, axis, xp):
        found, others, rest, factor = self.others(z, plan, axis, xp)
        statistics = found.statistics(plan, axis, xp)
        loss = self.unmodulated(statistics, plan, xp)
        modulated = spec.scaled(plan, factor, z_loss_factor=1.0)
        gradient = spec.gradient_of(found.e, statistics, modulated, axis, xp)
        p_y = xp.pick(found.p, plan.labels, axis)
        rise = self.gamma * factor * p_y * xp.where(xp.isinf(loss), xp.zeros_like(loss), loss)
        rho = others / wide(xp.where(rest == 0, xp.ones_like(rest), rest), axis, xp)
        gradient = gradient + xp.deposit(wide(rise, axis, xp) * rho, plan.labels, -rise, axis)
        return with_z_loss(product(factor, loss, xp), found, plan, axis, xp), gradient


def with_z_loss(loss, found, plan, axis, xp):
    """The loss and its z-loss."""
    return loss if plan.z_loss is None else loss + plan.z_loss * found.lse(axis, xp) ** 2
