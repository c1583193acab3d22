"""Sentences on how two readings of a loss differ, and on what to pass so that they agree."""

from typing import NamedTuple

import numpy as np

from multismooth.convention import DIVIDES_BY
from multismooth.errors import SmoothingError
from multismooth.parity.identification import Identification
from multismooth.parity.reading import Reading, settings_text, without_equal_kinds


class Names(NamedTuple):
    """What the two losses are called in a sentence: "fn divides by …; the reference by …: pass … to fn"."""

    subject: str
    reference: str


def advice(found: Identification, expected: Reading, names: Names, domain, explains_failure):
    """Sentences on how to bring the loss that was identified to the expected one.

    explains_failure(reading): whether it answers the failing case as the loss did. Of the readings that do, the one
    with the fewest differences counts.
    """
    called = _how_called(found, names.subject)
    if not found:
        said = (*called, what_it_is(found, names.subject))
        one = next((one for one in (found.by_layout or {}).values() if one), None)
        return said if one is None else (*advice(one, expected, names, domain, explains_failure), *said)
    readings = [reading for reading in found.readings if explains_failure(reading)]
    if not readings:
        usually, first = settings_text(found.readings[0]), found.readings[0]
        usual = f"on most problems {names.subject} is {usually}, but not where it fails first"
        labels = domain.case("ignored labels").labels
        others = differences(first, expected, names, domain.num_classes, labels)
        others = [said for said in others if " ignores " not in said]  # it may ignore in its loss, if not in its slope
        return (*called, *others, usual if others or called else f"{usual}: look at that case")
    labels = domain.case("ignored labels").labels
    sentences = [differences(reading, expected, names, domain.num_classes, labels) for reading in readings]
    nearest = min(sentences, key=len)
    if not nearest and called:
        return called
    if not nearest:
        same = f"{names.subject} has the formula of {names.reference}"
        if observed_in := found.asked and found.asked["in"].removeprefix("float64").removeprefix("float32"):
            return (f"{same}, computed in about {observed_in}",)
        return (f"on ordinary problems {same}; the first failure is elsewhere",)
    reading = readings[sentences.index(nearest)]
    registered = f" ({', '.join(found.names[:5])})" if found.names else ""
    return (*called, *nearest, f"{names.subject} as it is{registered}: {settings_text(reading)}")


def advice_on_two(identified, names: Names, domain, explains_failure):
    """Sentences on two losses: how the first differs from the second, and what each of them is."""
    first, second = identified
    if not second:
        return (what_it_is(first, names.subject), what_it_is(second, names.reference))
    sentences = advice(first, second.readings[0], names, domain, explains_failure)
    other = Names(names.reference, names.subject)
    return (*sentences, *_how_called(second, other.subject), what_it_is(second, other.subject))


def what_it_is(found: Identification, name):
    """One sentence on a loss that was identified, or on why it was not."""
    if found.readings:
        registered = f" ({', '.join(found.names[:5])})" if found.names else ""
        return f"{name} as it is{registered}: {settings_text(found.readings[0])}"
    if found.family:
        return f"{name} is of no convention: {found.family}" + (f"; {found.call}" if found.call else "")
    return f"{name} is of no convention of this family: {found.why}"


def _how_called(found, name):
    """What a caller of the loss must know, as a tuple of at most one sentence."""
    difference = found.form.difference if found.form else ""
    return (f"{name}: {difference}",) if difference else ()


def differences(found: Reading, expected: Reading, names: Names, num_classes, labels):
    """One sentence per difference of two readings, the target row first."""
    return [
        *_targets(found, expected, names, num_classes),
        *_class_weights(found, expected, names),
        *_objective_and_scale(found, expected, names),
        *_ignored_labels(found, expected, names),
        *_denominators(found, expected, names, labels),
    ]


def _targets(found, expected, names, k):
    a, b = found.convention, expected.convention
    if a.exclude != b.exclude:
        parts = [f"{list(x.exclude) or 'no class'}" for x in (a, b)]
        yield f"{names.subject} gives {parts[0]} no smoothed mass; {names.reference}: {parts[1]}"
        return
    masses = [r.convention.mass(r.label_smoothing, r.convention.receivers(k)) for r in (found, expected)]
    if abs(masses[0] - masses[1]) <= 1e-6:
        return
    over = {"all": "all K classes", "others": "the K − 1 others"}
    texts = [f"spreads ε = {r.label_smoothing:.6g} over {over[r.convention.spread]}" for r in (found, expected)]
    try:
        eps = b.smoothing_for(a, expected.label_smoothing, k)
        remedy = f": pass label_smoothing={eps:.6g} to {names.subject} (K = {k})"
    except SmoothingError:
        remedy = ""
    maps = [" after ε/(1 + ε)" * (c.smoothing_map == "classy") for c in (a, b)]
    yield f"{names.subject} {texts[0]}{maps[0]}; {names.reference} {texts[1]}{maps[1]}{remedy}"


def _class_weights(found, expected, names):
    if (found.weight is None) != (expected.weight is None):
        has, lacks = _has_and_lacks(found.weight, names)
        yield f"{has} has class weights, {lacks} has none: pass weight="
    elif found.weight is not None and found.convention.class_weights != expected.convention.class_weights:
        texts = {
            "per_term": "each class's own term",
            "target": "the whole element, by its label",
            "nll_only": "the label's term only",
            "mixture": "the whole element, by Σ q·w",
        }
        a, b = (texts[reading.convention.class_weights] for reading in (found, expected))
        yield f"{names.subject} weighs {a}; {names.reference} weighs {b}"
    elif found.weight is not None and not np.allclose(
        found.weight / found.weight.sum(), expected.weight / expected.weight.sum()
    ):
        yield f"{names.subject} has the class weights {np.round(found.weight, 4).tolist()}, up to a factor"
    if (found.prior is None) != (expected.prior is None):
        has, lacks = _has_and_lacks(found.prior, names)
        yield f"{has} smooths towards a prior, {lacks} towards 1/K: pass prior="


def _has_and_lacks(of_subject, names):
    return (names.reference, names.subject) if of_subject is None else (names.subject, names.reference)


def _objective_and_scale(found, expected, names):
    a, b = found.convention, expected.convention
    if a.objective != b.objective:
        subject_is_kl = a.objective == "kl"
        kl, other = (names.subject, names.reference) if subject_is_kl else (names.reference, names.subject)
        yield f"{kl} adds Σ q log q (a KL divergence), {other} does not: gradients agree, values do not"
    if abs(a.scale - b.scale) > 1e-6 * b.scale:
        yield f"{names.subject} is {a.scale / b.scale:.6g} times as large: divide it by that"
    if abs(found.z_loss - expected.z_loss) > 1e-9:
        yield f"{names.subject} has z_loss={found.z_loss:.6g}; {names.reference} has {expected.z_loss:.6g}"


def _ignored_labels(found, expected, names):
    scopes = found.convention.ignore_scope, expected.convention.ignore_scope
    if scopes[0] != scopes[1]:
        counts = {"all": "for nothing", "nll_only": "with their smoothing term"}
        a, b = (counts[scope] for scope in scopes)
        yield f"ignored elements count {a} in {names.subject}, {b} in {names.reference}: mask both terms"
    if found.ignore_index != expected.ignore_index:
        labels = (found.ignore_index, expected.ignore_index)
        a, b = ("no label" if label is None else f"the label {label}" for label in labels)
        remedy = f"pass ignore_index={expected.ignore_index}"
        yield f"{names.subject} ignores {a}; {names.reference} ignores {b}: {remedy}"


# --- denominators ---------------------------------------------------------------------------------------------------


def _denominators(found, expected, names, labels):
    if found.reduction != expected.reduction:
        yield f"{names.subject} reduces by {found.reduction!r}; {names.reference} by {expected.reduction!r}"
        return
    if found.reduction != "mean":
        return
    by = [_denominator_text(reading, labels, expected.ignore_index) for reading in (found, expected)]
    both = f"{names.subject} divides by {by[0]}; {names.reference} by {by[1]}"
    if (found.normalizer, expected.normalizer) != (None, None):
        if found.normalizer != expected.normalizer:
            yield both
        return
    ignored_in_both = None not in (found.ignore_index, expected.ignore_index)
    a, b = (without_equal_kinds(reading, ignored_in_both) for reading in (found, expected))
    if a.denominator != b.denominator or a.smooth_denominator != b.smooth_denominator:
        remedy = ""
        if not expected.convention.smooth_denominator:
            remedy = _how_to_divide(without_equal_kinds(expected).denominator, expected.ignore_index)
        yield both + remedy
    if (a.denominator_add, a.denominator_floor) != (b.denominator_add, b.denominator_floor):
        yield (
            f"{names.subject} divides by max(D + {a.denominator_add:g}, {a.denominator_floor}); "
            f"{names.reference} by max(D + {b.denominator_add:g}, {b.denominator_floor})"
        )
    yield from _z_loss_denominators((found, a), (expected, b), names, labels)


def _z_loss_denominators(found, expected, names, labels):
    """found, expected: (reading, its convention without equal kinds)."""
    conventions = found[1], expected[1]
    if all(convention.z_loss_denominator is None for convention in conventions):
        return  # lse² has the denominator of the loss, whose difference was reported already
    if 0 in (found[0].z_loss, expected[0].z_loss):
        return
    kinds = [convention.z_loss_denominator or convention.denominator for convention in conventions]
    if kinds[0] != kinds[1]:
        ignore_index = expected[0].ignore_index
        by = [_kind_text(kind, labels, ignore_index) for kind in kinds]
        both = f"{names.subject} divides its lse² by {by[0]}; {names.reference} by {by[1]}"
        yield both + _how_to_divide(kinds[1], ignore_index)


def _denominator_text(reading, labels, ignore_index):
    """What a mean divides by, with its number on these labels."""
    if reading.normalizer is not None:
        return "the sentences" if reading.normalizer == "sentences" else f"{reading.normalizer:.6g}"
    convention = without_equal_kinds(reading)
    text = _kind_text(convention.denominator, labels, ignore_index)
    if convention.smooth_denominator:
        text += f", and the smoothing term by {_kind_text(convention.smooth_denominator, labels, ignore_index)}"
    return text


def _kind_text(kind, labels, ignore_index):
    """A kind of denominator, with its number on these labels."""
    n, ignored = len(labels), 0 if ignore_index is None else int((labels == ignore_index).sum())
    texts = {
        "counted": f"the {n - ignored} counted elements",
        "nonzero": f"the {n - ignored} counted elements, whatever their sample weights",
        "all": f"all {n} elements" + f", the {ignored} ignored ones included" * bool(ignored),
        "classes": f"all {n} elements times K",
    }
    return texts.get(kind, DIVIDES_BY[kind])


def _how_to_divide(kind, ignore_index):
    """The remedy: a denominator as code, or "" for a kind that has none."""
    labels = "labels != ignore_index" if ignore_index is None else f"labels != {ignore_index}"
    written = {
        "counted": f"({labels}).sum()",
        "nonzero": f"({labels}).sum()",
        "all": "the number of all elements",
        "classes": "the number of logits",
        "target_weight": "weight[labels].sum() over the counted elements",
    }
    return f": divide by {written[kind]}" if kind in written else ""
