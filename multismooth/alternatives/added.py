"""Terms that are added to the loss: the confidence penalty, the margin, and the divergence from a teacher."""

from collections import namedtuple

from multismooth import spec
from multismooth.alternatives.softmax import softmax
from multismooth.spec import masked_logits, product, wide


class Added:
    """A term, times a strength per element, is added to the loss. A subclass has `term` and its derivative `slope`."""

    __slots__ = ()

    def weighted(self, plan, weight):
        return plan, type(self)(self.strength * weight, *self[1:])

    def losses(self, logits, plan, axis, xp):
        z = masked_logits(logits, plan, axis, xp)
        return spec.losses(logits, plan, axis, xp) + product(self.strength, self.term(z, plan, axis, xp), xp)

    def losses_and_gradient(self, logits, plan, axis, xp):
        z = masked_logits(logits, plan, axis, xp)
        loss, gradient = spec.losses_and_gradient(logits, plan, axis, xp)
        term, slope = self.term_and_slope(z, plan, axis, xp)
        return loss + product(self.strength, term, xp), gradient + wide(self.strength, axis, xp) * slope


class Penalty(Added, namedtuple("Penalty", "strength")):
    """strength·Σ_k p_k log p_k, the negative entropy. Its gradient is strength·p·(log p + H)."""

    __slots__ = ()

    def term(self, z, plan, axis, xp):
        found = softmax(z, axis, xp)
        return xp.sum(product(found.p, found.log_p, xp), axis=axis)

    def term_and_slope(self, z, plan, axis, xp):
        found = softmax(z, axis, xp)
        p_log_p = product(found.p, found.log_p, xp)
        total = xp.sum(p_log_p, axis=axis, keepdims=True)
        return xp.squeeze(total, axis=axis), p_log_p - found.p * total


class Margin(Added, namedtuple("Margin", "strength margin")):
    """strength·mean_k max(0, max z − z_k − margin) over the classes that exist. Of equal largest logits one counts."""

    __slots__ = ()

    def term(self, z, plan, axis, xp):
        top = wide(xp.pick(z, xp.argmax(xp.stop_gradient(z), axis=axis), axis), axis, xp)
        far, count = self.far(top - z, plan, axis, xp)
        return xp.sum(xp.where(far, top - z - self.margin, xp.zeros_like(z)), axis=axis) / count

    def far(self, gap, plan, axis, xp):
        """(where a class exists and lies beyond the margin, how many classes exist)."""
        far = ~(gap <= self.margin)
        if plan.mask is None:
            return far, xp.number(gap.shape[axis], gap)
        return far & plan.mask, xp.sum(xp.astype(plan.mask, gap.dtype), axis=axis)

    def term_and_slope(self, z, plan, axis, xp):
        best = xp.argmax(z, axis=axis)
        gap = wide(xp.pick(z, best, axis), axis, xp) - z
        far, count = self.far(gap, plan, axis, xp)
        term = xp.sum(xp.where(far, gap - self.margin, xp.zeros_like(gap)), axis=axis) / count
        slope = xp.astype(far, gap.dtype) / wide(count, axis, xp)
        return term, xp.deposit(-slope, best, xp.sum(slope, axis=axis), axis)


class Divergence(Added, namedtuple("Divergence", "strength teacher temperature")):
    """strength·KL(q ‖ p) with q = softmax(teacher/T), p = softmax(z/T). Its gradient is strength·(p − q)/T."""

    __slots__ = ()

    def both(self, z, plan, axis, xp):
        """(the softmax of the teacher, of the student, log(q/p) with 0 where q is 0)."""
        teacher = masked_logits(xp.stop_gradient(self.teacher), plan, axis, xp)
        teacher, student = (softmax(x / self.temperature, axis, xp) for x in (teacher, z))
        ratio = xp.where(teacher.e == 0, xp.zeros_like(z), teacher.log_p - student.log_p)
        return teacher, student, ratio

    def term(self, z, plan, axis, xp):
        teacher, _, ratio = self.both(z, plan, axis, xp)
        return xp.sum(teacher.p * ratio, axis=axis)

    def term_and_slope(self, z, plan, axis, xp):
        teacher, student, ratio = self.both(z, plan, axis, xp)
        q = teacher.p
        return xp.sum(q * ratio, axis=axis), (student.p - q) / self.temperature


class Distillation(namedtuple("Distillation", "teacher temperature hard_weight")):
    """hard_weight·loss + (1 − hard_weight)·T²·KL: what `weighted` makes of it is a `Divergence`."""

    __slots__ = ()

    def weighted(self, plan, weight):
        hard, temperature = self.hard_weight, self.temperature
        strength = (1 - hard) * temperature * temperature * weight
        plan = spec.scaled(plan, hard, z_loss_factor=1.0)
        return plan, Divergence(strength, self.teacher, temperature)
