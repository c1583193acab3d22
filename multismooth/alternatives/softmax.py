"""Softmax of masked logits, from which the alternatives compute what `spec.statistics` does not."""

from typing import Any, NamedTuple

from multismooth import spec


class Softmax(NamedTuple):
    """Of every element: its largest logit, gap = peak − z, e = exp(−gap), total = Σ e and the logarithm of that.

    The sums keep the class axis, with one entry.
    """

    peak: Any
    gap: Any
    e: Any
    total: Any
    log_total: Any

    @property
    def log_p(self):
        return -(self.gap + self.log_total)

    @property
    def p(self):
        return self.e / self.total


def softmax(z, axis, xp):
    """The Softmax of masked logits. A common offset costs no digits; log p is −inf where z is."""
    peak = spec.finite(xp.stop_gradient(xp.max(z, axis=axis, keepdims=True)), xp)
    gap = peak - z
    e = xp.exp(-gap)
    total = xp.sum(e, axis=axis, keepdims=True)
    return Softmax(peak, gap, e, total, xp.log(total))
