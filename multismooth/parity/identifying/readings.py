"""All readings of a pattern. Answers show class weights up to a factor only; the functions here choose the factor."""

from dataclasses import replace

import numpy as np

from multismooth.parity.identifying.assembly import readings_of_pattern, round_if_close, weight_powers
from multismooth.parity.identifying.denominators import WEIGHTED_KINDS, smoothing_distribution


def readings(observations, pattern, tolerance, has_z_loss=False, known_weight=None):
    """Every Reading with this Pattern.

    known_weight: the class weights, if the caller of `identify` named them. Unknown weights are free up to a factor:
    one such that the convention needs no scale, and for "kl" one such that the entropy is right.
    """
    if known_weight is not None and pattern.weight is not None:
        pattern = _with_known_weight(pattern, known_weight, 1000 * tolerance)
        found = [] if pattern is None else readings_of_pattern(observations, pattern, tolerance, has_z_loss)
        agree = [reading for reading in found if np.allclose(reading.weight, known_weight, rtol=1000 * tolerance)]
        return [replace(reading, weight=known_weight) for reading in agree]
    found = list(readings_of_pattern(observations, pattern, tolerance, has_z_loss))
    others = (other for reading in found for other in _rescalings(reading, observations[0]))
    return found + [_rounded(reading, 100 * tolerance) for reading in others]


def _with_known_weight(pattern, known, rtol):
    """The pattern in the units of the known weights; None where its own are not proportional to them."""
    shown = ~np.isin(np.arange(len(known)), pattern.unseen_weights)
    expected = known
    if pattern.class_weights == "mixture":  # weights of whole rows, (1 − ε′)·w_y + ε′·Σ r·w, up to a factor
        mean = float((smoothing_distribution(pattern) * known).sum())
        design = np.stack([known[shown], np.full(shown.sum(), mean)], axis=1)
        label, smoothing = np.linalg.lstsq(design, pattern.weight[shown])[0]
        expected = (label * known + smoothing * mean) / (label + smoothing)
    ratio = expected[shown] / pattern.weight[shown]
    if np.ptp(ratio) > rtol * np.abs(ratio).max():
        return None
    return replace(pattern, weight=expected, unseen_weights=())


def rescaled(reading, factor, constants_from_z_loss=False):
    """The same loss with class weights `factor` times as large: scale, ε and the denominator's constants follow.

    constants_from_z_loss: the constants show in what the z-loss divides by, not in what the label's term divides by.
    """
    convention, num_classes = reading.convention, reading.convention.receivers(len(reading.weight))
    label_power, smoothing_power = weight_powers(convention, reading.reduction)
    kind = convention.z_loss_denominator or convention.denominator
    z_loss_growth = factor if reading.reduction == "mean" and kind in WEIGHTED_KINDS else 1.0
    growth = z_loss_growth if constants_from_z_loss else factor ** (label_power + 1)
    mass = convention.mass(reading.label_smoothing, num_classes)
    label = convention.scale * (1 - mass) * factor**label_power
    smoothing = convention.scale * mass * factor**smoothing_power
    scale, floor = label + smoothing, convention.denominator_floor
    changed = replace(
        convention,
        scale=scale,
        denominator_add=convention.denominator_add * growth,
        denominator_floor=None if floor is None else floor * growth,
    )
    eps = smoothing / scale / changed.stretch(num_classes) if smoothing else 0.0
    z_loss = reading.z_loss * convention.scale / scale * z_loss_growth
    weight = reading.weight * factor
    return replace(reading, convention=changed, label_smoothing=eps, z_loss=z_loss, weight=weight)


def _rescalings(reading, observation):
    """The reading with other factors of the weights: those with scale 1, and for "kl" those with the observed loss."""
    if reading.weight is None:
        return
    if abs(reading.convention.scale - 1) > 1e-12:
        for factor in _roots(lambda factor: rescaled(reading, factor).convention.scale - 1):
            yield rescaled(reading, factor)
            if reading.convention.z_loss_denominator:
                yield rescaled(reading, factor, constants_from_z_loss=True)
    if reading.convention.objective == "kl" and reading.convention.class_weights == "nll_only":
        for factor in _roots(lambda factor: rescaled(reading, factor).excess(observation)):
            changed = rescaled(reading, factor)
            if 0 <= changed.label_smoothing <= 1:
                yield changed


def _roots(function):
    """The positive factors at which a function changes its sign, by bisection of the factor's logarithm."""
    grid = np.linspace(-9, 9, 37) + 1e-3
    values = [function(np.exp(t)) for t in grid]
    for left, right, low, high in zip(grid, grid[1:], values, values[1:], strict=False):
        if not low * high < 0:
            continue
        for _ in range(60):
            middle = (left + right) / 2
            if low * function(np.exp(middle)) > 0:
                left = middle
            else:
                right = middle
        yield float(np.exp((left + right) / 2))


def _rounded(reading, rtol):
    """The reading with short decimals where they are as good as the fitted numbers."""
    convention = reading.convention
    floor = convention.denominator_floor
    changed = replace(
        convention,
        scale=round_if_close(convention.scale, rtol),
        denominator_add=round_if_close(convention.denominator_add, rtol),
        denominator_floor=None if floor is None else round_if_close(floor, rtol),
    )
    return replace(
        reading,
        convention=changed,
        label_smoothing=round_if_close(reading.label_smoothing, rtol),
        z_loss=round_if_close(reading.z_loss, rtol),
    )
