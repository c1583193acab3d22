"""The calibration error of any convention, and the floor: the error that a perfectly calibrated model would show."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from multismooth.api import argument_checks
from multismooth.api.options import Array, Rows
from multismooth.calibration import binning, rows
from multismooth.calibration.conventions import Binning, BinWeight, Closed, ErrorConvention, Event, Norm, resolve
from multismooth.calibration.sample import Sample, read
from multismooth.errors import complain


def expected_calibration_error(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    convention: str | ErrorConvention = "guo",
    bins: int | None = None,
    binning: Binning | None = None,
    closed: Closed | None = None,
    norm: Norm | None = None,
    event: Event | int | None = None,
    bin_weight: BinWeight | None = None,
    debias: bool | None = None,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> float:
    """(Σ_b w_b·|accuracy_b − confidence_b|^p)^(1/p) over the bins that hold something: the ECE, in any dialect.

    Args:
        logits: (N…, K) scores before the softmax. Their softmax is computed in float64.
        targets: (N…) integer labels.
        probs: (N…, K) probabilities instead of logits. Rows must be ≥ 0 and sum to 1.
        convention: a name in `calibration.conventions`, or an `ErrorConvention`.
        bins, binning, closed, norm, event, bin_weight, debias: in place of the convention's own. See
            `ErrorConvention`.
        ignore_index: rows with this label do not count and may hold anything. None ignores no label.
        axis: the class axis. None is the last axis, if the shapes are not ambiguous.

    Returns:
        A Python float in [0, 1]; NaN if nothing counts.

    Raises:
        TargetError: labels that name no class. ValueError: rows that are no scores, unknown names.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> round(calibration.expected_calibration_error(probs=probs, targets=np.array([0, 1, 1, 0]), bins=5), 4)
    0.25

    Source: Guo et al. 2017, eq. 3 (arXiv:1706.04599).
    """
    keywords = {
        "bins": bins, "binning": binning, "closed": closed, "norm": norm,
        "event": event, "bin_weight": bin_weight, "debias": debias,
    }  # fmt: skip
    return of_sample(read(logits, targets, probs, ignore_index, axis), resolve(convention, **keywords))


def of_sample(sample: Sample, convention: ErrorConvention) -> float:
    """The error of checked arguments."""
    event, classes = convention.event, sample.classes
    if event == "class_1_or_top_label":
        event = 1 if classes == 2 else "top_label"
    if event == "top_label":
        confidence, hit = rows.reduce(sample, "confidence", "hit")
        return binned_error(confidence, hit, convention)
    if event == "predicted_class":
        confidence, hit, predicted = rows.reduce(sample, "confidence", "hit", "predicted")
        each = [binned_error(confidence[predicted == k], hit[predicted == k], convention) for k in np.unique(predicted)]
        return float(np.mean(each)) if each else float("nan")
    (probabilities,), labels = rows.reduce(sample, "probabilities"), sample.counted_labels
    if event == "pooled":
        happened = labels[:, None] == np.arange(classes)
        return binned_error(probabilities.reshape(-1), happened.reshape(-1), convention)
    if not isinstance(event, str):
        if event >= classes:
            raise complain("event", f"a class in [0, {classes})", repr(event), "Classes are numbered from 0.")
        return binned_error(np.ascontiguousarray(probabilities[:, event]), labels == event, convention)
    columns = np.ascontiguousarray(probabilities.T)
    errors = np.array([binned_error(columns[k], labels == k, convention) for k in range(classes)])
    if convention.norm == "max":
        return float(errors.max())
    return float(np.mean(errors)) if convention.norm == "l1" else float(np.sqrt(np.mean(errors**2)))


def binned_error(probabilities, happened, convention: ErrorConvention) -> float:
    """The error of N probabilities of an event that happened or not."""
    if len(probabilities) == 0:
        return float("nan")
    edges = binning.edges_of(probabilities, convention)
    return _norm(binning.fill(probabilities, happened, edges, convention.closed), convention)


def _norm(bins: binning.Bins, convention: ErrorConvention) -> float:
    filled = bins.count > 0
    count, accuracy, confidence = bins.count[filled], bins.accuracy[filled], bins.confidence[filled]
    gap = np.abs(accuracy - confidence)
    if convention.norm == "max":
        return float(gap.max())
    weight = count / count.sum() if convention.bin_weight == "count" else np.full(len(count), 1 / len(count))
    if convention.norm == "l1":
        return float(np.sum(weight * gap))
    squares = gap**2
    if convention.debias:
        chance = accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
        squares = np.where(count > 1, squares - chance, 0.0)
    return float(np.sqrt(max(0.0, np.sum(weight * squares))))


@dataclass(frozen=True)
class CalibrationTest:
    """The error beside what chance alone would give a perfectly calibrated model.

    Args:
        error: the model's expected calibration error (top label, equal width, l1).
        expected: the mean error of a perfectly calibrated model with these confidences, this N and these bins.
        low, high: 95 % of such models have an error between them.
        p_value: (1 + how many of them have at least this error)/(1 + resamples).
    """

    error: float
    expected: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        return (
            f"ECE {self.error:.4f}; a perfectly calibrated model would show {self.expected:.4f} "
            f"({self.low:.4f} to {self.high:.4f}), p = {self.p_value:.3g}"
        )


def calibration_test(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> CalibrationTest:
    """The ECE and its floor: the ECE of labels that are drawn from the model's own confidences.

    An ECE is never 0, not even for a perfect model: each bin's share of hits is a count of finitely many. Report it
    beside this floor.

    Args:
        logits, targets, probs, ignore_index, axis: as in `expected_calibration_error`.
        bins: of equal width, (lo, hi].
        resamples: how many perfectly calibrated models to draw.
        seed: of the draws. The result does not depend on the order of the rows.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> found = calibration.calibration_test(probs=probs, targets=np.array([0, 1, 1, 0]))
    >>> round(found.error, 4), 0.3 < found.expected < 0.4, found.p_value > 0.05
    (0.4, True, True)

    Source: Bröcker & Smith 2007, Increasing the reliability of reliability diagrams; Vaicenavicius et al. 2019
    (arXiv:1902.06977), §5.
    """
    convention = ErrorConvention(bins=bins)
    resamples = argument_checks.positive("resamples", resamples, "1000 are usual.")
    sample = read(logits, targets, probs, ignore_index, axis)
    confidence, hit = rows.reduce(sample, "confidence", "hit")
    if len(confidence) == 0:
        return CalibrationTest(*[float("nan")] * 5)
    error = binned_error(confidence, hit, convention)
    drawn = _drawn_errors(np.sort(confidence), convention.bins, resamples, np.random.default_rng(seed))
    low, high = np.quantile(drawn, [0.025, 0.975])
    at_least = np.count_nonzero(drawn >= error * (1 - 1e-12))  # equal errors may differ by rounding
    return CalibrationTest(error, float(np.mean(drawn)), float(low), float(high), (1 + int(at_least)) / (1 + resamples))


DRAWS = 1 << 20  # random numbers at a time: 8 MiB
MANY = 1 << 14  # rows; more are drawn in groups: 1e6 rows take 0.6 s, and 5 s one by one
GROUPS = 1 << 12  # on [0, 1]


def _drawn_errors(confidence, bins, resamples, random: Any) -> np.ndarray:
    """The errors of `resamples` sets of labels, each right with its confidence; the confidences are sorted.

    Of many rows, those of a bin whose confidences differ by less than 1/GROUPS share their mean: the number of hits has
    the same mean, and a variance that differs by 3e-4 of itself at most.
    """
    index = binning.assign(confidence, binning.width_edges(bins), "right")
    size, n = np.ones(len(confidence), np.int64), len(confidence)
    if n > MANY:
        starts = np.flatnonzero(np.diff(np.floor(confidence * GROUPS), prepend=-1) + np.diff(index, prepend=-1))
        size = np.diff(starts, append=n)
        confidence, index = np.clip(np.add.reduceat(confidence, starts) / size, 0, 1), index[starts]
    starts = np.flatnonzero(np.diff(index, prepend=-1))
    total = np.add.reduceat(confidence * size, starts)
    errors, step = [], max(1, DRAWS // len(size))
    for start in range(0, resamples, step):
        shape = min(step, resamples - start), len(size)
        right = random.binomial(size, confidence, shape) if n > MANY else random.random(shape) < confidence
        hits = np.add.reduceat(right, starts, axis=1, dtype=np.int64)
        errors.append(np.abs(hits - total).sum(axis=1) / n)
    return np.concatenate(errors)
