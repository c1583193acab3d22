"""Terms that are added to the loss: the confidence penalty, the margin, and the divergence from a teacher."""

from collections import namedtuple

from multismooth import spec
from multismooth.alternatives.softmax import Alternative, softmax, times_surprise
from multismooth.spec import masked_logits, product, wide


class Added(Alternative):
    """A term, times a strength per element, is added to the loss. A subclass has `term` and its derivative `slope`."""

    __slots__ = ()

    def weighted(self, plan, weight):
        return plan, type(self)(self.strength * weight, *self[1:])

    def arrays(self):
        """(the strength per element, the teacher's logits or None)."""
        return self.strength, None

    def with_arrays(self, strength, teacher):
        return type(self)(strength, *self[1:])

    @property
    def number(self):
        """The one number that is the same for all elements."""
        return self[-1]

    def losses(self, logits, plan, axis, xp):
        z = masked_logits(logits, plan, axis, xp)
        found = softmax(z, axis, xp)
        added = product(self.strength, self.term(z, found, plan, axis, xp), xp)
        return added if empty(plan) else plan_losses(found.statistics(plan, axis, xp), plan, xp) + added

    def of_capped(self, z, plan, axis, xp):
        found = softmax(z, axis, xp)
        term, slope = self.term_and_slope(z, found, plan, axis, xp)
        added, gradient = product(self.strength, term, xp), wide(self.strength, axis, xp) * slope
        if empty(plan):
            return added, gradient
        statistics = found.statistics(plan, axis, xp)
        own = spec.gradient_of(found.e, statistics, plan, axis, xp)
        return plan_losses(statistics, plan, xp) + added, own + gradient


def plan_losses(statistics, plan, xp):
    return spec.losses_of(statistics, plan, xp)


def empty(plan):
    """Whether the plan's own loss is known to be 0."""
    nothing = all(isinstance(x, float) and x == 0.0 for x in (plan.a, plan.b))
    return nothing and plan.z_loss is None and plan.const is None


class Penalty(Added, namedtuple("Penalty", "strength")):
    """strength·Σ_k p_k log p_k, the negative entropy. Its gradient is strength·p·(log p + H)."""

    __slots__ = ()
    number = 0.0

    def term(self, z, found, plan, axis, xp):
        return -xp.sum(times_surprise(found.p, found.surprise, xp), axis=axis)

    def term_and_slope(self, z, found, plan, axis, xp):
        p = found.p
        each = times_surprise(p, found.surprise, xp)
        entropy = xp.sum(each, axis=axis, keepdims=True)
        return -xp.squeeze(entropy, axis=axis), p * entropy - each


class Margin(Added, namedtuple("Margin", "strength margin")):
    """strength·mean_k max(0, max z − z_k − margin) over the classes that exist. Equal largest logits share its pull."""

    __slots__ = ()

    def term(self, z, found, plan, axis, xp):
        excess, count = self.excess(xp.max(z, axis=axis, keepdims=True) - z, plan, axis, xp)
        return xp.sum(excess, axis=axis) / count

    def excess(self, gap, plan, axis, xp):
        """(how far each class lies beyond the margin, how many classes exist)."""
        excess = xp.maximum(gap - self.margin, xp.constant(0.0, gap))
        if plan.mask is None:
            return excess, xp.number(gap.shape[axis], gap)
        exists = xp.sum(xp.astype(plan.mask, gap.dtype), axis=axis)
        return xp.where(plan.mask, excess, xp.constant(0.0, gap)), exists

    def term_and_slope(self, z, found, plan, axis, xp):
        excess, count = self.excess(found.gap, plan, axis, xp)
        far, top = (xp.astype(where, found.gap.dtype) for where in (excess > 0, found.gap == 0))
        pull = xp.sum(far, axis=axis) / xp.sum(top, axis=axis) / count
        return xp.sum(excess, axis=axis) / count, wide(pull, axis, xp) * top - far * wide(1 / count, axis, xp)


class Divergence(Added, namedtuple("Divergence", "strength teacher temperature")):
    """strength·KL(q ‖ p) with q = softmax(teacher/T), p = softmax(z/T). Its gradient is strength·(p − q)/T."""

    __slots__ = ()

    def arrays(self):
        return self.strength, self.teacher

    def with_arrays(self, strength, teacher):
        return Divergence(strength, teacher, self.temperature)

    def both(self, z, plan, axis, xp):
        """(q, p, log(q/p) with 0 where q is 0)."""
        teacher = xp.astype(xp.stop_gradient(self.teacher), z.dtype, copy=False)
        teacher = masked_logits(teacher, plan._replace(softcap=None), axis, xp)
        teacher, student = (softmax(x * (1 / self.temperature), axis, xp) for x in (teacher, z))
        ratio = xp.where(teacher.e == 0, xp.constant(0.0, z), student.surprise - teacher.surprise)
        return teacher.p, student.p, ratio

    def term(self, z, found, plan, axis, xp):
        q, _, ratio = self.both(z, plan, axis, xp)
        return xp.sum(q * ratio, axis=axis)

    def term_and_slope(self, z, found, plan, axis, xp):
        q, p, ratio = self.both(z, plan, axis, xp)
        return xp.sum(q * ratio, axis=axis), (p - q) * (1 / self.temperature)


class Distillation(namedtuple("Distillation", "teacher temperature hard_weight")):
    """hard_weight·loss + (1 − hard_weight)·T²·KL: what `weighted` makes of it is a `Divergence`."""

    __slots__ = ()

    def weighted(self, plan, weight):
        hard, temperature = self.hard_weight, self.temperature
        strength = (1 - hard) * temperature * temperature * weight
        if isinstance(hard, float) and hard == 0.0:  # the plan is known to be 0, except that invalid labels are NaN
            strength = strength if isinstance(plan.a, float) else strength + 0.0 * plan.a
            plan = plan._replace(a=0.0, b=0.0, const=None)
        return spec.scaled(plan, hard, z_loss_factor=1.0), Divergence(strength, self.teacher, temperature)
