"""What the alternatives share: softmax kept whole, of which they need more than the sums of `spec.statistics`."""

from typing import Any, NamedTuple

from multismooth import spec

MAX_SURPRISE = 1e4  # from 746 on, p is 0


class Softmax(NamedTuple):
    """Of every element: its largest logit, gap = peak − z, e = exp(−gap), and total = Σ e and log total.

    The last two keep the class axis, with one entry.
    """

    peak: Any
    gap: Any
    e: Any
    total: Any
    log_total: Any

    @property
    def surprise(self):
        """−log p, which is +inf where z is −inf."""
        return self.gap + self.log_total

    @property
    def p(self):
        return self.e * (1 / self.total)

    def statistics(self, plan, axis, xp):
        """`spec.statistics` for a plan."""
        return spec.statistics_of(self.peak, self.gap, self.e, plan, axis, xp)

    def lse(self, axis, xp):
        """log Σ exp z per element."""
        return spec.finite(self.peak, xp) + xp.squeeze(self.log_total, axis=axis)


class Alternative:
    """What the alternatives share. A subclass has `of_capped(z, plan, axis, xp)` of masked and capped logits z: the
    losses, and the gradient of their sum by z."""

    __slots__ = ()

    def losses_and_gradient(self, logits, plan, axis, xp):
        losses, gradient = self.of_capped(spec.masked_logits(logits, plan, axis, xp), plan, axis, xp)
        return losses, spec.through_cap(gradient, logits, plan, axis, xp)


def softmax(z, axis, xp):
    """The Softmax of masked logits. A common offset costs no digits."""
    peak, gap = spec.peak_and_gap(z, axis, xp)
    e = xp.exp(-gap)
    total = xp.sum(e, axis=axis, keepdims=True)
    return Softmax(peak, gap, e, total, xp.log(total))


def times_surprise(p, surprise, xp):
    """p·(−log p), which is 0 where p is 0: an infinite surprise is cut to a finite one there."""
    return p * xp.minimum(surprise, xp.constant(MAX_SURPRISE, surprise))
