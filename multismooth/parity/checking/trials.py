"""What is tried on two losses. A trial is a name, the cases that it needs, and a judge of one case.

A judge sees both sides and returns a Finding: "pass", "fail", "remark" (something that well-known losses get wrong
too: it fails under `strict`), or "skip".
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from multismooth.parity.calling.black_box import said
from multismooth.parity.checking import cases
from multismooth.parity.checking.cases import Case
from multismooth.parity.checking.differences import Finding, compare_answers, compare_gradients, compare_losses, largest
from multismooth.parity.checking.subjects import asked


class Trial(NamedTuple):
    name: str
    cases: Callable[..., Iterable[Case]]
    judge: Callable[..., Finding]
    quick: bool = True  # enough to look for the smallest case


# --- judges -----------------------------------------------------------------------------------------------------------


def both(judge):
    """A judge of two answers as a judge of two sides: what if one of them raises?"""

    def judged(a, b, case):
        (wanted, unwanted), (got, error) = asked(b, case), asked(a, case)
        if error and unwanted:
            return Finding("skip", f"both refuse it: {said(error)}")
        if error:
            return Finding("fail", f"raises {said(error)}", float("inf"), 0.0)
        if unwanted:
            return Finding("fail", f"gives {largest(got.loss):.6g}, but {b.name} raises {said(unwanted)}")
        return judge(got, wanted, case)

    return judged


def refused(judge):
    """A judge that asks by itself: what if it is refused?"""

    def judged(a, b, case):
        try:
            return judge(a, b, case)
        except Exception as error:
            return Finding("fail", f"raises {said(error)}", float("inf"), 0.0)

    return judged


def remarked(judge):
    """A judge whose failures are remarks."""

    def judged(a, b, case):
        finding = judge(a, b, case)
        return finding._replace(status="remark") if finding.status == "fail" else finding

    return judged


values = both(compare_losses)
gradients = both(compare_gradients)
everything = both(compare_answers)


@refused
def upstream(a, b, case):
    """Another upstream gradient, and a second backward pass through the same graph."""
    wanted = b.ask(case)
    shape = wanted.loss.shape
    cotangents = [np.ones(shape), np.resize([-2.0, 0.5, 3.0], shape), np.ones(shape)]
    names = ("a backward pass", "another upstream gradient", "a second backward pass")
    slopes = a.pullback(case, cotangents)
    if slopes is None or wanted.gradient is None:
        return Finding("skip", "no automatic differentiation")
    found = []
    for name, cotangent, slope in zip(names, cotangents, slopes, strict=True):
        expected = wanted._replace(gradient=wanted.gradient * cotangent[..., None])
        finding = compare_gradients(a.ask(case)._replace(gradient=slope), expected, case)
        if finding.status == "fail":
            return finding._replace(message=f"{name}: {finding.message}")
        found.append(finding)
    return max(found, key=lambda finding: finding.difference)


@refused
def repeat(a, b, case):
    first, second = a.again(case), a.again(case)
    same = np.array_equal(first.loss, second.loss, equal_nan=True)
    if same and first.gradient is not None:
        same = np.array_equal(first.gradient, second.gradient, equal_nan=True)
    if same:
        return Finding("pass", "", 0.0, 0.0)
    return Finding("fail", f"the same call gives {first.loss.flat[0]:.17g}, then {second.loss.flat[0]:.17g}")


@refused
def untouched(a, b, case):
    return Finding("fail", "writes to its logits or labels") if a.again(case).written else Finding("pass")


def half(a, b, case):
    """float16 and bfloat16: refusing them is a remark."""
    _, error = asked(a, case)
    return Finding("remark", f"does not take {case.dtype}: {said(error)}") if error else everything(a, b, case)


def infinite(got, wanted, case):
    if np.isfinite(wanted.loss).all():
        return compare_answers(got, wanted, case)
    if np.array_equal(np.isinf(got.loss), np.isinf(wanted.loss)):
        return Finding("pass")
    return Finding("fail", f"a smoothed class of probability 0 costs {largest(wanted.loss)}, not {got.loss.max():.6g}")


def empty(a, b, case):
    """A mean over nothing: NaN and refusal are remarks, another number is a failure."""
    finding = everything(a, b, case)
    if finding.status != "fail":
        return finding
    got, error = asked(a, case)
    a_number = not error and got.loss.size > 0 and np.isfinite(got.loss).all()
    return finding if a_number else finding._replace(status="remark")


def compiled(a, b, case):
    subject = a.other_way()
    return Finding("skip", "no compiler") if subject is None else everything(subject, b, case)


def bad_label(a, b, case):
    """A label that names no class: refused or not finite, never taken for a class."""
    bad = ~np.isin(case.labels, range(case.logits.shape[1]))
    if not bad.any():
        return Finding("pass")
    label = int(case.labels[bad][0])
    got, error = asked(a, case)
    if error or not np.isfinite(got.loss[bad] if got.loss.ndim else got.loss).all():
        return Finding("pass")
    k = case.logits.shape[1]
    for other in dict.fromkeys((label % k, 0, k - 1)):
        taken, _ = asked(b, replace(case, labels=np.where(bad, other, case.labels)))
        if taken and compare_losses(got, taken, case).status == "pass":
            return Finding("fail", f"takes the label {label} for class {other}: the wrong class learns, silently")
    return Finding("remark", f"the label {label} names no class, and the loss is {got.loss.flat[0]:.6g} all the same")


def odd_label(a, b, case):
    """The same of two ports: that one refuses what the other takes is a remark, that they differ is a failure."""
    answers = [
        answer if answer and np.isfinite(answer.loss).all() else None for answer, _ in (asked(a, case), asked(b, case))
    ]
    if answers == [None, None]:
        return Finding("pass", "both refuse it")
    if None in answers:
        takes, refuses = (a, b) if answers[1] is None else (b, a)
        return Finding("remark", f"{takes.name} takes the label {case.labels[-1]}, {refuses.name} does not")
    return compare_answers(*answers, case)


# --- cases ------------------------------------------------------------------------------------------------------------


def _batch(ground):
    yield ground.case("a batch")


def _dtypes(ground):
    yield ground.case("single precision", dtype="float32")
    if ground.free:
        yield ground.case("many classes", 3, 4096, ignore=False, dtype="float32")


def _halves(ground):
    for dtype in ("float16", "bfloat16"):
        yield ground.case("half precision", dtype=dtype)


def _large(ground):
    case = ground.case("large logits")
    yield replace(case, logits=16 * case.logits + np.where(np.arange(12) % 2, 1000.0, -1000.0)[:, None])


def _minus_infinity(ground):
    case = ground.case("a logit of −inf")
    z, absent = case.logits.copy(), case.labels.max(initial=0) == 0
    z[0, 1 if absent else next(k for k in range(z.shape[1]) if k != case.labels[0])] = -np.inf
    yield replace(case, logits=z)


def _nothing(ground):
    yield ground.case("an empty batch").rows(slice(0))
    if ground.ignored is not None:
        case = ground.case("all ignored")
        yield replace(case, labels=np.full(12, ground.ignored))


def _ignored_nan(ground):
    if ground.ignored is not None:
        case = ground.case("NaN logits of ignored elements")
        yield replace(case, logits=np.where((case.labels == ground.ignored)[:, None], np.nan, case.logits))


def _strided(ground):
    yield ground.case("strided logits", strided=True)


def _bad_labels(ground):
    for label in (ground.num_classes, -1, -100):
        if label != ground.ignored:
            case = ground.case(f"the label {label}", ignore=False)
            yield replace(case, labels=np.where(np.arange(12) == 11, label, case.labels))


def _masked(ground):
    mask = ground.mask
    if mask is not None:
        for value in (-np.inf, np.nan):
            case = ground.case(f"{value} where masked")
            yield replace(case, logits=np.where(mask, case.logits, value))


def trials(comparing, compile):
    """All trials, in the order in which their failures are told."""
    yield Trial("values", cases.ordinary, values)
    yield Trial("gradients", cases.ordinary, gradients)
    yield Trial("masked", _masked, everything)
    yield Trial("upstream", _batch, upstream)
    yield Trial("repeat", _batch, repeat)
    yield Trial("untouched", _batch, untouched)
    yield Trial("strided", _strided, everything)
    yield Trial("dtypes", _dtypes, everything)
    yield Trial("dtypes", _halves, half)
    yield Trial("extremes", _large, everything)
    yield Trial("extremes", _minus_infinity, remarked(both(infinite)))
    yield Trial("nothing counted", _nothing, empty)
    yield Trial("ignored NaN", _ignored_nan, remarked(everything))
    yield Trial("bad labels", _bad_labels, odd_label if comparing else bad_label)
    if compile:
        yield Trial("compiled", _batch, compiled, quick=False)


NAMES = tuple(dict.fromkeys(trial.name for trial in trials(False, True)))
