"""What is tried on two losses. A trial is a name, the cases that it needs, and a judge of one case."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from multismooth.parity.checking import judges
from multismooth.parity.checking.cases import Case, standard_cases
from multismooth.parity.checking.differences import Finding


class Trial(NamedTuple):
    name: str
    cases: Callable[..., Iterable[Case]]
    judge: Callable[..., Finding]
    fast: bool = True  # fast enough to be repeated while the failing case is shrunk


# --- cases ------------------------------------------------------------------------------------------------------------


def _batch(domain):
    yield domain.case("a batch")


def _layouts(domain):
    for layout in domain.layouts:
        yield domain.case("a batch", ignore=False, layout=layout)
        if domain.ignore_index is not None:
            yield domain.case("ignored labels", layout=layout)
            yield _a_sentence_ignored(domain, layout)
    if domain.has_sentences and domain.ignore_index is not None:
        yield _a_sentence_ignored(domain, "")


def _a_sentence_ignored(domain, layout):
    case = domain.case("a whole sentence ignored", layout=layout)
    return replace(case, labels=np.where(np.arange(12) < 7, domain.ignore_index, case.labels))


def _rows_of_probabilities(domain):
    if domain.takes_rows:
        case = domain.case("soft rows", ignore=False)
        allowed = np.isin(np.arange(domain.num_classes), list(domain.forbidden_labels), invert=True)
        rows = allowed * np.exp2(np.round(np.random.default_rng(4).normal(size=case.logits.shape)))
        yield replace(case, labels=rows / rows.sum(1, keepdims=True))


def _single_precision(domain):
    yield domain.case("single precision", dtype="float32")
    if domain.any_num_classes:
        yield domain.case("many classes", 3, 4096, ignore=False, dtype="float32")


def _half_precisions(domain):
    for dtype in ("float16", "bfloat16"):
        case = domain.case("half precision", dtype=dtype)
        yield case
        yield replace(case, name="half precision, logits up to 48", logits=8 * case.logits)


def _large_logits(domain):
    case = domain.case("large logits")
    yield replace(case, logits=16 * case.logits + np.where(np.arange(12) % 2, 1000.0, -1000.0)[:, None])


def _minus_infinity(domain):
    case = domain.case("a logit of −inf")
    z, first = case.logits.copy(), case.labels[0]
    all_of_class_0 = case.labels.max(initial=0) == 0
    z[0, 1 if all_of_class_0 else next(k for k in range(z.shape[1]) if k != first)] = -np.inf
    yield replace(case, logits=z)


def _nothing(domain):
    yield domain.case("an empty batch").rows(slice(0))
    if domain.ignore_index is not None:
        case = domain.case("all ignored")
        yield replace(case, labels=np.full(12, domain.ignore_index))


def _ignored_nan(domain):
    if domain.ignore_index is not None:
        case = domain.case("NaN logits of ignored elements")
        yield replace(case, logits=np.where((case.labels == domain.ignore_index)[:, None], np.nan, case.logits))


def _strided(domain):
    yield domain.case("strided logits", strided=True)


def _bad_labels(domain):
    for label in (domain.num_classes, -1, -100):
        if label != domain.ignore_index:
            case = domain.case(f"the label {label}", ignore=False)
            yield replace(case, labels=np.where(np.arange(12) == 11, label, case.labels))


def _masked(domain):
    mask = domain.class_mask
    if mask is not None:
        for value in (-np.inf, np.nan):
            case = domain.case(f"{value} where masked")
            yield replace(case, logits=np.where(mask, case.logits, value))


def trials(comparing, compile):
    """All trials, in the order of a report. comparing: two losses, not a loss and the specification."""
    yield Trial("values", standard_cases, judges.same_loss)
    yield Trial("gradients", standard_cases, judges.same_gradient)
    yield Trial("layouts", _layouts, judges.in_a_layout)
    yield Trial("targets", _rows_of_probabilities, judges.of_soft_rows)
    yield Trial("precision", _batch, judges.exact_enough)
    yield Trial("masked", _masked, judges.same_answer)
    yield Trial("upstream", _batch, judges.upstream_gradients)
    yield Trial("repeat", _batch, judges.same_bits_again)
    yield Trial("untouched", _batch, judges.inputs_untouched)
    yield Trial("strided", _strided, judges.same_answer)
    yield Trial("dtypes", _single_precision, judges.same_answer)
    yield Trial("dtypes", _half_precisions, judges.half_precision)
    yield Trial("extremes", _large_logits, judges.same_answer)
    yield Trial(
        "extremes", _minus_infinity, judges.failures_as_remarks(judges.of_answers(judges.infinite_where_expected))
    )
    yield Trial("nothing counted", _nothing, judges.nothing_counted)
    yield Trial("ignored NaN", _ignored_nan, judges.failures_as_remarks(judges.same_answer))
    yield Trial("bad labels", _bad_labels, judges.bad_label_in_both if comparing else judges.bad_label)
    if compile:
        yield Trial("compiled", _batch, judges.compiled, fast=False)


TRIAL_NAMES = tuple(dict.fromkeys(trial.name for trial in trials(False, True)))
