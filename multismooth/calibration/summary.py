"""All numbers of one model in one pass of calls: what `multismooth calibrate` prints and a sweep keeps of each run."""

import warnings
from typing import Any

import numpy as np

from multismooth.calibration import rows
from multismooth.calibration.coverage import risk_coverage
from multismooth.calibration.error import calibration_test, expected_calibration_error
from multismooth.calibration.sample import read
from multismooth.calibration.scores import brier_decomposition, negative_log_likelihood
from multismooth.calibration.smooth import smooth_calibration_error
from multismooth.calibration.temperature import TemperatureFit, fit_temperature
from multismooth.errors import CalibrationWarning

MEANINGS = {
    "accuracy": "share of right predictions",
    "confidence": "mean probability of the predicted class",
    "nll": "mean −log p of the label, nats",
    "ece": "expected calibration error (top label, equal width, l1)",
    "ece_if_calibrated": "that of a perfectly calibrated model with these confidences",
    "p_value": "share of such models with at least this error",
    "mce": "the largest gap of a bin",
    "smooth_error": "smooth calibration error",
    "classwise_error": "mean over the classes of their errors",
    "brier": "Brier score, 0 to 2",
    "miscalibration": "of the Brier score: what recalibration would take off",
    "discrimination": "of the Brier score: what the probabilities know beyond class frequencies",
    "uncertainty": "of the Brier score: that of the class frequencies",
    "aurc": "mean risk over all coverages",
    "excess_aurc": "that minus the least possible at this accuracy",
}
AFTER = ("nll", "ece", "ece_if_calibrated")


def measures(targets, *, logits=None, probs=None, bins: int = 15, ignore_index: int | None = -100) -> dict[str, float]:
    """{name: number} for the names of `MEANINGS`."""
    arguments: dict[str, Any] = {"logits": logits, "targets": targets, "probs": probs, "ignore_index": ignore_index}
    confidence, hit = rows.reduce(read(logits, targets, probs, ignore_index, None), "confidence", "hit")
    test = calibration_test(**arguments, bins=bins)
    parts, risk = brier_decomposition(**arguments), risk_coverage(**arguments)
    return {
        "accuracy": float(np.mean(hit)) if len(hit) else float("nan"),
        "confidence": float(np.mean(confidence)) if len(hit) else float("nan"),
        "nll": negative_log_likelihood(**arguments),
        "ece": test.error,
        "ece_if_calibrated": test.expected,
        "p_value": test.p_value,
        "mce": expected_calibration_error(**arguments, bins=bins, norm="max"),
        "smooth_error": smooth_calibration_error(**arguments),
        "classwise_error": expected_calibration_error(**arguments, bins=bins, event="class_wise"),
        "brier": parts.score,
        "miscalibration": parts.miscalibration,
        "discrimination": parts.discrimination,
        "uncertainty": parts.uncertainty,
        "aurc": risk.aurc,
        "excess_aurc": risk.excess_aurc,
    }


def after_temperature(logits, targets, temperature: float, *, bins: int = 15, ignore_index: int | None = -100):
    """What a temperature, fitted on other data, makes of NLL and ECE. It changes no prediction."""
    scaled = logits / temperature
    test = calibration_test(scaled, targets, bins=bins, ignore_index=ignore_index)
    nll = negative_log_likelihood(scaled, targets, ignore_index=ignore_index)
    return {"nll_after": nll, "ece_after": test.error, "ece_if_calibrated_after": test.expected}


def quiet_fit(logits, targets, *, ignore_index: int | None = -100) -> TemperatureFit:
    """`fit_temperature` without its warning, for reports that show the status."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return fit_temperature(logits, targets, ignore_index=ignore_index)
