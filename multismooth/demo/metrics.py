"""Accuracy, likelihood and calibration of a classifier on held-out data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Reliability:
    """For each confidence bin: number of predictions, mean confidence, share of correct ones (NaN where empty)."""

    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def mean_confidence(self) -> float:
        """Mean confidence of all predictions; NaN without predictions."""
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        return float(np.average(self.confidence[filled], weights=self.count[filled]))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error Σ_b (n_b/N)·|accuracy_b − confidence_b|; NaN without predictions."""
        gaps = np.abs(self.accuracy - self.confidence)
        filled = self.count > 0
        if not filled.any():
            return float("nan")
        return float(np.average(gaps[filled], weights=self.count[filled]))


@dataclass(frozen=True)
class Evaluation:
    """Held-out results: share of correct predictions, mean −log p of the true class (unsmoothed, nats), calibration."""

    accuracy: float
    nll: float
    reliability: Reliability

    @property
    def ece(self) -> float:
        return self.reliability.calibration_error


def evaluate(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Metrics of logits (count, classes) for integer labels (count,)."""
    log_p = log_softmax(logits)
    correct = log_p.argmax(axis=1) == labels
    nll = -log_p[np.arange(len(labels)), labels].mean()
    return Evaluation(float(correct.mean()), float(nll), reliability(np.exp(log_p.max(axis=1)), correct))


def reliability(confidence: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Equal-width bins (b/B, (b+1)/B] as Guo et al. (2017); a confidence of exactly 0 is in the first."""
    confidence, correct = np.asarray(confidence, float), np.asarray(correct, float)
    inner_edges = np.arange(1, bins) / bins
    index = np.searchsorted(inner_edges, confidence, side="left")
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            count,
            np.bincount(index, weights=confidence, minlength=bins) / count,
            np.bincount(index, weights=correct, minlength=bins) / count,
        )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """log p over the last axis, without overflow."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
