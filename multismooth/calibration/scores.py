"""Proper scores: the negative log-likelihood, the Brier score, and what the latter is made of."""

from dataclasses import dataclass

import numpy as np

from multismooth.api.options import Array, Rows
from multismooth.calibration import rows
from multismooth.calibration.sample import read
from multismooth.errors import require


def negative_log_likelihood(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> float:
    """−mean log p_y, in nats, of the labels themselves: never smoothed, never clipped.

    It is infinite where a label has probability 0. Arguments as in `expected_calibration_error`.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> round(calibration.negative_log_likelihood(np.array([[2.0, 0.5, -1.0]]), np.array([0])), 6)
    0.241311
    """
    (nll,) = rows.reduce(read(logits, targets, probs, ignore_index, axis), "nll")
    return _mean(nll)


def brier_score(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> float:
    """mean Σ_k (p_k − y_k)², with y one-hot: from 0 to 2. Arguments as in `expected_calibration_error`.

    Others divide by 2 (scikit-learn for two classes) or by K (PyCalib).

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> round(calibration.brier_score(probs=np.array([[0.7, 0.2, 0.1]]), targets=np.array([0])), 6)
    0.14

    Source: Brier 1950, Verification of forecasts expressed in terms of probability, eq. 2.
    """
    (brier,) = rows.reduce(read(logits, targets, probs, ignore_index, axis), "brier")
    return _mean(brier)


def _mean(values) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


@dataclass(frozen=True)
class BrierDecomposition:
    """score = miscalibration − discrimination + uncertainty, each ≥ 0.

    Args:
        score: the Brier score.
        miscalibration: what recalibration, class by class, would take off. 0 is best.
        discrimination: what the recalibrated probabilities know beyond the class frequencies. More is better.
        uncertainty: the Brier score of the class frequencies themselves.
    """

    score: float
    miscalibration: float
    discrimination: float
    uncertainty: float

    def __str__(self) -> str:
        return (
            f"Brier {self.score:.4f} = {self.miscalibration:.4f} miscalibration − {self.discrimination:.4f} "
            f"discrimination + {self.uncertainty:.4f} uncertainty"
        )


def brier_decomposition(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> BrierDecomposition:
    """The Brier score in three parts, with isotonic regression class by class: no bins to choose.

    Arguments as in `expected_calibration_error`. Needs SciPy: `pip install "multismooth[calibration]"`.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    >>> print(calibration.brier_decomposition(probs=probs, targets=np.array([0, 1, 1, 0])))
    Brier 0.4500 = 0.2000 miscalibration − 0.2500 discrimination + 0.5000 uncertainty

    Source: Dimitriadis, Gneiting & Jordan 2021, Stable reliability diagrams (CORP), PNAS 118(8), eq. 3.
    """
    require("scipy", "calibration")
    sample = read(logits, targets, probs, ignore_index, axis)
    score, probabilities = rows.reduce(sample, "brier", "probabilities")
    labels, n = sample.counted_labels, len(score)
    if n == 0:
        return BrierDecomposition(*[float("nan")] * 4)
    recalibrated = uncertainty = 0.0
    for k in range(sample.classes):
        share, happened = float(np.mean(labels == k)), labels == k
        if 0 < share < 1:  # else the class frequency is right everywhere
            fitted = isotonic(probabilities[:, k], happened)
            recalibrated += float(np.mean((fitted - happened) ** 2))
            uncertainty += share * (1 - share)
    total = _mean(score)
    return BrierDecomposition(total, max(0.0, total - recalibrated), max(0.0, uncertainty - recalibrated), uncertainty)


def isotonic(probabilities, happened) -> np.ndarray:
    """The nondecreasing function of the probabilities that is nearest to what happened, at each of them."""
    from scipy.optimize import isotonic_regression

    values, place, count = np.unique(probabilities, return_inverse=True, return_counts=True)
    share = np.bincount(place, weights=happened) / count
    return isotonic_regression(share, weights=count).x[place] if len(values) > 1 else share[place]
