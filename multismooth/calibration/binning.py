"""Probabilities to bins, and what a bin holds: how many, how sure, how often right. All in float64."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from multismooth.calibration.conventions import ErrorConvention


@dataclass(frozen=True)
class Bins:
    """For each bin: its number of samples, their mean probability, the share of them that happened. NaN where empty."""

    edges: np.ndarray  # (bins + 1,)
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def width_edges(bins: int) -> np.ndarray:
    """i/B for i = 0 … B, each rounded once to float64."""
    return np.arange(bins + 1) / bins


def mass_edges(probabilities: np.ndarray, bins: int) -> np.ndarray:
    """Edges of min(B, N) parts of the sorted values, halfway between neighbours; equal edges become one."""
    values = np.sort(probabilities)
    n = len(values)
    bins = min(bins, n)
    if bins == 0:
        return np.array([0.0, 1.0])
    first = np.arange(1, bins) * (n // bins) + np.minimum(np.arange(1, bins), n % bins)  # of each part but the first
    inner = np.unique((values[first - 1] + values[first]) / 2)
    return np.concatenate([[0.0], inner, [1.0]])


def edges_of(probabilities: np.ndarray, convention: ErrorConvention) -> np.ndarray:
    if convention.binning == "mass":
        return mass_edges(probabilities, convention.bins)
    edges = width_edges(convention.bins)
    return np.append(edges, np.inf) if convention.one == "own" else edges


def assign(probabilities: np.ndarray, edges: np.ndarray, closed: str) -> np.ndarray:
    """The bin of each value. What lies outside the edges belongs to the first or the last bin.

    The guess p·B is corrected by the edges themselves, because p·B is rounded: at B = 10, 0.7·10 is 7, but i/B for
    i = 7 may be the float64 above or below the caller's 0.7. A binary search takes four times as long.
    """
    bins = len(edges) - 1
    if bins < 4 or np.isinf(edges[-1]) or not np.array_equal(edges, np.arange(bins + 1) / bins):
        side: Literal["left", "right"] = "left" if closed == "right" else "right"
        return np.searchsorted(edges[1:-1], probabilities, side=side)
    guess = probabilities * bins
    index = np.minimum(np.maximum(guess, 0, out=guess), bins - 1, out=guess).astype(np.intp)
    low, high = edges[:-1][index], edges[1:][index]
    if closed == "right":
        index -= (probabilities <= low) & (index > 0)
        index += (probabilities > high) & (index < bins - 1)
    else:
        index -= probabilities < low
        index += (probabilities >= high) & (index < bins - 1)
    return np.maximum(index, 0, out=index)


def fill(probabilities: np.ndarray, happened: np.ndarray, edges: np.ndarray, closed: str = "right") -> Bins:
    """What each bin holds."""
    index, bins = assign(probabilities, edges, closed), len(edges) - 1
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Bins(
            edges,
            count,
            np.bincount(index, weights=probabilities, minlength=bins) / count,
            np.bincount(index[happened], minlength=bins) / count,
        )
