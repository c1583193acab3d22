"""(N, K) scores to a few numbers a row, in float64, where the scores are. All that follows is NumPy.

`Block` holds the formulas, once, in the array namespace of a backend. Scores that NumPy can read in place are reduced
by NumPy, a block that fits the cache at a time; others on their device, in float64.
"""

from contextlib import nullcontext
from functools import cached_property
from typing import Any

import numpy as np

from multismooth.api import target_checks
from multismooth.api.argument_checks import offenders
from multismooth.calibration.sample import Sample
from multismooth.errors import complain
from multismooth.namespace import XP

BLOCK = 1 << 16  # entries of a block: 512 KiB of float64
FEW_CLASSES = 64  # below, a transposed copy reduces faster: at K = 10 a row's maximum takes 2 ns, not 24


class Block:
    """Scores of some rows, classes on `axis`, and the labels. Each property is one number a row.

    Logits z:        m = max z,  e = exp(z − m),  s = Σ e,  p = e/s
    Probabilities p: m = max p,  e = p,  s = 1
    """

    def __init__(self, xp, scores, labels, axis, logits):
        self.xp, self.scores, self.labels, self.axis, self.logits = xp, scores, labels, axis, logits

    def _sum(self, x):
        return self.xp.sum(x, axis=self.axis)

    def _max(self, x):
        return self.xp.max(x, axis=self.axis)

    def _spread(self, x):
        """A number a row, to be combined with the scores."""
        return self.xp.expand_dims(x, axis=self.axis)

    def _own(self, x):
        """The entry at each row's label."""
        return self.xp.pick(x, self.labels, self.axis)

    @cached_property
    def maximum(self):
        return self._max(self.scores)

    @cached_property
    def shifted(self):
        return self.scores - self._spread(self.maximum)

    @cached_property
    def exponentials(self):
        return self.xp.exp(self.shifted) if self.logits else self.scores

    @cached_property
    def sum(self):
        return self._sum(self.exponentials)

    @cached_property
    def lowest(self):
        return self.xp.min(self.scores, axis=self.axis)

    @cached_property
    def confidence(self):
        return 1 / self.sum if self.logits else self.maximum

    @cached_property
    def predicted(self):
        return self.xp.argmax(self.scores, axis=self.axis)

    @cached_property
    def hit(self):
        """Whether the first of the largest scores is the label's."""
        return self.predicted == self.labels

    @cached_property
    def probabilities(self):
        return self.exponentials / self._spread(self.sum) if self.logits else self.scores

    @cached_property
    def nll(self):
        """log s − (z_y − m), or −log p_y."""
        return self.xp.log(self.sum) - self._own(self.shifted) if self.logits else -self.xp.log(self._own(self.scores))

    @cached_property
    def brier(self):
        """Σ_k (p_k − y_k)² = Σ_k p_k² − p_y² + (1 − p_y)², where the first two are summed without the label."""
        p, own = self.probabilities, self._own(self.probabilities)
        others = self.xp.deposit(p * p, self.labels, -own * own, self.axis)
        return self._sum(others) + (1 - own) ** 2

    @cached_property
    def margin(self):
        """The largest probability minus the second largest."""
        p, largest = self.probabilities, self._max(self.probabilities)
        others = self.xp.deposit(p + 0, self.predicted, -largest - 1, self.axis)  # a copy, of which one entry is −1
        return largest - self._max(others)

    @property
    def max_logit(self):
        return self.maximum

    @cached_property
    def logit_norm(self):
        """max(z − z̄)/‖z − z̄‖₂, and 0 where all logits are equal."""
        centred = self.scores - self._spread(self._sum(self.scores) / self.scores.shape[self.axis])
        length = self.xp.sqrt(self._sum(centred * centred))
        return self._max(centred) / self.xp.where(length > 0, length, self.xp.ones_like(length))


class NumpyBlock(Block):
    """The same with NumPy's faster way to find hits."""

    @cached_property
    def hit(self):
        own = self._own(self.scores)
        if np.count_nonzero(self.scores == self._spread(self.maximum)) == own.size:  # no ties, no NaN
            return own == self.maximum
        return self.predicted == self.labels


def reduce(sample: Sample, *names: str) -> tuple[np.ndarray, ...]:
    """The named properties of `Block`, for the rows that count: float64 arrays, `hit` and `predicted` as they are."""
    values = sample.backend.values(sample.scores, None)
    checked = ("confidence",) if sample.logits else ("lowest", "sum")
    wanted = list(dict.fromkeys((*names, *checked)))
    with np.errstate(all="ignore"):
        found = _by_numpy(sample, values, wanted) if values is not None else _on_device(sample, wanted)
    _check(sample, found)
    counted = sample.counted
    return tuple(found[name] if counted is None else found[name][counted] for name in names)


def _by_numpy(sample, values, names) -> dict[str, np.ndarray]:
    rows, classes = values.shape
    few = classes < FEW_CLASSES
    step = max(1, BLOCK // max(1, classes))
    found: dict[str, Any] = {}
    for start in range(0, max(rows, 1), step):
        part = values[start : start + step]
        part = np.ascontiguousarray(part.T, np.float64) if few else part.astype(np.float64, copy=False)
        axis = 0 if few else -1
        block = NumpyBlock(XP, part, sample.labels[start : start + step], axis, sample.logits)
        for name in names:
            result = np.moveaxis(block.probabilities, axis, -1) if name == "probabilities" else getattr(block, name)
            if name not in found:
                found[name] = np.empty((rows, *result.shape[1:]), result.dtype)
            found[name][start : start + step] = result
    return found


def _on_device(sample, names) -> dict[str, np.ndarray]:
    """In the backend's own namespace. JAX computes in float64 whatever its setting is."""
    xp, backend = sample.backend.xp, sample.backend
    with doubles(backend):
        scores = xp.astype(sample.scores, xp.float64)
        block = Block(xp, scores, backend.take("targets", sample.labels, scores), -1, sample.logits)
        return {name: backend.values(getattr(block, name), True) for name in names}


def doubles(backend):
    """64-bit numbers, which JAX has only on demand."""
    if backend.name != "jax":
        return nullcontext()
    import jax

    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()


def _check(sample, found):
    """Refuse counted rows that are no scores: NaN and infinite logits, probabilities that are none."""
    if sample.logits:
        bad = ~(found["confidence"] > 0)  # NaN too
        expected, remedy = "finite logits, or −inf for a class that does not exist", "Mark such rows with ignore_index."
        values = found["confidence"]
        what = "a row whose softmax is {}"
    else:
        slack = target_checks.tolerance(sample.scores.dtype)
        bad = ~((np.abs(found["sum"] - 1) <= slack) & (found["lowest"] >= -slack))
        expected, values, what = "rows ≥ 0 that sum to 1", found["sum"], "a row with sum {}"
        remedy = "Pass scores from before the softmax as logits=. For one probability of class 1 stack [1 − p, p]."
    if sample.counted is not None:
        bad &= sample.counted
    if bad.any():
        got = what.format(offenders(bad.reshape(sample.shape), values.reshape(sample.shape)))
        raise complain("logits" if sample.logits else "probs", expected, got, remedy)
