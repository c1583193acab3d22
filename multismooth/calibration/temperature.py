"""The temperature: the one number that brings a model's confidence in line, with a certificate that it is the optimum.

The NLL is convex in β = 1/T and not in T. So β is searched: it stays positive, and every search ends.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from multismooth.api.argument_checks import first, warn
from multismooth.api.options import Array, Rows
from multismooth.calibration import rows
from multismooth.calibration.sample import Sample, read
from multismooth.errors import CalibrationWarning, TargetError, complain

CLOSE = 1e-7  # of β: Newton's next step would be smaller, and its error is about the square
STEPS = 100  # at most; real logits take 4 to 7, and bisection alone would take 60


@dataclass(frozen=True)
class TemperatureFit:
    """The temperature and its certificate.

    Args:
        temperature: T > 0; divide logits by it. 1 where no optimum exists.
        nll_before, nll_after: the mean NLL at T = 1 and at `temperature`, in nats.
        gradient: ∂NLL/∂β at β = 1/temperature; 0 at an optimum, to rounding.
        standard_error: of the temperature, from the curvature of the likelihood; NaN where no optimum exists.
        status: "converged". "separable": every label has its row's largest logit, so the NLL falls for T → 0.
            "uninformative": the NLL falls for T → ∞. "empty": nothing counts.
    """

    temperature: float
    nll_before: float
    nll_after: float
    gradient: float
    standard_error: float
    status: str

    def __str__(self) -> str:
        if self.status != "converged":
            return f"T = {self.temperature:g} ({self.status}: no temperature is best)"
        side = "over" if self.temperature > 1 else "under"
        meaning = f"the model is {side}-confident" if self.temperature != 1 else "the model needs none"
        return (
            f"T = {self.temperature:.4g} ± {self.standard_error:.2g}: {meaning}; "
            f"NLL {self.nll_before:.4f} → {self.nll_after:.4f}"
        )


def fit_temperature(
    logits: Array | Rows, targets: Array | Rows, *, ignore_index: int | None = -100, axis: int | None = None
) -> TemperatureFit:
    """argmin over T > 0 of −mean log softmax(z/T)_y: the temperature scaling of Guo et al., solved exactly.

    Fit it on validation data, not on the data that it is then judged on. T < 1 means that the model is under-confident,
    as models trained with label smoothing usually are.

    Args:
        logits: (N…, K) scores before the softmax, −inf for a class that does not exist in a row.
        targets, ignore_index, axis: as in `expected_calibration_error`.

    Returns:
        A `TemperatureFit`. T is right to 1e-6, relatively; T(c·z) = c·T(z) and T(z + a) = T(z). 8 to 10 passes
        over real logits.

    Warns:
        CalibrationWarning: no optimum exists; the status says why, and T is 1.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> logits = np.array([[4.0, 0.0], [3.0, 0.0], [0.0, 5.0], [2.0, 0.0]])
    >>> print(calibration.fit_temperature(logits, np.array([0, 0, 1, 1])))
    T = 2.043 ± 1.7: the model is over-confident; NLL 0.5501 → 0.4300

    Source: Guo et al. 2017, §4.2 (arXiv:1706.04599).
    """
    sample = read(logits, targets, None, ignore_index, axis)
    if not sample.counted_labels.size:
        nan = float("nan")
        return TemperatureFit(nan, nan, nan, nan, nan, "empty")
    rows.reduce(sample)  # refuses rows that are no scores
    start, largest = at(sample, 0.0), _largest_gaps(sample)
    if start.slope >= 0:
        return _without_optimum(sample, "uninformative", "The labels contradict the logits: are they in one order?")
    if not largest > 0:
        return _without_optimum(sample, "separable", "Every prediction is right: fit it on data with some errors.")
    beta, found = _minimum(sample, start, largest)
    before = at(sample, 1.0).nll
    error = 1 / (beta**2 * math.sqrt(sample.counted_labels.size * found.curvature)) if found.curvature else float("nan")
    return TemperatureFit(1 / beta, before, found.nll, found.slope, error, "converged")


def _without_optimum(sample, status, remedy):
    one = at(sample, 1.0)
    warn(f"fit_temperature: no temperature is best ({status}), so T is 1. {remedy}", CalibrationWarning)
    return TemperatureFit(1.0, one.nll, one.nll, one.slope, float("nan"), status)


class Point(NamedTuple):
    """The mean NLL at one β, with its first and second derivative by β."""

    nll: float
    slope: float
    curvature: float


def at(sample: Sample, beta: float) -> Point:
    """One pass. With d = z − z_y and p = softmax(β·d): the NLL is log Σ e^(β·d), its derivatives E_p d and Var_p d."""
    total = np.zeros(3)
    with rows.computing(sample):
        for part, block in rows.blocks(sample):
            total += [_total(sample, part, row) for row in _terms(block, beta)]
    return Point(*(total / sample.counted_labels.size).tolist())


def _terms(block, beta):
    """The row's NLL and its two derivatives."""
    xp, (exists, d) = block.xp, _gaps(block)
    top = xp.max(d, axis=block.axis)
    e = xp.where(exists, xp.exp(beta * (d - xp.expand_dims(top, axis=block.axis))), xp.zeros_like(d))
    s = xp.sum(e, axis=block.axis)
    mean = xp.sum(e * d, axis=block.axis) / s
    off = d - xp.expand_dims(mean, axis=block.axis)
    return xp.log(s) + beta * top, mean, xp.sum(e * off * off, axis=block.axis) / s


def _gaps(block):
    """(whether each class exists, d = z − z_y there and 0 elsewhere)."""
    xp, z = block.xp, block.scores
    exists = z > -math.inf
    d = z - xp.expand_dims(xp.pick(z, block.labels, block.axis), axis=block.axis)
    return exists, xp.where(exists, d, xp.zeros_like(d))


def _total(sample, part, row):
    values = rows.seen(sample, row)
    return float(np.sum(values if sample.counted is None else values[sample.counted[part]]))


def _largest_gaps(sample) -> float:
    """The mean of max d, which is the slope for β → ∞. It is 0 where every label has its row's largest logit."""
    with rows.computing(sample):
        each = [block.xp.max(_gaps(block)[1], axis=block.axis) for _, block in rows.blocks(sample)]
    gaps = np.concatenate([rows.seen(sample, part) for part in each])
    gaps = gaps if sample.counted is None else np.where(sample.counted, gaps, 0.0)
    if not np.isfinite(gaps).all():
        number, index = first(~np.isfinite(gaps).reshape(sample.shape))
        got = f"the label at {index} has logit −inf, {number} in all"
        raise complain("targets", "labels of classes that exist", got, "Mark such rows with ignore_index.", TargetError)
    return float(gaps.sum()) / sample.counted_labels.size


def _minimum(sample, point, limit):
    """(β, the Point there) where the slope is 0, by Newton's method for log(limit − slope(β)).

    The slope rises from slope(0) < 0 to `limit` > 0, about as limit − c·e^(−βm): Newton's method for the slope itself
    makes steps of 1/m then, however far the root is; this one makes one. It stays in a bracket, which is halved where
    the steps do not shrink.
    """
    beta, low, high, before = 0.0, 0.0, math.inf, math.inf
    for _ in range(STEPS):
        step = _step(point, limit)
        if beta and abs(step) <= CLOSE * beta:
            break
        following = beta + step
        inside, slow = low < following < high, abs(step) > before / 2
        if math.isinf(high):
            following = following if inside else 4 * low
        elif not inside or slow:
            following = (low + high) / 2
        beta, before = following, abs(following - beta)
        point = at(sample, beta)
        low, high = (beta, high) if point.slope < 0 else (low, beta)
    return beta, point


def _step(point, limit):
    rest = limit - point.slope
    if not (rest > 0 and point.curvature > 0):
        return math.nan
    return math.log(rest / limit) * rest / point.curvature
