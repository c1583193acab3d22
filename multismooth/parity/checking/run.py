"""All trials on two sides, and what is made of a failure: the smallest case, its code, what the losses are."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from multismooth.errors import complain
from multismooth.parity.checking.differences import compare_answers
from multismooth.parity.checking.report import Outcome
from multismooth.parity.checking.shrink import code, shrink
from multismooth.parity.checking.subjects import Reference, asked
from multismooth.parity.checking.trials import trials
from multismooth.parity.identifying.search import Search

# The trials whose failures the formula of a loss may explain; what the others find is not in the formula.
OF_THE_FORMULA = {"values", "gradients", "masked", "dtypes", "extremes", "ignored NaN", "nothing counted"}


REMEDIES = {
    "upstream": "the gradient must be multiplied by the upstream one, and stay what it was for another backward pass",
    "repeat": "something is kept between calls, or drawn at random",
    "untouched": "write to a copy: the caller, and the backward pass of what came before, still need the logits",
    "strided": "go through the strides, or take a contiguous copy",
    "bad labels": "raise, or give NaN; where callers make sure that it cannot happen, skip=['bad labels']",
}


class Run(NamedTuple):
    """The outcomes; of the first failure its case, code for the smallest one, what to do, what the subjects are."""

    outcomes: tuple[Outcome, ...]
    case: Any = None
    code: str = ""
    remedy: tuple[str, ...] = ()
    identified: tuple = ()


def run(subjects, against, ground, *, weight=None, compile=False, strict=False, skip=()):
    """Try everything on subjects[0] and `against`; a failure is made small, and every subject identified."""
    first, comparing = subjects[0], against in subjects
    outcomes, failed, made = [], None, {}
    for trial in trials(comparing, compile):
        if trial.name in skip:
            outcomes.append(Outcome(trial.name, "all", "skip", "not asked for"))
            continue
        if trial.cases not in made:  # trials share cases, and answers are kept by case
            made[trial.cases] = tuple(trial.cases(ground))
        for case in made[trial.cases]:
            finding = _judged(trial, first, against, case, strict)
            outcomes.append(Outcome(trial.name, str(case), *finding, case.dtype))
            failed = failed or (finding.status == "fail" and (trial, case))
    if not failed:
        return Run(tuple(outcomes))
    trial, case = failed
    small = case
    if trial.quick:
        small = shrink(lambda c: _judged(trial, first, against, c, strict).status == "fail", case, ground)
    identified: tuple = ()
    if trial.name in OF_THE_FORMULA or comparing:
        identified = tuple(Search(subject.box, weight).run() for subject in subjects)
    return Run(
        tuple(outcomes),
        case,
        code(small, first, against),
        () if comparing else _remedy(trial, case, ground),
        identified,
    )


def explaining(subject, case, mask=None):
    """A predicate of readings: does this one answer the failing case as the subject did?"""

    def explains(reading):
        settings = reading.settings("sentences") | ({} if mask is None else {"class_mask": mask})
        wanted, refused = asked(Reference(settings, subject.box.sentences), case)
        if refused:  # labels that the reading has no place for: true unless the loss in fact ignores them
            return _counts_strangers(subject, case)
        got, error = asked(subject, case)
        return bool(error) or compare_answers(got, wanted, case).status == "pass"

    return explains


def _counts_strangers(subject, case):
    """Whether the logits of elements without a class matter."""
    stranger = ~np.isin(case.labels, range(case.logits.shape[1]))
    other = replace(case, logits=np.where(stranger[:, None], case.logits[:, ::-1] + 1.0, case.logits))
    (own, _), (moved, _) = asked(subject, case), asked(subject, other)
    return own is None or moved is None or bool((own.loss != moved.loss).any())


def _remedy(trial, case, ground):
    k = case.logits.shape[1]
    if k != ground.num_classes:
        return (f"it differs at K = {k} first: if it takes {ground.num_classes} classes only, pass num_classes=",)
    return (REMEDIES[trial.name],) if trial.name in REMEDIES else ()


def _judged(trial, a, b, case, strict):
    finding = trial.judge(a, b, case)
    return finding._replace(status="fail") if strict and finding.status == "remark" else finding


def chosen(argument, names, known):
    """The names, as a tuple; ValueError for one that is not known."""
    names = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in names if name not in known]:
        remedy = "Leave the argument out for all of them."
        raise complain(argument, "names out of " + ", ".join(known), ", ".join(map(repr, unknown)), remedy)
    return names
