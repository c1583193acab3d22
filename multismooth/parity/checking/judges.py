"""The judges of trials: what one loss gives for one case, held against what the other gives.

A judge gets both sides and a case, and returns a Finding: "pass", "fail", "remark" (well-known losses fail there too,
so only `strict` makes it a failure), or "skip".
"""

from dataclasses import replace

import numpy as np

from multismooth.parity.calling.black_box import one_line
from multismooth.parity.checking.differences import (
    Finding,
    compare_answers,
    compare_gradients,
    compare_losses,
    largest,
    worst,
)
from multismooth.parity.checking.subjects import answer_or_error

FLOAT32 = 2.0**-23
FLOAT16_MAX = 65504.0


def of_answers(compare):
    """A judge from a comparison of two answers. It also judges where a side raises."""

    def judge(a, b, case):
        (answer, error), (expected, expected_error) = answer_or_error(a, case), answer_or_error(b, case)
        if error and expected_error:
            return Finding("skip", f"both refuse it: {one_line(error)}")
        if error:
            return Finding("fail", f"raises {one_line(error)}", float("inf"), 0.0)
        if expected_error:
            message = f"gives {largest(answer.loss):.6g}, but {b.name} raises {one_line(expected_error)}"
            return Finding("fail", message)
        return compare(answer, expected, case)

    return judge


def raising_fails(judge):
    """The judge, with a failure where calling a side raises."""

    def judge_or_fail(a, b, case):
        try:
            return judge(a, b, case)
        except Exception as error:
            return Finding("fail", f"raises {one_line(error)}", float("inf"), 0.0)

    return judge_or_fail


def failures_as_remarks(judge):
    """The judge, with remarks in the place of failures."""

    def judge_gently(a, b, case):
        finding = judge(a, b, case)
        return finding._replace(status="remark") if finding.status == "fail" else finding

    return judge_gently


same_loss = of_answers(compare_losses)
same_gradient = of_answers(compare_gradients)
same_answer = of_answers(compare_answers)


def in_a_layout(a, b, case):
    """Another layout. A loss that is not written for it, though it accepts the arrays, gets a remark."""
    finding = same_answer(a, b, case)
    if finding.status != "fail" or a.is_written_for(case.layout):
        return finding
    return finding._replace(status="remark", message=f"not written for this layout, but accepts it: {finding.message}")


def of_soft_rows(a, b, case):
    """Rows of probabilities. A loss that takes one-hot rows for something else than labels gets a remark."""
    finding = same_answer(a, b, case)
    if finding.status != "fail" or a.reads_rows:
        return finding
    return finding._replace(status="remark", message=f"accepts rows, and reads no labels in them: {finding.message}")


@raising_fails
def upstream_gradients(a, b, case):
    """Another upstream gradient, and a second backward pass through the same graph."""
    expected = b.answer(case)
    shape = expected.loss.shape
    cotangents = [np.ones(shape), np.resize([-2.0, 0.5, 3.0], shape), np.ones(shape)]
    names = ("a backward pass", "another upstream gradient", "a second backward pass")
    gradients = a.gradients(case, cotangents)
    if gradients is None or expected.gradient is None:
        return Finding("skip", "no automatic differentiation")
    found = []
    for name, cotangent, gradient in zip(names, cotangents, gradients, strict=True):
        scaled = expected._replace(gradient=expected.gradient * cotangent[..., None])
        finding = compare_gradients(a.answer(case)._replace(gradient=gradient), scaled, case)
        found.append(finding._replace(message=f"{name}: {finding.message}") if finding.status == "fail" else finding)
    return worst(found)


@raising_fails
def same_bits_again(a, b, case):
    first, second = a.new_answer(case), a.new_answer(case)
    same = np.array_equal(first.loss, second.loss, equal_nan=True)
    if same and first.gradient is not None:
        same = np.array_equal(first.gradient, second.gradient, equal_nan=True)
    if same:
        return Finding("pass", "", 0.0, 0.0)
    return Finding("fail", f"the same call gives {first.loss.flat[0]:.17g}, then {second.loss.flat[0]:.17g}")


def exact_enough(a, b, case):
    """A loss that computes in half precision whatever it is given. A comparison is of two of the same precision."""
    observed = getattr(b, "observed", None)
    allowed = max(FLOAT32, observed.precision if observed else 0.0)
    if a.observed.precision <= 1.01 * allowed:
        return Finding("pass", "", a.observed.precision, allowed)
    return Finding("fail", a.observed.text, a.observed.precision, allowed)


@raising_fails
def inputs_untouched(a, b, case):
    changed = a.new_answer(case).inputs_changed
    return Finding("fail", "writes to its logits or labels") if changed else Finding("pass")


def half_precision(a, b, case):
    """float16 and bfloat16: a loss that refuses them gets a remark, and one whose sums leave float16's range."""
    answer, error = answer_or_error(a, case)
    if error:
        return Finding("remark", f"does not take {case.dtype}: {one_line(error)}")
    finding = same_answer(a, b, case)
    overflows = case.dtype == "float16" and largest(case.logits) * case.logits.size > FLOAT16_MAX
    if finding.status == "fail" and overflows and not np.isfinite(answer.loss).all():
        return finding._replace(status="remark", message=f"a sum leaves float16's range: {finding.message}")
    return finding


def infinite_where_expected(answer, expected, case):
    if np.isfinite(expected.loss).all():
        return compare_answers(answer, expected, case)
    if np.array_equal(np.isinf(answer.loss), np.isinf(expected.loss)):
        return Finding("pass")
    got = f"{answer.loss.max():.6g}"
    return Finding("fail", f"a smoothed class of probability 0 costs {largest(expected.loss)}, not {got}")


def nothing_counted(a, b, case):
    """A mean over nothing: NaN and an exception are remarks, another number is a failure."""
    finding = same_answer(a, b, case)
    if finding.status != "fail":
        return finding
    answer, error = answer_or_error(a, case)
    is_number = not error and answer.loss.size > 0 and np.isfinite(answer.loss).all()
    return finding if is_number else finding._replace(status="remark")


def compiled(a, b, case):
    subject = a.with_other_compilation()
    return Finding("skip", "no compiler") if subject is None else same_answer(subject, b, case)


def bad_label(a, b, case):
    """A label that names no class must be refused, or the loss must not be finite."""
    k = case.logits.shape[1]
    bad = ~np.isin(case.labels, range(k))
    if not bad.any():
        return Finding("pass")
    label = int(case.labels[bad][0])
    answer, error = answer_or_error(a, case)
    if error or not np.isfinite(answer.loss[bad] if answer.loss.ndim else answer.loss).all():
        return Finding("pass")
    for other in dict.fromkeys((label % k, 0, k - 1)):
        of_other, _ = answer_or_error(b, replace(case, labels=np.where(bad, other, case.labels)))
        if of_other and compare_losses(answer, of_other, case).status == "pass":
            return Finding("fail", f"takes the label {label} for class {other}: the wrong class learns, silently")
    finite = f"the loss is {answer.loss.flat[0]:.6g} all the same"
    return Finding("remark", f"the label {label} names no class, and {finite}")


def bad_label_in_both(a, b, case):
    """A bad label in two ports. One refuses what the other takes: a remark. They take it and differ: a failure."""
    answers = [answer_or_error(side, case)[0] for side in (a, b)]
    answers = [answer if answer and np.isfinite(answer.loss).all() else None for answer in answers]
    if answers == [None, None]:
        return Finding("pass", "both refuse it")
    if None in answers:
        takes, refuses = (a, b) if answers[1] is None else (b, a)
        return Finding("remark", f"{takes.name} takes the label {case.labels[-1]}, {refuses.name} does not")
    return compare_answers(*answers, case)
