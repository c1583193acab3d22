"""Losses beyond the family of conventions, in words and as calls of this library to paste.

A description takes the fitted parameter, the fitted factors, n and K. n is the number of elements, which a mean divides
by. It is 1 for a loss per element, and `SUMMED` for a loss that grows with the number of elements.
"""

from typing import NamedTuple

SUMMED = 0


class Named(NamedTuple):
    """What a loss is: its name with the parameters, the call of this library that computes it, or ""."""

    text: str
    call: str = ""


def number(x):
    """A factor as text, rounded to what a fit shows."""
    return f"{round(float(x), 5) + 0.0:.6g}"  # never −0


def reduced(total, n):
    """(the reduction in words, its keyword) of a loss whose elements have the factor `total`."""
    if n == SUMMED and abs(total - 1) >= 2e-3:
        return f"{number(total)} times the sum", "sum"
    if n == 1:
        return ("one loss per element" if abs(total - 1) < 1e-3 else f"{number(total)} times it, per element"), "none"
    for name, factor in (("mean", total * n), ("sum", total)):
        if abs(factor - 1) < 2e-3:
            return f"reduced by the {name}", name
    return f"{number(total * n)} times the mean", "mean"


def smoothing(factors):
    """ε of the label's and the smoothing term's factors."""
    total = factors[0] + factors[1]
    eps = factors[1] / total if total else 0.0
    return 0.0 if abs(eps) < 1e-5 else float(number(eps))


def smoothed(factors):
    return f", ε = {number(smoothing(factors))}" if smoothing(factors) else ""


def call(name, factors, n, **arguments):
    """The call of this library: one of its reductions, times a number where the loss is that."""
    total = sum(factors[:2])
    reduction = reduced(total, n)[1]
    arguments |= {"label_smoothing": smoothing(factors), "reduction": reduction}
    said = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"{times(total * (n if reduction == 'mean' else 1))}multismooth.{name}(logits, labels, {said})"


def times(factor):
    """A factor before a call; "" where it is 1."""
    return "" if abs(factor - 1) < 2e-3 else f"{factor:.6g} * "


def temperature(t, f, n, k):
    if abs(t - 1) < 1e-3:
        return None
    text = f"cross-entropy of softmax(z/T), T = {number(t)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
    return Named(text, call("loss", f, n).replace("logits", f"logits / {number(t)}", 1))


def soft_cap(c, f, n, k):
    text = f"cross-entropy of c·tanh(z/c), c = {number(c)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
    return Named(text, call("loss", f, n, logit_softcap=float(number(c))))


def focal(modulation):
    where = {"label": "(1 − p_y)^γ times the loss", "class": "each class's term times (1 − p_k)^γ"}[modulation]

    def describe(gamma, f, n, k):
        text = f"focal loss, {where}, γ = {number(gamma)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
        if "times the mean" in text:
            text += " (the factor is α)"
        return Named(text, call("focal_loss", f, n, gamma=float(number(gamma)), modulation=modulation))

    return describe


def penalty(_, f, n, k):
    beta = f[2] / (f[0] + f[1])
    if abs(beta) < 1e-5:
        return None
    text = f"cross-entropy less β times the entropy of p (confidence penalty), β = {number(beta)}{smoothed(f)}; "
    text += reduced(f[0] + f[1], n)[0]
    return Named(text, call("confidence_penalty", f, n, beta=float(number(beta))))


def poly(_, f, n, k):
    factor = f[2] / (f[0] + f[1])
    if abs(factor) < 1e-5:
        return None
    text = f"cross-entropy plus a·(1 − p_y) (poly-1), a = {number(factor)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
    return Named(text)


def margins(m, f, n, k):
    strength = f[2] / (f[0] + f[1])
    if abs(strength) < 1e-5:
        return None
    text = f"cross-entropy plus s·mean max(0, max z − z_k − m), m = {number(m)}, s = {number(strength)}{smoothed(f)}; "
    text += reduced(f[0] + f[1], n)[0]
    options = {"margin": float(number(m)), "strength": float(number(strength))}
    return Named(text, call("margin_smoothing", f, n, **options))


def plain(text):
    return lambda theta, f, n, k: Named(text.format(number(theta or 0)) + f"; {reduced(f[0], n)[0]}")


def brier(_, f, n, k):
    if abs(f[1] / f[0] + 2) > 2e-3:
        return None
    return Named(f"squared error of the probabilities (Brier score), Σ(p − onehot)²; {reduced(f[0], n)[0]}")


def squared(_, f, n, k):
    if abs(f[1] / f[0] + 2) > 2e-3:
        return None
    return Named(f"squared error of the logits, Σ(z − onehot)²: no softmax; {reduced(f[0], n)[0]}")


def sigmoid(_, f, n, k):
    """on·softplus(−z_y) + (1 − on)·softplus(z_y) + the same with off for the others; f in this order."""
    size = f[2] + f[3]
    if size <= 0 or min(f) < -1e-3 * size:
        return None
    on, off, weight = f[0] / size, f[2] / size, 1.0
    if abs(f[0] + f[1] - size) > 2e-3 * size:
        if abs(off) > 1e-4 or f[1] > 1e-4 * size:
            return None
        weight, on = f[0] / size, 1.0
    eps, share, spread = (off * 2, "ε/2", "") if abs(on + off - 1) < 2e-3 else (off * k, "ε/K", ', spread="all"')
    text = f"sigmoid cross-entropy of every class, targets {number(on)} and {number(off)}"
    text += f", pos_weight {number(weight)}" if weight != 1 else ""
    if spread and abs(on - (1 - eps + off)) > 2e-3:
        return Named(text)
    text += f": (1 − ε)·t + {share}" if off > 1e-5 else ""
    said = f"label_smoothing={number(max(eps, 0))}{spread}" + (f", pos_weight={number(weight)}" if weight != 1 else "")
    return Named(text, _of_entries(f"multismooth.binary_loss(logits, rows, {said}, ", size, n, k))


def _of_entries(begun, factor, n, k):
    """The call of a loss of every entry, which has the factor in what fn returns."""
    if n == 1:
        end, rest = ("mean", factor * k) if abs(factor * k - 1) < 2e-3 else ("sum", factor)
        return f"{times(rest)}{begun}reduction='none').{end}(-1)"
    if abs(factor * n * k - 1) < 2e-3:
        return f"{begun}reduction='mean')"
    if n == SUMMED:
        return f"{times(factor)}{begun}reduction='sum')"
    return f"{times(factor * n)}{begun}reduction='mean', normalizer=len(logits))"


def sigmoid_focal(gamma, f, n, k):
    alpha = f[0] / (f[0] + f[1])
    return Named(f"sigmoid focal loss of every class, γ = {number(gamma)}, α = {number(alpha)}")


def distillation(t, f, n, k):
    kind = "KL divergence" if abs(f[1] - f[0]) < 1e-3 * abs(f[0]) else "cross-entropy"
    words = reduced(f[0] / t**2, n)[0]
    squared_t = "T² times the " if "times" not in words else "the "
    words = words if "times" not in words else reduced(f[0], n)[0] + ", without the factor T²"
    text = f"distillation: {squared_t}{kind} from softmax(teacher/T) to softmax(z/T), T = {number(t)}; {words}"
    if kind != "KL divergence":
        return Named(text)
    reduction = reduced(f[0] / t**2, n)[1]
    factor = times(f[0] / t**2 * (n if reduction == "mean" else 1))
    said = f"temperature={number(t)}, reduction={reduction!r}"
    return Named(text, f"{factor}multismooth.distillation_loss(logits, teacher_logits, {said})")
