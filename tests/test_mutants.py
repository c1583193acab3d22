"""The checker is checked: `parity.check` catches every broken loss and passes every correct one."""

import re
import warnings
from contextlib import nullcontext, redirect_stdout, suppress
from io import StringIO

import correct_losses
import correct_torch
import mutants
import mutants_formula
import mutants_layouts
import mutants_machine
import pytest
from requirements import need

from multismooth import parity

pytestmark = [pytest.mark.thorough, pytest.mark.filterwarnings("ignore::multismooth.SmoothingWarning")]

MUTANTS = [
    *mutants_formula.FORMULA,
    *mutants_machine.MACHINE,
    *mutants.NUMPY,
    *mutants.JAX,
    *mutants_layouts.LAYOUTS,
]
STRICT = [mutant for mutant in MUTANTS if "strict" in mutant.arguments]
FORMS = {"torch": correct_torch.TORCH, "numpy": correct_losses.NUMPY, "jax": correct_losses.JAX}
PARTS = 5  # tests that a framework's correct losses are split into
OURS = {"torch": (52, 11), "numpy": (42, 12), "jax": (4, 13)}  # how many, and the seed


def checked(case, **more):
    return parity.check(case.fn, framework=case.framework, **{**case.arguments, **more})


def paste(report, fn):
    """Run the code of the smallest case, which one of the two sides may refuse if that is what it shows."""
    refused = report.first.trial == "bad labels" or re.search("raises|does not take", report.first.message)
    with redirect_stdout(StringIO()), warnings.catch_warnings(), suppress(Exception) if refused else nullcontext():
        warnings.simplefilter("ignore")
        exec(report.code, {"fn": fn})


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_mutant_is_caught(mutant):
    need(mutant.framework)
    report = checked(mutant)
    assert not report, "not caught"
    assert report.first.message
    assert report.code, "no failing case to paste"
    assert mutant.says in str(report), str(report)
    raised = "raises" in report.first.message
    assert raised == mutant.says.startswith("raises"), f"{report.first} is not what is wrong with it"
    assert report.advice or not any(report.identified), "identified, but without advice"
    paste(report, mutant.fn)


@pytest.mark.parametrize("mutant", STRICT, ids=str)
def test_robustness_is_remarked_and_asked_for_by_strict_alone(mutant):
    need(mutant.framework)
    report = checked(mutant, strict=False)
    assert report, str(report)
    remarks = [str(outcome) for outcome in report.outcomes if outcome.status == "remark"]
    assert any(mutant.says in remark for remark in remarks), remarks


@pytest.mark.parametrize("name", ["mean_of_sentence_means", "gradient_of_ignored_rows"])
def test_advice_does_not_deny_what_the_loss_does(name):
    """Both ignore −100 in what they return; that identify finds no denominator or mask is something else."""
    need("torch")
    mutant = next(mutant for mutant in MUTANTS if mutant.fn.__name__ == name and mutant.framework == "torch")
    assert "ignores no label" not in str(checked(mutant))


def test_mutants_are_many_and_each_is_named_once(capsys):
    names = [str(mutant) for mutant in MUTANTS]
    assert len(names) == len(set(names))
    assert all(mutant.fn.__doc__ for mutant in MUTANTS)
    assert len(MUTANTS) >= 150
    assert 0 < len(STRICT) <= 8
    with capsys.disabled():
        print(f"\n  {len(MUTANTS)} mutants, {len(STRICT)} of them against strict alone", end=" ")


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("framework", FORMS)
def test_correct_losses_pass(framework, part, capsys):
    need(framework)
    ours = list(correct_losses.ours(framework, *OURS[framework]))
    cases = [*correct_losses.drawn(FORMS[framework][part::PARTS]), *ours[part::PARTS]]
    failures, remarks = [], 0
    for case in cases:
        report = checked(case)
        remarks += sum(outcome.status == "remark" for outcome in report.outcomes)
        if not report:
            failures.append(f"{case}\n{report}")
    assert not failures, f"{len(failures)} of {len(cases)} refused\n" + "\n\n".join(failures[:3])
    with capsys.disabled():
        print(f"\n  {framework}: {len(cases)} correct losses pass, with {remarks} remarks", end=" ")


def test_correct_losses_are_many():
    number = sum(form.number for forms in FORMS.values() for form in forms) + sum(number for number, _ in OURS.values())
    assert number >= 300
    assert sum(map(len, FORMS.values())) >= 35
    assert {form.framework for forms in FORMS.values() for form in forms} == set(OURS)
