"""Accuracy, likelihood and calibration of a classifier on held-out data, by `multismooth.calibration`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from multismooth import calibration
from multismooth.errors import CalibrationWarning

BINS = 15


@dataclass(frozen=True)
class Evaluation:
    """Held-out results: share of correct predictions, mean −log p of the true class (unsmoothed, nats), calibration.

    `test` has the ECE beside that of a perfectly calibrated model. `temperature` is that of the held-out data itself:
    it says on which side the confidence is off, and is no correction that was tested.
    """

    accuracy: float
    nll: float
    reliability: calibration.ReliabilityCurve
    test: calibration.CalibrationTest
    temperature: calibration.TemperatureFit

    @property
    def ece(self) -> float:
        return self.test.error


def evaluate(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Metrics of logits (count, classes) for labels (count,). NaN if training left a logit that is no number."""
    accuracy = float(np.mean(logits.argmax(axis=1) == labels))
    if not np.isfinite(logits).all():
        accuracy, labels = float("nan"), np.full_like(labels, -100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # the status is on the page
        temperature = calibration.fit_temperature(logits, labels)
    return Evaluation(
        accuracy,
        calibration.negative_log_likelihood(logits, labels),
        calibration.reliability_curve(logits, labels, bins=BINS),
        calibration.calibration_test(logits, labels, bins=BINS),
        temperature,
    )
