"""Calibration errors of libraries that no `ErrorConvention` says: they depend on the rows' order, or skip some rows.

`identify` knows them by name. Each is written from its library's source, for the predicted class.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from multismooth.calibration.smooth import of_rows


class Other(NamedTuple):
    """A text that says what it is and whose, and (probs, labels, bins) → error.

    close: how near another implementation comes. binned: whether the number of bins matters.
    """

    text: str
    error: Callable[..., float]
    close: float = 0.0
    binned: bool = True
    undecided: str = ""  # a probe on which implementations differ


def _top(probs, labels):
    confidence = probs.max(axis=1)
    return confidence, probs.argmax(axis=1) == labels


def _of_parts(parts, n, power=1):
    """(Σ n_b/N·|gap|^p)^(1/p) over parts, each (confidences, hits)."""
    total = sum(len(p) / n * abs(np.mean(h) - np.mean(p)) ** power for p, h in parts if len(p))
    return float(total ** (1 / power))


def _between(probs, labels, edges, side="left"):
    """The error of bins between inner edges: (lo, hi] for side "left", [lo, hi) for "right"."""
    confidence, hit = _top(probs, labels)
    index = np.searchsorted(edges, confidence, side=side)
    return _of_parts([(confidence[index == b], hit[index == b]) for b in np.unique(index)], len(hit))


def ranked(probs, labels, bins):
    confidence, hit = _top(probs, labels)
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, bins)
    return _of_parts([(confidence[part], hit[part]) for part in parts], len(hit))


def interpolated(probs, labels, bins):
    confidence, hit = _top(probs, labels)
    n = len(confidence)
    edges = np.interp(np.linspace(0, n, bins + 1), np.arange(n), np.sort(confidence))
    inside = [(confidence > lo) & (confidence <= hi) for lo, hi in pairwise(edges)]
    return _of_parts([(confidence[part], hit[part]) for part in inside], n)


def quantiles(probs, labels, bins):
    edges = np.quantile(probs.max(axis=1), np.linspace(0, 1, bins + 1))
    return _between(probs, labels, edges[1:-1], "right")


def from_half(probs, labels, bins):
    low = 0.5 if probs.shape[1] == 2 else 0.0
    return _between(probs, labels, np.linspace(low, 1, bins + 1)[1:-1])


def from_chance(probs, labels, bins):
    """Bins on [1/K, 1], K the classes that occur, and for a bin's confidence a number near its centre."""
    confidence, hit = _top(probs, labels)
    low = 1 / len(np.unique(np.concatenate([labels, probs.argmax(axis=1)])))
    index = np.searchsorted(np.linspace(low, 1, bins + 1)[1:-1], confidence, side="right")
    stated = np.linspace(low + 1 / (2 * bins), 1 - 1 / (2 * bins), bins)
    return sum(np.mean(index == b) * abs(hit[index == b].mean() - stated[b]) for b in np.unique(index))


def from_one_over_n(probs, labels, bins):
    return _between(probs, labels, np.linspace(1 / len(labels), 1, bins)[:-1])


def last_bin_left_out(probs, labels, bins, power=2):
    confidence, hit = _top(probs, labels)
    order = np.argsort(confidence, kind="stable")
    size = max(1, len(order) // bins)
    starts = range(0, len(order) - len(order) % size - size, size) if len(order) >= 2 * size else []
    return _of_parts([(confidence[order[s : s + size]], hit[order[s : s + size]]) for s in starts], len(hit), power)


def thresholded(probs, labels, bins, least=0.01):
    """Class by class, equal parts of the probabilities that are at least .01."""
    errors = []
    for k in range(probs.shape[1]):
        kept = probs[:, k] >= least
        p, happened = probs[kept, k], labels[kept] == k
        parts = np.array_split(np.argsort(p, kind="stable"), bins)
        errors.append(_of_parts([(p[part], happened[part]) for part in parts], max(1, len(p))))
    return float(np.mean(errors))


def smooth(probs, labels, bins):
    return of_rows(*_top(probs, labels))


OTHERS = {
    "smooth": Other("smooth calibration error (relplot smECE, apart from p near 1)", smooth, 2e-3, False, "p = 1"),
    "ranked": Other("sorted rows in equal parts, ties as they come (torch-uncertainty, MAPIE array split)", ranked),
    "interpolated": Other("equal mass by interpolated edges, (lo, hi] (focal_calibration AdaptiveECE)", interpolated),
    "quantiles": Other("bins between quantiles (scikit-learn calibration_curve, weighted by count)", quantiles),
    "from_half": Other("bins on [1/2, 1] for two classes (UQ360)", from_half),
    "from_chance": Other("bins on [1/K, 1], stated by their centres (Wenger's pycalib)", from_chance),
    "from_one_over_n": Other("the first bin [0, 1/N], the others equal (fortuna)", from_one_over_n),
    "last_bin_left_out": Other("l2 of equal parts, the surest part left out (Hendrycks calib_err)", last_bin_left_out),
    "thresholded": Other("class by class, p ≥ .01 in equal parts (TACE of robustness_metrics)", thresholded),
}
