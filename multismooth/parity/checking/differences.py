"""Compares two answers to one case, with a tolerance for rounding."""

from typing import NamedTuple

import numpy as np

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Finding(NamedTuple):
    """What one trial found on one case. Status "remark": well-known losses fail there too, so only `strict` fails."""

    status: str  # "pass", "fail", "remark" or "skip"
    message: str = ""
    difference: float | None = None
    tolerance: float | None = None


def tolerance_of(answer, expected, case):
    """A few roundings in the coarsest precision of the two answers and the case."""
    eps = max(answer.precision, expected.precision, EPS[case.dtype])
    return (64 if eps < 1e-6 else 8) * eps


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
    tolerance = tolerance_of(answer, expected, case)
    difference = relative_difference(loss, right, loss_scale(expected, case))
    if difference <= tolerance:
        return Finding("pass", "", difference, tolerance)
    at, where = (), ""
    if right.ndim:
        at = int(np.nanargmax(np.where(np.isfinite(loss - right), np.abs(loss - right), np.inf)))
        where = f" of element {at} (label {case.labels[at]})"
    return Finding("fail", f"loss{where} {_is_and_expected(loss[at], right[at])}", difference, tolerance)


def compare_gradients(answer, expected, case):
    if answer.gradient is None or expected.gradient is None:
        return Finding("skip", "no gradient: only values were compared")
    gradient, right = answer.gradient, expected.gradient
    tolerance = tolerance_of(answer, expected, case)
    difference = relative_difference(gradient, right, gradient_scale(expected, case))
    if difference <= tolerance:
        return Finding("pass", "", difference, tolerance)
    entries = np.nan_to_num(np.where(gradient == right, 0, np.abs(gradient - right)), nan=np.inf)
    n, k = np.unravel_index(entries.argmax(), entries.shape)
    where = f"gradient of element {n} (label {case.labels[n]}) at class {k}"
    return Finding("fail", f"{where} {_is_and_expected(gradient[n, k], right[n, k])}", difference, tolerance)


def _shape_text(loss):
    return f"one loss per element, {len(loss)} of them" if loss.ndim else "one number"


def _is_and_expected(value, right):
    ratio = f" ({value / right:.4g} times it)" if right and np.isfinite(value) and np.isfinite(right) else ""
    return f"is {value:.8g}; expected {right:.8g}{ratio}"


def compare_answers(answer, expected, case):
    """The Finding on the loss if it fails, else the worse one of loss and gradient."""
    loss, gradient = compare_losses(answer, expected, case), compare_gradients(answer, expected, case)
    if loss.status == "fail" or gradient.status == "skip":
        return loss
    return max(gradient, loss, key=lambda finding: (finding.status == "fail", finding.difference))
