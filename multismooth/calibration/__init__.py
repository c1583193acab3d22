"""Calibration: what a classifier's probabilities are worth, in numbers that say which number they are.

Every metric is called `f(logits, targets, …)` or `f(probs=…, targets=…, …)`, with NumPy arrays, PyTorch tensors or JAX
arrays. Rows are reduced where they are; results are Python floats and NumPy arrays.

>>> import numpy as np
>>> from multismooth import calibration
>>> logits, labels = np.array([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0]]), np.array([0, 1, 1])
>>> round(calibration.expected_calibration_error(logits, labels), 4)
0.2992
"""

from multismooth.calibration.conventions import ErrorConvention, conventions
from multismooth.calibration.coverage import RiskCoverage, risk_coverage
from multismooth.calibration.error import CalibrationTest, calibration_test, expected_calibration_error
from multismooth.calibration.identification import MetricIdentification, identify
from multismooth.calibration.reliability import ReliabilityCurve, reliability_curve
from multismooth.calibration.scaling import TemperatureScaling
from multismooth.calibration.scores import (
    BrierDecomposition,
    brier_decomposition,
    brier_score,
    negative_log_likelihood,
)
from multismooth.calibration.smooth import smooth_calibration_error
from multismooth.calibration.streams import (
    CalibrationState,
    CalibrationSummary,
    compute,
    init_state,
    merge,
    update,
)
from multismooth.calibration.temperature import TemperatureFit, fit_temperature
from multismooth.errors import CalibrationWarning

__all__ = [
    "BrierDecomposition",
    "CalibrationState",
    "CalibrationSummary",
    "CalibrationTest",
    "CalibrationWarning",
    "ErrorConvention",
    "MetricIdentification",
    "ReliabilityCurve",
    "RiskCoverage",
    "TemperatureFit",
    "TemperatureScaling",
    "brier_decomposition",
    "brier_score",
    "calibration_test",
    "compute",
    "conventions",
    "expected_calibration_error",
    "fit_temperature",
    "identify",
    "init_state",
    "merge",
    "negative_log_likelihood",
    "reliability_curve",
    "risk_coverage",
    "smooth_calibration_error",
    "update",
]


def __dir__():
    return __all__
