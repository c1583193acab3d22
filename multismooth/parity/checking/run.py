"""Runs all trials on two sides. Shrinks the first failure to a small case, and identifies the losses."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from multismooth.errors import complain
from multismooth.parity.calling.forms import LAYOUTS
from multismooth.parity.checking.differences import FLOAT32_ROUNDING, compare_answers, within_float32
from multismooth.parity.checking.report import Outcome
from multismooth.parity.checking.shrink import shrink
from multismooth.parity.checking.snippets import code
from multismooth.parity.checking.subjects import Reference, answer_or_error
from multismooth.parity.checking.trials import trials
from multismooth.parity.identifying.identify import identify_box

# The formula of a loss may explain a failure of these trials. What the others find is not in the formula.
FORMULA_TRIALS = {
    "values",
    "gradients",
    "layouts",
    "targets",
    "precision",
    "masked",
    "dtypes",
    "extremes",
    "ignored NaN",
    "nothing counted",
}

REMEDIES = {
    "upstream": "the gradient must be multiplied by the upstream one, and stay what it was for another backward pass",
    "repeat": "something is kept between calls, or drawn at random",
    "untouched": "write to a copy: the caller, and the backward pass of what came before, still need the logits",
    "precision": "cast the logits to float32 before the loss, or skip=['precision'] where it is meant; the formula is "
    "compared within this rounding",
    "strided": "go through the strides, or take a contiguous copy",
    "bad labels": "raise, or give NaN; where callers make sure that it cannot happen, skip=['bad labels']",
}


class Run(NamedTuple):
    """The outcomes of all trials, and what follows from the first failure."""

    outcomes: tuple[Outcome, ...]
    case: Any = None  # of the first failure
    code: str = ""  # of the smallest case that fails in the same way
    remedy: tuple[str, ...] = ()
    identified: tuple = ()  # an Identification of each subject


def run(subjects, against, domain, *, weight=None, compile=False, strict=False, skip=()):
    """Try everything on subjects[0] and `against`; shrink the first failure and identify every subject."""
    first, comparing = subjects[0], against in subjects
    outcomes, failure = _try_everything(first, against, domain, trials(comparing, compile), strict, skip)
    if failure is None:
        return Run(outcomes)
    trial, case = failure
    small = case
    if trial.fast:
        small = shrink(lambda c: _judge(trial, first, against, c, strict).status == "fail", case, domain)
    identified: tuple = ()
    if trial.name in FORMULA_TRIALS or comparing:
        identified = tuple(identify_box(subject.box, weight) for subject in subjects)
    remedy = _single_precision(outcomes)
    remedy += _remedy(trial, case, domain) if trial.name == "precision" or not comparing else ()
    return Run(outcomes, case, code(small, first, against), remedy, identified)


def _try_everything(first, against, domain, trials, strict, skip):
    """(outcomes, the (trial, case) that failed first or None)."""
    outcomes, failure, made = list(_called(first)), None, {}
    for trial in trials:
        if trial.name in skip:
            outcomes.append(Outcome(trial.name, "all", "skip", "left out by skip="))
            continue
        if trial.cases not in made:  # trials share cases, because the subjects cache their answers by case
            made[trial.cases] = tuple(trial.cases(domain))
        for case in made[trial.cases]:
            finding = _judge(trial, first, against, case, strict)
            outcomes.append(Outcome(trial.name, str(case), *finding, case.dtype))
            if failure is None and finding.status == "fail":
                failure = trial, case
    softened = [o.difference for o in outcomes if o.tolerance == FLOAT32_ROUNDING]
    if softened and "precision" not in skip:
        text = _of_single_precision(max(softened))
        outcomes.append(Outcome("precision", "all", "remark", text, max(softened), FLOAT32_ROUNDING))
    return tuple(outcomes), failure


def _single_precision(outcomes):
    """A sentence where something fails by float32's rounding: under `strict`."""
    small = [o.difference for o in outcomes if o.status == "fail" and 0 < (o.difference or 0) < FLOAT32_ROUNDING]
    return (_of_single_precision(max(small)),) if small else ()


def _of_single_precision(largest):
    return (
        f"differences of up to {largest:.1e} are within float32's rounding: a constant or a cast is in float32, or a "
        "term as small is added"
    )


def _called(subject):
    """An Outcome on how the loss has to be called, if that is not fn(logits, labels)."""
    form = subject.box.form
    if form.difference:
        status = "remark" if form.scores == "logits" else "fail"
        yield Outcome("values", "how it is called", status, form.difference)


def _judge(trial, a, b, case, strict):
    """The Finding. Under `strict` a remark is a failure; without it, what is no more than float32's rounding passes."""
    finding = trial.judge(a, b, case)
    if strict:
        return finding._replace(status="fail") if finding.status == "remark" else finding
    if within_float32(finding):
        return finding._replace(status="pass", message="", tolerance=FLOAT32_ROUNDING)
    return finding


def _remedy(trial, case, domain):
    k = case.logits.shape[1]
    if trial.name == "layouts" and case.layout:
        layout = LAYOUTS[case.layout].of_logits
        return (f"it differs in {layout} alone: if it is never called so, pass layouts= without {case.layout!r}",)
    if k != domain.num_classes:
        return (f"it differs at K = {k} first: if it takes {domain.num_classes} classes only, pass num_classes=",)
    return (REMEDIES[trial.name],) if trial.name in REMEDIES else ()


def explains_failure(subject, case, mask=None):
    """A predicate of readings: does this one answer the failing case as the subject did?"""

    def explains(reading):
        settings = reading.settings() | ({} if mask is None else {"class_mask": mask})
        reference = Reference(settings, subject.shape, subject.box.form.targets == "rows")
        expected, refused = answer_or_error(reference, case)
        if refused:  # a label outside the reading's classes: the reading stands unless the subject ignores that label
            return _counts_outside_labels(subject, case)
        answer, error = answer_or_error(subject, case)
        return bool(error) or compare_answers(answer, expected, case).status == "pass"

    return explains


def _counts_outside_labels(subject, case):
    """Whether the loss changes with the logits of elements whose label is no class."""
    if case.labels.ndim == 2:
        return False
    outside = ~np.isin(case.labels, range(case.logits.shape[1]))
    other = replace(case, logits=np.where(outside[:, None], case.logits[:, ::-1] + 1.0, case.logits))
    (answer, _), (changed, _) = answer_or_error(subject, case), answer_or_error(subject, other)
    return answer is None or changed is None or bool((answer.loss != changed.loss).any())


def chosen_names(argument, names, known):
    """The names, as a tuple; ValueError for one that is not known."""
    names = (names,) if isinstance(names, str) else tuple(names)
    if unknown := [name for name in names if name not in known]:
        remedy = "Leave the argument out for all of them."
        raise complain(argument, "names out of " + ", ".join(known), ", ".join(map(repr, unknown)), remedy)
    return names
