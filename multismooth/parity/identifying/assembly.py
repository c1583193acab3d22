"""From a pattern and the denominators of its terms to the Readings that have them, with ε and the scale."""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from multismooth.convention import Convention
from multismooth.parity.identifying import factors
from multismooth.parity.identifying.denominators import (
    WEIGHTED_KINDS,
    Denominator,
    fit_denominators,
    smoothing_distribution,
    smoothing_weight,
)
from multismooth.parity.reading import COUNTING_SENTENCES, NOTHING, SENTENCE_LENGTH, SENTENCE_MEANS, SENTENCES, Reading

BY_SENTENCES = (SENTENCES, COUNTING_SENTENCES, SENTENCE_LENGTH)


class Denominators(NamedTuple):
    """Those of the label's term, of the smoothing term and of lse²; None for a term that the loss does not have."""

    label: Denominator | None
    smoothing: Denominator | None
    z_loss: Denominator | None = None

    @property
    def present(self):
        return [denominator for denominator in self if denominator is not None]

    @property
    def numerators(self):
        """Those of the label's and the smoothing term, 0 for an absent term."""
        return [0.0 if denominator is None else denominator.numerator for denominator in self[:2]]

    @property
    def mass(self):
        """ε′ where one of the denominators shows it, or None."""
        return next((denominator.mass for denominator in self.present if denominator.mass is not None), None)

    def belong_together(self):
        """Whether one convention may have them: all divide or none does, all by the caller's number or none."""
        divides = {denominator.kind != "" for denominator in self.present}
        by_the_caller = {denominator.kind in BY_SENTENCES for denominator in self.present}
        return (self.label or self.smoothing) is not None and len(divides) == len(by_the_caller) == 1


def readings_of_pattern(observations, pattern, tolerance, has_z_loss):
    """The Readings of a pattern whose class weights stay as they were fitted."""
    by_kind = [factors.denominators_by_kind(pattern, observation) for observation in observations]
    fits = [factors.fit_factors(pattern, observation, has_z_loss) for observation in observations]
    label, smoothing, z_loss, misfits = np.array(fits).T
    if misfits.max() > 10 * tolerance:
        return
    sizes = [np.nanmax(np.abs(factors)) if np.isfinite(factors).any() else 0.0 for factors in (label, smoothing)]
    mass = _constant_mass(label, smoothing, tolerance)
    of_terms = [
        fit_denominators(factors, by_kind, pattern, 10 * tolerance, mass) if size > tolerance * max(sizes) else [None]
        for factors, size in zip((label, smoothing), sizes, strict=True)
    ]
    of_z_loss, z_loss_rtol = [], 0.0
    if has_z_loss:
        of_z_loss, z_loss_rtol = _fit_z_loss(z_loss, max(sizes), by_kind, pattern, tolerance, mass)
    for pair in product(*of_terms):
        common = _as_z_loss_denominator(pair, (label[0], smoothing[0]), z_loss[0]) if has_z_loss else None
        for own in [common, *(own for own in of_z_loss if common is not None and own.kind != common.kind)]:
            reading = _assembled(Denominators(*pair, own), pattern, observations[0], 100 * tolerance)
            if reading is not None:
                reading = replace(reading, z_loss=round_if_close(reading.z_loss, max(tolerance, z_loss_rtol / 10)))
                yield from _with_spread_and_objective(reading, observations[0].num_classes, tolerance)


def _constant_mass(label, smoothing, tolerance):
    """The smoothing term's part of both factors if it is the same on every problem, else None."""
    with np.errstate(all="ignore"):
        parts = (smoothing / (label + smoothing))[np.isfinite(label + smoothing)]
    return float(parts.mean()) if len(parts) and np.ptp(parts) <= 100 * tolerance else None


def _fit_z_loss(z_loss, largest, by_kind, pattern, tolerance, mass):
    """(the Denominators that lse² may have to itself, the relative tolerance of its factor).

    z_loss may be small beside `largest`, the largest factor of A. It is then known less exactly.
    """
    rtol = 10 * tolerance * max(1.0, largest / np.abs(z_loss).max())
    for limit in (10 * tolerance, rtol) if rtol < 0.1 else ():
        if found := fit_denominators(z_loss, by_kind, pattern, limit, mass):
            return found, rtol
    return [], rtol


def _as_z_loss_denominator(pair, factors, z_loss):
    """The first term's denominator, with the numerator that it has for lse²."""
    for denominator, factor in zip(pair, factors, strict=True):
        if denominator is not None:
            return denominator._replace(numerator=z_loss * denominator.numerator / factor)
    return None


# --- one Reading ----------------------------------------------------------------------------------------------------


def _assembled(denominators, pattern, observation, rtol):
    """The Reading with spread "all" that has these denominators, or None where they do not fit together."""
    if not denominators.belong_together():
        return None
    pattern = _with_class_weights(pattern, denominators)
    if pattern is None:
        return None
    convention = _convention(pattern, denominators)
    averaged = denominators.present[0].kind != ""
    reduction = "none" if observation.per_element else "mean" if averaged else "sum"
    kind = denominators.present[0].kind
    if kind == SENTENCE_LENGTH:
        if pattern.ignore_index is not None:
            return None  # a sum of means divides by what counts alone
        pattern, kind = replace(pattern, sentence_means=True), ""
    label_power, smoothing_power = weight_powers(convention, reduction)
    label, smoothing = denominators.numerators
    weight, factor = pattern.weight, 1.0
    if weight is not None:
        factor = _weight_factor(denominators, label_power - smoothing_power)
        weight, label, smoothing = weight * factor, label * factor**label_power, smoothing * factor**smoothing_power
    scale = label + smoothing
    if not scale > 0:
        return None
    own = denominators.z_loss
    return Reading(
        convention=_with_constants(convention, denominators, scale, factor, rtol),
        label_smoothing=float(smoothing / scale),
        reduction=SENTENCE_MEANS if pattern.sentence_means else reduction,
        ignore_index=pattern.ignore_index,
        weight=weight,
        prior=pattern.prior,
        z_loss=0.0 if own is None else own.numerator * own.growth(factor) / scale,
        normalizer=_normalizer(kind, pattern.sentence_means),
    )


def _normalizer(kind, sentence_means):
    """The Reading's normalizer. Sentence means are of all sentences, unless it says otherwise."""
    if kind == COUNTING_SENTENCES or (kind == "" and sentence_means):
        return kind or NOTHING
    return SENTENCES if kind == SENTENCES and not sentence_means else None


def _with_class_weights(pattern, denominators):
    """The pattern with class weights as a convention has them, up to a factor; None where one would be negative."""
    label, smoothing = denominators.numerators
    mass = denominators.mass
    if mass is None or mass <= 0:
        mass = smoothing / (label + smoothing) if label + smoothing else 0.0
    sums = [d.smoothing_weight for d in denominators.present if d.smoothing_weight is not None]
    if pattern.unseen_weights and sums:
        pattern = _with_inferred_weights(pattern, sums[0])
    if pattern.class_weights == "mixture":
        if mass >= 1:
            return None
        pattern = replace(pattern, weight=_weights_of_labels(pattern, mass))
    return None if pattern.weight is not None and (pattern.weight < 0).any() else pattern


def _with_inferred_weights(pattern, total):
    """The pattern with unseen weights such that Σ r·w is `total`."""
    r = smoothing_distribution(pattern)
    unseen = np.isin(np.arange(len(r)), pattern.unseen_weights)
    if not r[unseen].any():
        return pattern
    rest = (total - (r * pattern.weight)[~unseen].sum()) / r[unseen].sum()
    return replace(pattern, weight=np.where(unseen, rest, pattern.weight), weights_inferred=True)


def _weights_of_labels(pattern, mass):
    """Class weights w from those of whole rows, W_y = (1 − ε′)·w_y + ε′·Σ r·w; 0 for unseen ones."""
    r = smoothing_distribution(pattern)
    shown = ~np.isin(np.arange(len(r)), pattern.unseen_weights)
    if pattern.weights_inferred or shown.all():
        return (pattern.weight - mass * smoothing_weight(pattern)) / (1 - mass)
    expected = (r * pattern.weight)[shown].sum() / (1 - mass + mass * r[shown].sum())
    return np.where(shown, (pattern.weight - mass * expected) / (1 - mass), 0.0)


def _convention(pattern, denominators):
    """The Convention with these denominators, without their constants and without a scale."""
    kinds = [None if d is None else _kind(d, pattern.class_weights) for d in denominators]
    averaged = denominators.present[0].kind != "" or pattern.sentence_means
    return Convention(
        exclude=pattern.exclude,
        class_weights=pattern.class_weights if pattern.weight is not None else "per_term",
        denominator=(kinds[0] or kinds[1]) if averaged else "target_weight",
        smooth_denominator=(kinds[1] or kinds[0]) if averaged else None,
        z_loss_denominator=kinds[2] if averaged else None,
        ignore_scope=pattern.ignore_scope,
        ignore_index=pattern.ignore_index,
    )


def _kind(denominator, class_weights):
    """The kind in the convention. Under "mixture" the fitted weights are those of whole rows: their sum is Σ q·w."""
    if denominator.kind in (*BY_SENTENCES, ""):
        return "caller"
    of_rows = class_weights == "mixture" and denominator.mass is None and denominator.kind == "target_weight"
    return "mixture_weight" if of_rows else denominator.kind


def _with_constants(convention, denominators, scale, weight_factor, rtol):
    """The convention with the scale and the denominators' constants, rounded where a short decimal is as good."""
    add, floor = 0.0, None
    if denominators.present[0].kind != "":
        present = [(d, d.growth(weight_factor)) for d in denominators.present]
        add = next((d.add * growth for d, growth in present if d.add), 0.0)
        floor = next((d.floor * growth for d, growth in present if d.floor is not None), None)
    return replace(
        convention,
        scale=round_if_close(scale, rtol),
        denominator_add=round_if_close(add, rtol),
        denominator_floor=None if floor is None else round_if_close(floor, rtol),
    )


# --- the factor of the class weights --------------------------------------------------------------------------------


def weight_powers(convention, reduction):
    """(label's, smoothing): the power of c by which each term changes where all class weights are multiplied by c."""
    label, smoothing = convention.denominator, convention.smooth_denominator or convention.denominator
    divided = [reduction == "mean" and kind in WEIGHTED_KINDS for kind in (label, smoothing)]
    return divided[0] - 1, divided[1] - (convention.class_weights != "nll_only")


def _weight_factor(denominators, power):
    """The factor of the class weights at which the two terms agree, where ε′ or a constant shows it; else 1.

    power: by how many powers of the factor the label's term changes more than the smoothing term does.
    """
    label, smoothing = denominators.numerators
    if power == 0 or not label or not smoothing:
        return _factor_from_constants(denominators.present[0], denominators.present[-1])
    mass = denominators.mass
    if mass is not None and 0 < mass < 1:
        ratio = smoothing / label * (1 - mass) / mass
        return ratio ** (1 / power) if ratio > 0 else 1.0
    return _factor_from_constants(denominators.label, denominators.smoothing)


def _factor_from_constants(one, other):
    """The factor of the class weights at which two denominators have the same constants, if only one has weights."""
    constants = [one.floor, other.floor]
    constants = constants if all(constants) else [one.add, other.add]
    weighted = [denominator.kind in WEIGHTED_KINDS for denominator in (one, other)]
    if not all(constants) or weighted[0] == weighted[1]:
        return 1.0
    ratio = constants[1] / constants[0] if weighted[0] else constants[0] / constants[1]
    return ratio if ratio > 0 and abs(ratio - 1) > 1e-6 else 1.0


# --- ε --------------------------------------------------------------------------------------------------------------


def _with_spread_and_objective(reading, num_classes, tolerance):
    """The reading with both spreads and both objectives, each with its ε, which must lie in [0, 1]."""
    mass, convention = reading.label_smoothing, reading.convention
    for spread in ("all",) if reading.prior is not None else ("all", "others"):
        stretch = replace(convention, spread=spread).stretch(convention.receivers(num_classes))
        eps = round_if_close(mass / stretch, 10 * tolerance) if stretch else 0.0
        if -tolerance <= eps <= 1 + tolerance:
            for objective in ("cross_entropy", "kl"):
                changed = replace(convention, spread=spread, objective=objective)
                yield replace(reading, convention=changed, label_smoothing=min(max(eps, 0.0), 1.0))


def round_if_close(value, rtol):
    """The number with the fewest decimals that is as good as the fitted one; the fitted one where six are too few."""
    for decimals in range(7):
        rounded = round(float(value), decimals)
        if abs(rounded - value) <= rtol * max(abs(value), 1e-3):
            return rounded
    return float(value)
