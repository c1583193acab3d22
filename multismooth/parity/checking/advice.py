"""What sets one reading of a loss apart from another, in words, and what to pass so that nothing does."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from multismooth.convention import DIVIDES_BY
from multismooth.errors import SmoothingError
from multismooth.parity.identification import Identification, settings_text
from multismooth.parity.identifying.probes import Reading


class Names(NamedTuple):
    """How the two are called in a sentence: "fn divides by …; the reference by …: pass … to fn"."""

    mine: str
    theirs: str


def advice(found: Identification, wanted: Reading, names: Names, ground, explains):
    """Sentences on how to bring what was found to what was wanted; of several readings the nearest one counts.

    explains(reading): whether it answers the failing case as the loss did. One that does not is no explanation.
    """
    if not found:
        return (f"{names.mine} is of no convention of this family: {found.why}",)
    readings = [reading for reading in found.readings if explains(reading)]
    if not readings:
        plain = settings_text(found.readings[0])
        return (f"on most problems {names.mine} is {plain}, but not where it fails first: look at that case",)
    labels = ground.case("ignored labels").labels
    told = [differences(reading, wanted, names, ground.num_classes, labels) for reading in readings]
    nearest = min(told, key=len)
    if not nearest:
        return (f"on ordinary problems {names.mine} has the formula of {names.theirs}; the first failure is elsewhere",)
    reading = readings[told.index(nearest)]
    known = f" ({', '.join(found.names[:5])})" if found.names else ""
    return (*nearest, f"{names.mine} as it is{known}: {settings_text(reading)}")


def differences(mine: Reading, theirs: Reading, names: Names, num_classes, labels):
    """One sentence per difference of two readings, the target row first."""
    sentences = [*_targets(mine, theirs, names, num_classes), *_weights(mine, theirs, names)]
    a, b = mine.convention, theirs.convention
    if a.objective != b.objective:
        kl, other = (names.mine, names.theirs) if a.objective == "kl" else (names.theirs, names.mine)
        sentences.append(f"{kl} adds Σ q log q (a KL divergence), {other} does not: gradients agree, values do not")
    if abs(a.scale - b.scale) > 1e-6 * b.scale:
        sentences.append(f"{names.mine} is {a.scale / b.scale:.6g} times as large: divide it by that")
    if abs(mine.z_loss - theirs.z_loss) > 1e-9:
        sentences.append(f"{names.mine} has z_loss={mine.z_loss:.6g}; {names.theirs} has {theirs.z_loss:.6g}")
    if a.ignore_scope != b.ignore_scope:
        both = {"all": "for nothing", "nll_only": "with their smoothing term"}
        sentences.append(
            f"ignored elements count {both[a.ignore_scope]} in {names.mine}, {both[b.ignore_scope]} in {names.theirs}: "
            "mask both terms"
        )
    return [*sentences, *_labels(mine, theirs, names), *_divisors(mine, theirs, names, labels)]


def _targets(mine, theirs, names, k):
    a, b = mine.convention, theirs.convention
    if a.exclude != b.exclude:
        parts = [f"{list(x.exclude) or 'no class'}" for x in (a, b)]
        yield f"{names.mine} gives {parts[0]} no smoothed mass; {names.theirs}: {parts[1]}"
        return
    rows = [r.convention.mass(r.label_smoothing, r.convention.receivers(k)) for r in (mine, theirs)]
    if abs(rows[0] - rows[1]) <= 1e-6:
        return
    over = {"all": "all K classes", "others": "the K − 1 others"}
    texts = [f"spreads ε = {r.label_smoothing:.6g} over {over[r.convention.spread]}" for r in (mine, theirs)]
    try:
        fit = f": pass label_smoothing={b.smoothing_for(a, theirs.label_smoothing, k):.6g} to {names.mine} (K = {k})"
    except SmoothingError:
        fit = ""
    maps = [" after ε/(1 + ε)" * (c.smoothing_map == "classy") for c in (a, b)]
    yield f"{names.mine} {texts[0]}{maps[0]}; {names.theirs} {texts[1]}{maps[1]}{fit}"


def _weights(mine, theirs, names):
    if (mine.weight is None) != (theirs.weight is None):
        has, lacks = (names.mine, names.theirs) if theirs.weight is None else (names.theirs, names.mine)
        yield f"{has} has class weights, {lacks} has none: pass weight="
    elif mine.weight is not None and mine.convention.class_weights != theirs.convention.class_weights:
        texts = {
            "per_term": "each class's own term",
            "target": "the whole element, by its label",
            "nll_only": "the label's term only",
            "mixture": "the whole element, by Σ q·w",
        }
        a, b = (texts[r.convention.class_weights] for r in (mine, theirs))
        yield f"{names.mine} weighs {a}; {names.theirs} weighs {b}"
    elif mine.weight is not None and not np.allclose(
        mine.weight / mine.weight.sum(), theirs.weight / theirs.weight.sum()
    ):
        yield f"{names.mine} has the class weights {np.round(mine.weight, 4).tolist()}, up to a factor"
    if (mine.prior is None) != (theirs.prior is None):
        has, lacks = (names.mine, names.theirs) if theirs.prior is None else (names.theirs, names.mine)
        yield f"{has} smooths towards a prior, {lacks} towards 1/K: pass prior="


def _labels(mine, theirs, names):
    if mine.ignore_index == theirs.ignore_index:
        return
    a, b = ("no label" if r.ignore_index is None else f"the label {r.ignore_index}" for r in (mine, theirs))
    yield f"{names.mine} ignores {a}; {names.theirs} ignores {b}: pass ignore_index={theirs.ignore_index}"


def _divisors(mine, theirs, names, labels):
    if mine.reduction != theirs.reduction:
        yield f"{names.mine} reduces by {mine.reduction!r}; {names.theirs} by {theirs.reduction!r}"
        return
    if mine.reduction != "mean":
        return
    told_apart = None not in (mine.ignore_index, theirs.ignore_index)
    a, b = (_unweighted(reading, told_apart) for reading in (mine, theirs))
    by = [_divisor(reading, labels, theirs.ignore_index) for reading in (mine, theirs)]
    texts = f"{names.mine} divides by {by[0]}; {names.theirs} by {by[1]}"
    if (mine.normalizer, theirs.normalizer) != (None, None):
        if mine.normalizer != theirs.normalizer:
            yield texts
        return
    if a.denominator != b.denominator or a.smooth_denominator != b.smooth_denominator:
        yield texts + _remedy(theirs)
    if (a.denominator_add, a.denominator_floor) != (b.denominator_add, b.denominator_floor):
        yield (
            f"{names.mine} divides by max(D + {a.denominator_add:g}, {a.denominator_floor}); "
            f"{names.theirs} by max(D + {b.denominator_add:g}, {b.denominator_floor})"
        )
    own = [None if r.z_loss == 0 else c.z_loss_denominator or c.denominator for r, c in ((mine, a), (theirs, b))]
    follow = a.z_loss_denominator is b.z_loss_denominator is None  # then it is said with what the losses divide by
    if None not in own and own[0] != own[1] and not follow:
        by = [_counted(kind, labels, theirs.ignore_index) for kind in own]
        yield (
            f"{names.mine} divides its lse² by {by[0]}; {names.theirs} by {by[1]}"
            + _written(own[1], theirs.ignore_index)
        )


def _unweighted(reading, told_apart=True):
    """The convention, with the elements for a divisor where no weights and no ignored label tell it from another."""
    elements = "counted" if told_apart else "all"
    kinds = dict.fromkeys(("target_weight", "mixture_weight", "nonzero", "counted"), elements)
    convention = reading.convention
    if reading.weight is not None:
        return convention
    fields = ("denominator", "smooth_denominator", "z_loss_denominator")
    return replace(convention, **{field: kinds.get(*[getattr(convention, field)] * 2) for field in fields})


def _divisor(reading, labels, ignored):
    """What a mean divides by, with the numbers that it is on these labels."""
    if reading.normalizer is not None:
        return "the sentences" if reading.normalizer == "sentences" else f"{reading.normalizer:.6g}"
    convention = _unweighted(reading)
    text = _counted(convention.denominator, labels, ignored)
    if convention.smooth_denominator:
        text += f", and the smoothing term by {_counted(convention.smooth_denominator, labels, ignored)}"
    return text


def _counted(kind, labels, ignored):
    """A kind of divisor, with the number that it is on these labels."""
    n, gone = len(labels), 0 if ignored is None else int((labels == ignored).sum())
    texts = {
        "counted": f"the {n - gone} counted elements",
        "nonzero": f"the {n - gone} counted elements, whatever their sample weights",
        "all": f"all {n} elements" + f", the {gone} ignored ones included" * bool(gone),
        "classes": f"all {n} elements times K",
    }
    return texts.get(kind, DIVIDES_BY[kind])


def _remedy(theirs):
    """How the other divisor is written."""
    if theirs.convention.smooth_denominator:
        return ""
    return _written(_unweighted(theirs).denominator, theirs.ignore_index)


def _written(kind, ignored):
    labels = "labels != ignore_index" if ignored is None else f"labels != {ignored}"
    written = {
        "counted": f"({labels}).sum()",
        "nonzero": f"({labels}).sum()",
        "all": "the number of all elements",
        "classes": "the number of logits",
        "target_weight": "weight[labels].sum() over the counted elements",
    }
    return f": divide by {written[kind]}" if kind in written else ""
