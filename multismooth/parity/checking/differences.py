"""Compares two answers to one case, with a tolerance for rounding."""

from typing import NamedTuple

import numpy as np

from multismooth.parity.calling.answers import EPS

FLOAT32_ROUNDING = 3e-7  # relative: constants in float32 are off by 2⁻²⁴, and a loss has a few of them


class Finding(NamedTuple):
    """What one trial found on one case. Status "remark": well-known losses fail there too, so only `strict` fails."""

    status: str  # "pass", "fail", "remark" or "skip"
    message: str = ""
    difference: float | None = None
    tolerance: float | None = None


def tolerance_of(answer, expected, case, scale, part):
    """A few roundings in the coarsest precision of the two answers and the case.

    Of half precision, no more than a few times the noise that was seen: 8 roundings would hide a bend of 5 %.
    part: 0 for the loss, 1 for the gradient.
    """
    eps = max(answer.precision, expected.precision, EPS[case.dtype])
    if eps < 1e-6:
        return 64 * eps
    seen = [side.noise[part] for side in (answer, expected) if side.noise is not None]
    return min(8 * eps, max(4 * max(seen) / scale, eps)) if seen and scale else 8 * eps


def loss_scale(expected, case):
    """How much one rounding of the logits and of the result may change the loss, divided by the precision."""
    finite = np.where(np.isfinite(case.logits), case.logits, 0)
    slope = np.abs(finite) if expected.gradient is None else np.abs(finite * np.nan_to_num(expected.gradient))
    from_logits = slope.sum(-1).max(initial=0) if expected.loss.ndim else slope.sum()
    return largest(expected.loss) + from_logits


def gradient_scale(expected, case):
    """The largest gradient, times how much one rounding of the logits may change a probability."""
    return largest(expected.gradient) * (1 + largest(case.logits))


def largest(x):
    """The largest finite magnitude."""
    x = np.abs(x)
    return float(x[np.isfinite(x)].max(initial=0))


def relative_difference(value, expected, scale):
    """max |value − expected| / scale; inf where one is finite and the other is not."""
    same = (value == expected) | (np.isnan(value) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(value - expected))
    worst = np.nan_to_num(difference, nan=np.inf).max(initial=0)
    return float(worst / scale) if scale else (0.0 if worst == 0 else np.inf)


def compare_losses(answer, expected, case):
    if answer.loss.shape != expected.loss.shape and answer.loss.size * expected.loss.size != 1:
        message = f"returns {_shape_text(answer.loss)}; expected {_shape_text(expected.loss)}"
        return Finding("fail", message, float("inf"), 0.0)
    loss, right = answer.loss.reshape(expected.loss.shape), expected.loss
    scale = loss_scale(expected, case)
    tolerance = tolerance_of(answer, expected, case, scale, 0)
    difference = relative_difference(loss, right, scale)
    if difference <= tolerance:
        return Finding("pass", "", difference, tolerance)
    at, where = (), ""
    if right.ndim:
        at = int(np.nanargmax(np.where(np.isfinite(loss - right), np.abs(loss - right), np.inf)))
        where = f" of element {at}{_label_text(case, at)}"
    return Finding("fail", f"loss{where} {_is_and_expected(loss[at], right[at])}", difference, tolerance)


def compare_gradients(answer, expected, case):
    if answer.gradient is None or expected.gradient is None:
        return Finding("skip", "no gradient: only values were compared")
    gradient, right = answer.gradient, expected.gradient
    scale = gradient_scale(expected, case)
    tolerance = tolerance_of(answer, expected, case, scale, 1)
    difference = relative_difference(gradient, right, scale)
    if difference <= tolerance:
        return Finding("pass", "", difference, tolerance)
    entries = np.nan_to_num(np.where(gradient == right, 0, np.abs(gradient - right)), nan=np.inf)
    n, k = np.unravel_index(entries.argmax(), entries.shape)
    where = f"gradient of element {n}{_label_text(case, n)} at class {k}"
    return Finding("fail", f"{where} {_is_and_expected(gradient[n, k], right[n, k])}", difference, tolerance)


def _shape_text(loss):
    return f"one loss per element, {len(loss)} of them" if loss.ndim else "one number"


def _label_text(case, n):
    return "" if case.labels.ndim == 2 else f" (label {case.labels[n]})"


def _is_and_expected(value, right):
    """Both numbers, to the digits in which they differ, and their ratio where that tells them apart."""
    digits = 8
    while digits < 17 and f"{value:.{digits}g}" == f"{right:.{digits}g}":
        digits += 3
    ratio = f"{value / right:.4g}" if right and np.isfinite(value) and np.isfinite(right) else ""
    text = f" ({ratio} times it)" if ratio else ""
    if ratio == "1":
        text = f" (off by {abs(value / right - 1):.1e} of it)"
    return f"is {value:.{min(digits, 17)}g}; expected {right:.{min(digits, 17)}g}{text}"


def within_float32(finding):
    """Whether it is a failure by no more than float32's rounding, which passes where nothing else fails."""
    return finding.status == "fail" and 0 < (finding.difference or 0) < FLOAT32_ROUNDING


def worst(findings):
    """The failure by the largest difference; where none failed, the Finding of the largest one. The first of equals."""
    return max(findings, key=lambda finding: (finding.status == "fail", finding.difference))


def compare_answers(answer, expected, case):
    """The Finding on the loss if it fails by more than float32's rounding, else the worse one of loss and gradient."""
    loss, gradient = compare_losses(answer, expected, case), compare_gradients(answer, expected, case)
    if gradient.status == "skip" or (loss.status == "fail" and not within_float32(loss)):
        return loss
    return worst((gradient, loss))
