"""What a mean divides by, fitted to how the factor of a term changes from problem to problem.

A term's factor is numerator/max(D + add, floor). So 1/factor is linear in the right kind of D, and in no other kind.
"""

from itertools import product
from typing import Any, NamedTuple

import numpy as np

WEIGHTED_KINDS = ("target_weight", "mixture_weight")  # the kinds that are proportional to the class weights


class Denominator(NamedTuple):
    """max(D + add, floor) with D of one kind. `numerator` is the term's factor times the denominator.

    kind is "" where the factor is the same on every problem: nothing is divided by.
    """

    kind: str
    numerator: float
    add: float = 0.0
    floor: float | None = None
    mass: float | None = None  # ε′, where a denominator of this kind shows it
    smoothing_weight: float | None = None  # Σ r·w, likewise

    def growth(self, weight_factor):
        """How much the denominator grows where all class weights grow by a factor."""
        return weight_factor if self.kind in WEIGHTED_KINDS else 1.0


class Line(NamedTuple):
    """1/factor = max(slopes·d + add, floor)."""

    slopes: Any
    add: float
    floor: float | None


def smoothing_distribution(pattern):
    """r: where smoothed mass goes."""
    r = np.ones(len(pattern.weight)) if pattern.prior is None else pattern.prior.copy()
    r[list(pattern.exclude)] = 0.0
    return r / r.sum()


def smoothing_weight(pattern):
    """Σ r·w, the mean class weight of the smoothed mass."""
    return float((smoothing_distribution(pattern) * pattern.weight).sum())


def fit_denominators(factors, denominators, pattern, rtol, mass=None):
    """The Denominators that explain a term's factor on every problem: one for each kind that can be told apart.

    denominators: {kind: D} for each problem.
    mass: ε′, where the two terms have the same denominator, which shows in a constant ratio of their factors.
    """
    present = np.isfinite(factors) & (factors != 0)
    if not present.any() or np.ptp(np.sign(factors[present])):
        return []
    sign, reciprocals = np.sign(factors[present][0]), 1 / np.abs(factors[present])
    if np.ptp(reciprocals) <= rtol * reciprocals.max():
        return [Denominator("", float(sign / reciprocals.mean()))]
    found, tried = [], []
    for kind in denominators[0]:
        d = np.array([by_kind[kind] for by_kind in denominators])[present]
        if any(np.allclose(d, other) for other in tried):
            continue  # on these problems this kind equals another one
        tried.append(d)
        line = _fit_line(d[:, None], reciprocals, rtol)
        if line is not None:
            found.append(_denominator(kind, sign / line.slopes[0], line))
    if pattern.weight is not None:
        both = np.array([(by_kind["target_weight"], by_kind["counted"]) for by_kind in denominators])[present]
        line = _fit_line(both, reciprocals, rtol)
        mixture = None if line is None else _mixture_denominator(line, sign, pattern, mass)
        if mixture is not None:
            found.append(mixture)
    return found


def _fit_line(d, reciprocals, rtol):
    """The Line through (d, 1/factor) with the fewest constants, or None. d is (problems, 1 or 2)."""
    lowest = reciprocals.min()
    at_floor = reciprocals <= lowest * (1 + rtol)
    for has_add, has_floor in product((False, True), (False, True)):
        above = ~at_floor if has_floor else np.ones(len(reciprocals), bool)
        columns = np.concatenate([d, np.ones((len(d), int(has_add)))], axis=1)
        if len(np.unique(columns[above].round(9), axis=0)) < columns.shape[1] + (not has_floor):
            continue  # too few different problems for so many unknowns
        slopes = np.linalg.lstsq(columns[above] / reciprocals[above, None], np.ones(above.sum()))[0]
        line = columns @ slopes
        off = np.abs(line / reciprocals - 1)[above].max() > rtol
        if off or abs(slopes[0]) < rtol * reciprocals.max() / d[:, 0].max():
            continue
        below = line[at_floor]
        if has_floor and (below.max() > lowest * (1 + rtol) or below.min() > lowest * (1 - rtol)):
            continue  # what would be at the floor lies above it, or nothing lies below it
        return Line(slopes, float(slopes[-1]) if has_add else 0.0, float(lowest) if has_floor else None)
    return None


def _denominator(kind, numerator, line, *more):
    size = abs(numerator)
    return Denominator(
        kind, float(numerator), line.add * size, None if line.floor is None else line.floor * size, *more
    )


def _mixture_denominator(line, sign, pattern, mass):
    """The Denominator that is a mixture of Σ w_y and the count, with the ε′ that the mixture shows.

    Where a weight with smoothed mass is unseen, the mixture cannot show ε′. It shows Σ r·w instead, if ε′ is known.
    """
    expected = smoothing_weight(pattern)
    of_rows = pattern.class_weights == "mixture"  # then the fitted weights are those of whole rows
    ratio = line.slopes[1] / line.slopes[0]
    unseen = smoothing_distribution(pattern)[list(pattern.unseen_weights)].any()
    if pattern.class_weights != "nll_only" and unseen and mass is not None and 0 < mass < 1:
        expected = -ratio / mass if of_rows else ratio * (1 - mass) / mass
    else:
        mass = -ratio / expected if of_rows else ratio / (ratio + expected)
    if abs(ratio) < 1e-9 * expected or mass >= 1:
        return None
    numerator = sign / ((1 - mass) * line.slopes[0]) if of_rows else sign * (1 - mass) / line.slopes[0]
    return _denominator("target_weight" if of_rows else "mixture_weight", numerator, line, mass, expected)
