"""Readings that answer alike: the same by their formulas, the registry's names, and which is plainest."""

from dataclasses import replace

from multismooth.parity.identification import changed, settings_text
from multismooth.parity.identifying.denominators import tidy
from multismooth.registry import conventions


def variations(reading):
    """Readings that are the same on every problem: ε through the map of ClassyVision, a scale as a normalizer."""
    convention, eps = reading.convention, reading.label_smoothing
    if 0 < eps <= 0.5:
        classy = replace(convention, smoothing_map="classy")
        yield replace(reading, convention=classy, label_smoothing=tidy(eps / (1 - eps), 1e-9))
    if reading.reduction == "sum" and convention.scale != 1:
        divided = replace(convention, scale=1.0, denominator="caller")
        normalizer = tidy(1 / convention.scale, 1e-9)
        yield replace(reading, convention=divided, reduction="mean", normalizer=normalizer)


def unique(found):
    """Readings without repetition."""
    return list({settings_text(reading): reading for reading in reversed(found)}.values())[::-1]


def plainness(reading):
    """Sorts readings: an ε of few decimals, then few fields that differ from PyTorch's, then no class weights."""
    decimals = next((d for d in range(5) if round(reading.label_smoothing, d) == reading.label_smoothing), 9)
    convention = reading.convention
    given = sum(x is not None for x in (reading.weight, reading.prior, reading.normalizer))
    return decimals, len(changed(convention)) + given, convention.smoothing_map == "classy"


def names_of(fitting, observations, near):
    """{name: ε} of the registry's conventions that answer alike in some reading's place."""
    found, known = {}, {}
    for name, convention in conventions.items():
        if convention not in known:
            known[convention] = _smoothing_as(convention, fitting, observations, near)
        if known[convention] is not None:
            found[name] = known[convention]
    return found


def _smoothing_as(convention, fitting, observations, near):
    """The ε with which a convention is one of the readings, or None."""
    k = observations[-1].num_classes
    k += sum(place >= k for place in fitting[0].convention.exclude)  # `smoothing_for` takes them all for classes
    for reading in fitting:
        if convention.spread == "others" and reading.prior is not None:
            continue
        if reading.reduction == "mean" and (convention.denominator == "caller") != (reading.normalizer is not None):
            continue
        try:
            eps = reading.convention.smoothing_for(convention, reading.label_smoothing, k)
        except ValueError:
            continue
        tried = replace(reading, convention=convention, label_smoothing=eps)
        if all(tried.residual(o) <= near for o in observations):
            return eps
    return None


def named(reading):
    """The reading's convention under its name in the registry, with the label that fn ignores."""
    name = next((n for n, convention in conventions.items() if convention == reading.convention), "")
    return replace(reading.convention, name=name, ignore_index=reading.ignore_index)
