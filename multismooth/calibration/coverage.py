"""Selective classification: the risk among the predictions that a score trusts most."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from multismooth.api.options import Array, Rows
from multismooth.calibration import rows
from multismooth.calibration.sample import read
from multismooth.errors import complain

SCORES = {"probability": "confidence", "margin": "margin", "max_logit": "max_logit", "logit_norm": "logit_norm"}


@dataclass(frozen=True)
class RiskCoverage:
    """The risk at each coverage, and what it amounts to.

    Args:
        coverage: (N,) k/N for k = 1 … N.
        risk: (N,) the share of errors among the k predictions of the highest scores; among equal scores the expected
            one, in random order.
        aurc: the mean of `risk`.
        excess_aurc: aurc minus that of a score that puts all errors last.
        augrc: the mean of risk·coverage, the share of all predictions that are trusted and wrong.
    """

    coverage: np.ndarray
    risk: np.ndarray
    aurc: float
    excess_aurc: float
    augrc: float

    def plot(self, ax: Any = None) -> Any:
        """Draw the risk against the coverage; returns the matplotlib Axes."""
        from multismooth.calibration.plotting import risk_coverage_curve

        return risk_coverage_curve(self, ax)


def risk_coverage(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    score: Literal["probability", "margin", "max_logit", "logit_norm"] | Array | Rows = "probability",
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> RiskCoverage:
    """How much risk remains if only the predictions of the highest scores are kept.

    Args:
        logits, targets, probs, ignore_index, axis: as in `expected_calibration_error`.
        score: "probability" max p; "margin" the largest p minus the second; "max_logit" max z; "logit_norm"
            max(z − z̄)/‖z − z̄‖₂, which repairs selection by smoothed models (Xia et al. 2025); or an array (N…). The
            two of logits need logits.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> found = calibration.risk_coverage(probs=probs, targets=np.array([0, 1, 1, 0]))
    >>> found.risk.round(3).tolist(), round(found.aurc, 4)
    ([0.0, 0.5, 0.333, 0.25], 0.2708)

    Source: Geifman & El-Yaniv 2017 (arXiv:1705.08500); Geifman et al. 2019 (arXiv:1805.08206), §4, excess AURC;
    Traub et al. 2024 (arXiv:2407.01032), AUGRC.
    """
    sample = read(logits, targets, probs, ignore_index, axis)
    if isinstance(score, str):
        allowed = SCORES if sample.logits else ("probability", "margin")
        if score not in allowed:
            remedy = "max_logit and logit_norm are of logits; any other score can be passed as an array."
            raise complain("score", ", ".join(map(repr, allowed)) + " or an array", repr(score), remedy)
        hit, values = rows.reduce(sample, "hit", SCORES[score])
    else:
        (hit,) = rows.reduce(sample, "hit")
        values = _given(sample, score)
    return _of_rows(values, ~hit)


def _given(sample, score):
    """The caller's scores, of the rows that count."""
    array = sample.backend.values(sample.backend.take("score", score), True)
    if array.shape != sample.shape or array.dtype.kind not in "fiub":
        expected, got = f"one number for each element, shape {sample.shape}", f"{array.dtype} of shape {array.shape}"
        raise complain("score", expected, got, "A higher score is more trusted.")
    values = array.reshape(-1).astype(np.float64)
    values = values if sample.counted is None else values[sample.counted]
    if np.isnan(values).any():
        got = f"{np.count_nonzero(np.isnan(values))} NaN"
        raise complain("score", "numbers", got, "Leave such elements out with ignore_index.")
    return values


def _of_rows(score, wrong) -> RiskCoverage:
    n = len(score)
    if n == 0:
        empty, nan = np.empty(0), float("nan")
        return RiskCoverage(empty, empty, nan, nan, nan)
    _, place, size = np.unique(-score, return_inverse=True, return_counts=True)  # groups of equal scores, highest first
    errors = np.bincount(place, weights=wrong, minlength=len(size))
    share = np.repeat(errors / size, size)  # what each place within a group adds, in expectation
    before = np.repeat(np.cumsum(errors) - errors, size)
    within = np.arange(1, n + 1) - np.repeat(np.cumsum(size) - size, size)
    k = np.arange(1, n + 1)
    risk, coverage = (before + within * share) / k, k / n
    best = np.maximum(0, k - (n - errors.sum())) / k
    aurc = float(np.mean(risk))
    return RiskCoverage(coverage, risk, aurc, aurc - float(np.mean(best)), float(np.mean(risk * coverage)))
