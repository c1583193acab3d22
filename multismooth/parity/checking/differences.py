"""How far apart two answers to one case are, and how far they may be."""

from typing import NamedTuple

import numpy as np

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


class Finding(NamedTuple):
    """ "pass", "fail", "remark" (what well-known losses get wrong too: fails under `strict`) or "skip", and why."""

    status: str
    message: str = ""
    difference: float | None = None
    tolerance: float | None = None


def precision(got, wanted, case):
    """The coarsest precision on the way, times a few roundings."""
    eps = max(got.precision, wanted.precision, EPS[case.dtype])
    return (64 if eps < 1e-6 else 8) * eps


def loss_scale(wanted, case):
    """What one rounding of the logits and of the result could do to the loss, divided by the precision."""
    finite = np.where(np.isfinite(case.logits), case.logits, 0)
    slope = np.abs(finite) if wanted.gradient is None else np.abs(finite * np.nan_to_num(wanted.gradient))
    each = slope.sum(-1).max(initial=0) if wanted.loss.ndim else slope.sum()
    return largest(wanted.loss) + each


def gradient_scale(wanted, case):
    """The largest entry, times what the rounding of the logits does to a probability."""
    return largest(wanted.gradient) * (1 + largest(case.logits))


def largest(x):
    x = np.abs(x)
    return float(x[np.isfinite(x)].max(initial=0))


def gap(got, wanted, scale):
    """max |got − wanted| / scale; inf where one is finite and the other is not."""
    same = (got == wanted) | (np.isnan(got) & np.isnan(wanted))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(got - wanted))
    worst = np.nan_to_num(apart, nan=np.inf).max(initial=0)
    return float(worst / scale) if scale else (0.0 if worst == 0 else np.inf)


def compare_losses(got, wanted, case):
    if got.loss.shape != wanted.loss.shape and got.loss.size * wanted.loss.size != 1:
        return Finding("fail", f"returns {_kind(got.loss)}; expected {_kind(wanted.loss)}", float("inf"), 0.0)
    mine, theirs = got.loss.reshape(wanted.loss.shape), wanted.loss
    difference, tolerance = gap(mine, theirs, loss_scale(wanted, case)), precision(got, wanted, case)
    if difference <= tolerance:
        return Finding("pass", "", difference, tolerance)
    at, where = (), ""
    if theirs.ndim:
        at = int(np.nanargmax(np.where(np.isfinite(mine - theirs), np.abs(mine - theirs), np.inf)))
        where = f" of element {at} (label {case.labels[at]})"
    return Finding("fail", f"loss{where} {_versus(mine[at], theirs[at])}", difference, tolerance)


def compare_gradients(got, wanted, case):
    if got.gradient is None or wanted.gradient is None:
        return Finding("skip", "no gradient: only values were compared")
    mine, theirs = got.gradient, wanted.gradient
    difference, tolerance = gap(mine, theirs, gradient_scale(wanted, case)), precision(got, wanted, case)
    if difference <= tolerance:
        return Finding("pass", "", difference, tolerance)
    apart = np.nan_to_num(np.where(mine == theirs, 0, np.abs(mine - theirs)), nan=np.inf)
    n, k = np.unravel_index(apart.argmax(), apart.shape)
    where = f"gradient of element {n} (label {case.labels[n]}) at class {k}"
    return Finding("fail", f"{where} {_versus(mine[n, k], theirs[n, k])}", difference, tolerance)


def _kind(loss):
    return f"one loss per element, {len(loss)} of them" if loss.ndim else "one number"


def _versus(mine, theirs):
    ratio = f" ({mine / theirs:.4g} times it)" if theirs and np.isfinite(mine) and np.isfinite(theirs) else ""
    return f"is {mine:.8g}; expected {theirs:.8g}{ratio}"


def compare_answers(got, wanted, case):
    loss, gradient = compare_losses(got, wanted, case), compare_gradients(got, wanted, case)
    if loss.status == "fail" or gradient.status == "skip":
        return loss
    return max(gradient, loss, key=lambda f: (f.status == "fail", f.difference))
