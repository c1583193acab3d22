"""Readings that give the same answers: by their formulas, under the registry's names, and which one is simplest."""

from dataclasses import replace

from multismooth.parity.identifying.assembly import round_if_close
from multismooth.parity.reading import SENTENCE_MEANS, changed_fields, settings_text, without_equal_kinds
from multismooth.registry import conventions

NO_DENOMINATOR = {
    "denominator": "target_weight",
    "smooth_denominator": None,
    "z_loss_denominator": None,
    "denominator_add": 0.0,
    "denominator_floor": None,
}


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
    known, fits = {}, {}
    observations = [_first_answers(observation) for observation in observations]
    for convention in dict.fromkeys(conventions.values()):
        known[convention] = _matching_smoothing(convention, readings, observations, rtol, fits)
    return {name: known[convention] for name, convention in conventions.items() if known[convention] is not None}


def _first_answers(observation, number=3):
    """The observation with few of its answers, which are enough to tell two conventions apart."""
    gradient = observation.gradient
    return replace(
        observation,
        logits=observation.logits[:number],
        loss=observation.loss[:number],
        gradient=None if gradient is None else gradient[:number],
    )


def _matching_smoothing(convention, readings, observations, rtol, fits):
    """The ε with which a convention gives the answers of one of the readings, or None.

    fits: whether a reading gives them, for the readings tried so far, by `_what_counts`.
    """
    num_classes = observations[-1].num_classes
    # `smoothing_for` takes every excluded class for one of the K classes, so the excluded ones beyond K are added
    num_classes += sum(k >= num_classes for k in readings[0].convention.exclude)
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
        candidate = replace(reading, convention=convention, label_smoothing=eps)
        alike = _what_counts(candidate)
        if alike not in fits:
            fits[alike] = all(candidate.residual(observation) <= rtol for observation in observations)
        if fits[alike]:
            return eps
    return None


def _what_counts(reading):
    """A key. Readings have the same one only if they differ at most in what their arguments give no meaning to."""
    convention, ignored = reading.convention, reading.ignore_index
    if reading.reduction != SENTENCE_MEANS:  # those have sample weights
        convention = without_equal_kinds(reading, ignored is not None)
    no_meaning = {} if reading.z_loss else {"z_loss_denominator": None}
    if reading.reduction in ("sum", "none"):
        no_meaning |= NO_DENOMINATOR
    if reading.weight is None:
        no_meaning["class_weights"] = "per_term"
    if ignored is None:
        no_meaning["ignore_scope"] = "all"
    arguments = reading.reduction, ignored, reading.z_loss, reading.normalizer
    eps, arrays = round(reading.label_smoothing, 14), (id(reading.weight), id(reading.prior))
    return replace(convention, **no_meaning), eps, *arguments, *arrays


def with_name(reading):
    """The reading's convention with its name in the registry, if it has one, and the label that fn ignores."""
    name = next((n for n, convention in conventions.items() if convention == reading.convention), "")
    return replace(reading.convention, name=name, ignore_index=reading.ignore_index)
