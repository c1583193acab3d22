"""The reliability curve: how often predictions of each confidence are right, with exact intervals."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from multismooth.api.options import Array, Rows
from multismooth.calibration import binning, rows
from multismooth.calibration.conventions import ErrorConvention
from multismooth.calibration.sample import read
from multismooth.errors import complain, require


@dataclass(frozen=True)
class ReliabilityCurve:
    """What each bin of confidence holds; NaN where a bin is empty.

    Args:
        edges: (bins + 1,), i/bins; a bin is (lo, hi].
        count, confidence, accuracy: (bins,) how many predictions, their mean confidence, the share that is right.
        low, high: (bins,) the Clopper–Pearson interval of the accuracy; NaN without a `confidence_level`.
    """

    edges: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def error(self) -> float:
        """Σ_b (n_b/N)·|accuracy_b − confidence_b|, the ECE of these bins."""
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        return float(np.average(np.abs(self.accuracy - self.confidence)[filled], weights=self.count[filled]))

    @property
    def mean_confidence(self) -> float:
        """The mean confidence of all predictions."""
        filled = self.count > 0
        return float(np.average(self.confidence[filled], weights=self.count[filled])) if filled.any() else float("nan")

    def plot(self, ax: Any = None) -> Any:
        """Draw it; returns the matplotlib Axes. Hollow dots are bins of fewer than five predictions."""
        from multismooth.calibration.plotting import reliability_diagram

        return reliability_diagram(self, ax)


def reliability_curve(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    bins: int = 15,
    confidence_level: float | None = 0.95,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> ReliabilityCurve:
    """Accuracy against confidence in bins of equal width, with exact intervals of the accuracy.

    Args:
        logits, targets, probs, ignore_index, axis: as in `expected_calibration_error`.
        bins: of equal width, (lo, hi].
        confidence_level: of the Clopper–Pearson intervals, which need SciPy (`pip install "multismooth[calibration]"`).
            None: no intervals.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> curve = calibration.reliability_curve(probs=probs, targets=np.array([0, 1, 1, 0]), bins=2)
    >>> curve.count.tolist(), curve.accuracy[1].item(), [round(x[1].item(), 3) for x in (curve.low, curve.high)]
    ([0, 4], 0.75, [0.194, 0.994])

    Source: Clopper & Pearson 1934, The use of confidence or fiducial limits.
    """
    convention = ErrorConvention(bins=bins)
    if confidence_level is not None and not (isinstance(confidence_level, Real) and 0 < confidence_level < 1):
        raise complain("confidence_level", "a number between 0 and 1", repr(confidence_level), "0.95 is usual.")
    confidence, hit = rows.reduce(read(logits, targets, probs, ignore_index, axis), "confidence", "hit")
    return of_rows(confidence, hit, convention.bins, confidence_level)


def of_rows(confidence, hit, bins: int, confidence_level: float | None) -> ReliabilityCurve:
    found = binning.fill(confidence, hit, binning.width_edges(bins))
    low = high = np.full(bins, np.nan)
    if confidence_level is not None:
        low, high = interval(
            np.bincount(binning.assign(confidence[hit], found.edges, "right"), minlength=bins),
            found.count,
            confidence_level,
        )
    return ReliabilityCurve(found.edges, found.count, found.confidence, found.accuracy, low, high)


def interval(hits, count, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Clopper–Pearson: the shares under which so many hits or more, or so many or fewer, are (1 − level)/2 likely."""
    require("scipy", "calibration")
    from scipy.stats import beta

    tail = (1 - level) / 2
    with np.errstate(invalid="ignore"):
        low = np.where(hits == 0, 0.0, beta.ppf(tail, hits, count - hits + 1))
        high = np.where(hits == count, 1.0, beta.ppf(1 - tail, hits + 1, count - hits))
    return np.where(count > 0, low, np.nan), np.where(count > 0, high, np.nan)
