"""Readings that give the same answers: by their formulas, under the registry's names, and which one is simplest."""

from dataclasses import replace

from multismooth.parity.identifying.assembly import round_if_close
from multismooth.parity.reading import SENTENCE_MEANS, changed_fields, settings_text
from multismooth.registry import conventions


def variations(reading):
    """Readings that equal this one on every problem: ε through ClassyVision's map, the scale as a normalizer."""
    convention, eps = reading.convention, reading.label_smoothing
    if 0 < eps <= 0.5:
        classy = replace(convention, smoothing_map="classy")
        yield replace(reading, convention=classy, label_smoothing=round_if_close(eps / (1 - eps), 1e-9))
    if reading.reduction == "sum" and convention.scale != 1:
        divided = replace(convention, scale=1.0, denominator="caller")
        normalizer = round_if_close(1 / convention.scale, 1e-9)
        yield replace(reading, convention=divided, reduction="mean", normalizer=normalizer)


def unique(readings):
    """The readings without repetition, the first of equal ones kept."""
    return list({settings_text(reading): reading for reading in reversed(readings)}.values())[::-1]


def simplicity(reading):
    """A sort key: first an ε of few decimals, then few arguments and fields that differ from PyTorch's loss."""
    decimals = next((d for d in range(5) if round(reading.label_smoothing, d) == reading.label_smoothing), 9)
    convention = reading.convention
    arguments = sum(value is not None for value in (reading.weight, reading.prior, reading.normalizer))
    return decimals, len(changed_fields(convention)) + arguments, convention.smoothing_map == "classy"


def matching_names(readings, observations, rtol):
    """{name: ε} of the registry's conventions that give the observed answers in the place of some reading."""
    found, known = {}, {}
    observations = [_first_answers(observation) for observation in observations]
    for name, convention in conventions.items():
        if convention not in known:
            known[convention] = _matching_smoothing(convention, readings, observations, rtol)
        if known[convention] is not None:
            found[name] = known[convention]
    return found


def _first_answers(observation, number=3):
    """The observation with few of its answers, which are enough to tell two conventions apart."""
    gradient = observation.gradient
    return replace(
        observation,
        logits=observation.logits[:number],
        loss=observation.loss[:number],
        gradient=None if gradient is None else gradient[:number],
    )


def _matching_smoothing(convention, readings, observations, rtol):
    """The ε with which a convention gives the answers of one of the readings, or None."""
    num_classes = observations[-1].num_classes
    # `smoothing_for` takes every excluded class for one of the K classes, so the excluded ones beyond K are added
    num_classes += sum(k >= num_classes for k in readings[0].convention.exclude)
    tried = set()  # equal readings often lead to one candidate
    for reading in readings:
        if convention.spread == "others" and reading.prior is not None:
            continue
        by_the_caller = reading.normalizer is not None or reading.reduction == SENTENCE_MEANS
        if reading.reduction in ("mean", SENTENCE_MEANS) and (convention.denominator == "caller") != by_the_caller:
            continue
        try:
            eps = reading.convention.smoothing_for(convention, reading.label_smoothing, num_classes)
        except ValueError:
            continue
        arguments = reading.reduction, reading.ignore_index, reading.z_loss, reading.normalizer
        alike = round(eps, 14), *arguments, id(reading.weight), id(reading.prior)
        if alike in tried:
            continue
        tried.add(alike)
        candidate = replace(reading, convention=convention, label_smoothing=eps)
        if all(candidate.residual(observation) <= rtol for observation in observations):
            return eps
    return None


def with_name(reading):
    """The reading's convention with its name in the registry, if it has one, and the label that fn ignores."""
    name = next((n for n, convention in conventions.items() if convention == reading.convention), "")
    return replace(reading.convention, name=name, ignore_index=reading.ignore_index)
