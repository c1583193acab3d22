"""All readings of a pattern: class weights that nobody told are free up to a factor, which is chosen here."""

from dataclasses import replace

import numpy as np

from multismooth.parity.identifying.denominators import WEIGHTY, fitted, powers, shares, takers, tidy


def readings(observations, pattern, tolerance, squared=False, given=None):
    """Every Reading with this Pattern; `squared`: is there a z-loss? `given`: the class weights, if they are known.

    Weights that nobody told are free up to a factor: it is chosen such that the convention needs no scale, and for
    "kl" such that the entropy is right.
    """
    if given is not None and pattern.weight is not None:
        pattern = _with_weight(pattern, given, 1000 * tolerance)
        known = [] if pattern is None else fitted(observations, pattern, tolerance, squared)
        return [replace(r, weight=given) for r in known if np.allclose(r.weight, given, rtol=1000 * tolerance)]
    found, near = list(fitted(observations, pattern, tolerance, squared)), 100 * tolerance
    return found + [_tidied(r, near) for reading in found for r in _rescalings(reading, observations[0])]


def _with_weight(pattern, given, near):
    """The pattern in the units of the given weights; None where its own are not proportional to them."""
    shown = ~np.isin(np.arange(len(given)), pattern.hidden)
    target = given
    if pattern.mode == "mixture":  # those of whole rows, (1 − ε′)·w_y + ε′·Σ r·w, up to a factor
        mean = float((shares(pattern) * given).sum())
        design = np.stack([given[shown], np.full(shown.sum(), mean)], axis=1)
        own, smooth = np.linalg.lstsq(design, pattern.weight[shown])[0]
        target = (own * given + smooth * mean) / (own + smooth)
    ratio = target[shown] / pattern.weight[shown]
    if np.ptp(ratio) > near * np.abs(ratio).max():
        return None
    return replace(pattern, weight=target, hidden=())


def rescaled(reading, factor, of_square=False):
    """The same loss with class weights `factor` times as large: scale, ε and the divisor's constants follow.

    of_square: the constants show in what the z-loss divides by, not in what the label's term does.
    """
    convention, classes = reading.convention, takers(reading.convention, len(reading.weight))
    own, smooth = powers(convention, reading.reduction)
    kind = convention.z_loss_denominator or convention.denominator
    square = factor if reading.reduction == "mean" and kind in WEIGHTY else 1.0
    grown = square if of_square else factor ** (own + 1)
    mass = convention.mass(reading.label_smoothing, classes)
    label, smoothing = convention.scale * (1 - mass) * factor**own, convention.scale * mass * factor**smooth
    scale, floor = label + smoothing, convention.denominator_floor
    changed = replace(
        convention,
        scale=scale,
        denominator_add=convention.denominator_add * grown,
        denominator_floor=None if floor is None else floor * grown,
    )
    eps = smoothing / scale / changed.stretch(classes) if smoothing else 0.0
    z_loss = reading.z_loss * convention.scale / scale * square
    weight = reading.weight * factor
    return replace(reading, convention=changed, label_smoothing=eps, z_loss=z_loss, weight=weight)


def _rescalings(reading, observation):
    """The reading with other factors of the weights: scale 1, and for "kl" those with the observed loss."""
    if reading.weight is None:
        return
    if abs(reading.convention.scale - 1) > 1e-12:
        for f in _roots(lambda f: rescaled(reading, f).convention.scale - 1):
            yield rescaled(reading, f)
            if reading.convention.z_loss_denominator:
                yield rescaled(reading, f, of_square=True)
    if reading.convention.objective == "kl" and reading.convention.class_weights == "nll_only":
        each = (rescaled(reading, f) for f in _roots(lambda f: rescaled(reading, f).excess(observation)))
        yield from (r for r in each if 0 <= r.label_smoothing <= 1)


def _roots(function):
    """Where a function of a positive factor changes its sign, by bisection in the logarithm."""
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


def _tidied(reading, near):
    convention = reading.convention
    floor = convention.denominator_floor
    changed = replace(
        convention,
        scale=tidy(convention.scale, near),
        denominator_add=tidy(convention.denominator_add, near),
        denominator_floor=None if floor is None else tidy(floor, near),
    )
    return replace(
        reading,
        convention=changed,
        label_smoothing=tidy(reading.label_smoothing, near),
        z_loss=tidy(reading.z_loss, near),
    )
