"""(N, K) scores to a few numbers a row, in float64, where the scores are. All that follows is NumPy.

`Block` holds the formulas, once, in the array namespace of a backend. Scores that NumPy can read in place are reduced
by NumPy, a block that fits the cache at a time; others on their device, in float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import numpy as np

from multismooth.api import target_checks
from multismooth.api.argument_checks import offenders
from multismooth.calibration.sample import Sample
from multismooth.errors import complain
from multismooth.namespace import XP

BLOCK = 1 << 16  # entries of a block: 512 KiB of float64
DEVICE_BLOCK = 1 << 25  # on a device: 256 MiB
FEW_CLASSES = 64  # below, a transposed copy reduces faster: at K = 10 a row's maximum takes 1 ns, not 43, the copy 3


class once:
    """`functools.cached_property`, whose lock in Python 3.11 no compiler of PyTorch can trace."""

    def __init__(self, function):
        self.function, self.name = function, function.__name__

    def __get__(self, instance, owner=None):
        value = self.function(instance)
        setattr(instance, self.name, value)
        return value


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

    @once
    def maximum(self):
        return self._max(self.scores)

    @once
    def shifted(self):
        return self.scores - self._spread(self.maximum)

    @once
    def exponentials(self):
        return self.xp.exp(self.shifted) if self.logits else self.scores

    @once
    def sum(self):
        return self._sum(self.exponentials)

    @once
    def lowest(self):
        return self.xp.min(self.scores, axis=self.axis)

    @once
    def confidence(self):
        return 1 / self.sum if self.logits else self.maximum

    @once
    def predicted(self):
        return self.xp.argmax(self.scores, axis=self.axis)

    @once
    def hit(self):
        """Whether the first of the largest scores is the label's."""
        return self.predicted == self.labels

    @once
    def probabilities(self):
        return self.exponentials / self._spread(self.sum) if self.logits else self.scores

    @once
    def nll(self):
        """log s − (z_y − m), or −log p_y."""
        return self.xp.log(self.sum) - self._own(self.shifted) if self.logits else -self.xp.log(self._own(self.scores))

    @once
    def brier(self):
        """Σ_k (p_k − y_k)² = Σ_k p_k² − p_y² + (1 − p_y)², where the first two are summed without the label."""
        p, own = self.probabilities, self._own(self.probabilities)
        others = self.xp.deposit(p * p, self.labels, -own * own, self.axis)
        return self._sum(others) + (1 - own) ** 2

    @once
    def margin(self):
        """The largest probability minus the second largest."""
        p, largest = self.probabilities, self._max(self.probabilities)
        others = self.xp.deposit(p + 0, self.predicted, -largest - 1, self.axis)  # a copy, of which one entry is −1
        return largest - self._max(others)

    @property
    def max_logit(self):
        return self.maximum

    @once
    def logit_norm(self):
        """max(z − z̄)/‖z − z̄‖₂, and 0 where all logits are equal."""
        centred = self.scores - self._spread(self._sum(self.scores) / self.scores.shape[self.axis])
        length = self.xp.sqrt(self._sum(centred * centred))
        return self._max(centred) / self.xp.where(length > 0, length, self.xp.ones_like(length))


class NumpyBlock(Block):
    """The same with NumPy's faster way to find hits."""

    @once
    def hit(self):
        known = np.count_nonzero(self.maximum == self.maximum)  # a row with NaN equals its maximum nowhere
        if np.count_nonzero(self.scores == self._spread(self.maximum)) == known:  # no ties
            return self._own(self.scores) == self.maximum
        return self.predicted == self.labels


def reduce(sample: Sample, *names: str) -> tuple[np.ndarray, ...]:
    """The named properties of `Block`, for the rows that count: float64 arrays, `hit` and `predicted` as they are."""
    checked = ("confidence",) if sample.logits else ("lowest", "sum")
    found: dict[str, np.ndarray] = {}
    with computing(sample):
        for part, block in blocks(sample):
            for name in dict.fromkeys((*names, *checked)):
                result = seen(sample, getattr(block, name))
                if name == "probabilities":
                    result = np.moveaxis(result, block.axis, -1)
                if name not in found:
                    found[name] = np.empty((len(sample.labels), *result.shape[1:]), result.dtype)
                found[name][part] = result
    _check(sample, found)
    counted = sample.counted
    return tuple(found[name] if counted is None else found[name][counted] for name in names)


def seen(sample: Sample, result) -> np.ndarray:
    """A result of a Block as a NumPy array."""
    return result if isinstance(result, np.ndarray) else sample.backend.values(result, True)


def blocks(sample: Sample) -> Iterator[tuple[slice, Block]]:
    """(rows, their Block), in order, within `computing`. Those on a device are in their framework's namespace."""
    backend, labels = sample.backend, sample.labels
    values = backend.values(sample.scores, None)
    if values is None:
        for part in _parts(sample, DEVICE_BLOCK):
            scores = backend.xp.astype(backend.xp.stop_gradient(sample.scores[part]), backend.xp.float64)
            yield part, Block(backend.xp, scores, backend.take("targets", labels[part], scores), -1, sample.logits)
        return
    axis = 0 if sample.classes < FEW_CLASSES else -1
    for part in _parts(sample, BLOCK):
        scores = np.ascontiguousarray(values[part].T if axis == 0 else values[part], np.float64)
        yield part, NumpyBlock(XP, scores, labels[part], axis, sample.logits)


def _parts(sample, entries):
    """Slices of rows of about so many entries; one, if there are no rows."""
    step, rows = max(1, entries // sample.classes), len(sample.labels)
    return (slice(start, min(start + step, rows)) for start in range(0, max(rows, 1), step))


@contextmanager
def computing(sample: Sample) -> Iterator[None]:
    """No warnings of NumPy, since every result is checked; and 64 bits in JAX, whatever its setting is."""
    with np.errstate(all="ignore"):
        if sample.backend.name != "jax":
            yield
            return
        import jax

        home = jax if hasattr(jax, "enable_x64") else import_module("jax.experimental")  # in older releases
        with home.enable_x64(True):
            yield


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
