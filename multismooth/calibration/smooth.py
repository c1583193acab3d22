"""The smooth calibration error: no bins, a kernel whose width follows from the error itself."""

import numpy as np

from multismooth.api.options import Array, Rows
from multismooth.calibration import rows
from multismooth.calibration.sample import read

CELLS = 1 << 13  # of the grid on [0, 1]; the result changes by less than 1e-6 with four times as many
STEPS = 30  # of the bisection: σ is known to 1e-9


def smooth_calibration_error(
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> float:
    """σ with ∫|Σ_i (hit_i − p_i)·K_σ(t, p_i)| dt / N = σ, K_σ the Gaussian reflected at 0 and 1. Right to 1e-3.

    Arguments as in `expected_calibration_error`; p is the predicted class's probability. A value of 1 has its full
    weight (relplot 1.0.3 gives it half).

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> probs = np.array([[1.0, 0.0]] * 100 + [[0.5, 0.5]] * 100)
    >>> labels = np.array([1] * 100 + [0, 1] * 50)
    >>> round(calibration.smooth_calibration_error(probs=probs, targets=labels), 2)
    0.5

    Source: Błasiok & Nakkiran 2023, Smooth ECE (arXiv:2309.12236), eq. 4 and 8.
    """
    return of_rows(*rows.reduce(read(logits, targets, probs, ignore_index, axis), "confidence", "hit"))


def of_rows(confidence, hit) -> float:
    """The error of confidences and whether each is right."""
    if len(confidence) == 0:
        return float("nan")
    spectrum = np.fft.rfft(_reflected(_residuals(confidence, hit)))
    low, high = 0.0, 1.0
    for _ in range(STEPS):  # the integral falls with σ, so it crosses σ once
        middle = (low + high) / 2
        low, high = (middle, high) if _integral(spectrum, middle) > middle else (low, middle)
    return (low + high) / 2


def _residuals(confidence, hit):
    """(hit − p)/N at the points of the grid, each shared by its two neighbours, which keeps its place on average."""
    place = np.clip(confidence, 0.0, 1.0) * CELLS
    left = np.minimum(place.astype(np.intp), CELLS - 1)
    share, gap = place - left, (hit - confidence) / len(confidence)
    points = np.bincount(left, weights=gap * (1 - share), minlength=CELLS + 1)
    return points + np.bincount(left + 1, weights=gap * share, minlength=CELLS + 1)


def _reflected(points):
    """The grid and its mirror image, a period of 2. The ends meet their own images, so they count twice."""
    ends = points.copy()
    ends[[0, -1]] *= 2
    return np.concatenate([ends, points[-2:0:-1]])


def _integral(spectrum, sigma):
    """∫|smoothed residuals|: on a period, a Gaussian multiplies the wave of frequency m by exp(−(πσm)²/2)."""
    damped = spectrum * np.exp(-0.5 * (np.pi * sigma * np.arange(len(spectrum))) ** 2)
    density = np.abs(np.fft.irfft(damped)[: CELLS + 1])
    return float(density.sum() - (density[0] + density[-1]) / 2)
