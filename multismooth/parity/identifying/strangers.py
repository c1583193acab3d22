"""Losses beyond the family of conventions: the formula of one element, linear in unknown factors.

A Stranger has features: functions of logits (N, K), labels and one parameter, each of which gives (N,) numbers. The
loss is a sum of them with factors that are fitted. Features take complex logits, so that a complex step differentiates
them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Stranger(NamedTuple):
    """features(z, y, θ); grid: values of θ to start from, if there is one; describe(θ, factors, n) -> Named or None."""

    features: Callable[..., list]
    describe: Callable[..., Any]
    grid: tuple[float, ...] = ()
    of_teacher: bool = False  # y is the teacher's logits


class Named(NamedTuple):
    """What a loss is: its name with the parameters, the call of this library that computes it, or ""."""

    text: str
    call: str = ""


# --- parts of formulas ----------------------------------------------------------------------------------------------


def log_p(z):
    z = z - z.real.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def own(x, y):
    return x[np.arange(len(y)), y]


def nll(z, y):
    return -own(log_p(z), y)


def spread(z):
    return -log_p(z).mean(-1)


def positive(x):
    return np.where(x.real > 0, x, 0)


def softplus(x):
    return np.log1p(np.exp(-np.where(x.real > 0, x, -x))) + positive(x)


def others(x, y):
    """The sum over the classes that are not the label."""
    return x.sum(-1) - own(x, y)


def largest(z):
    return np.take_along_axis(z, z.real.argmax(-1)[:, None], -1)


def grid(low, high, number=28):
    return tuple(np.exp(np.linspace(np.log(low), np.log(high), number)))


# --- words ----------------------------------------------------------------------------------------------------------


def number(x):
    """A factor as text, rounded to what a fit shows."""
    return f"{round(float(x), 5):.6g}"


def reduced(total, n):
    """(the reduction in words, its keyword) of a loss whose elements have the factor `total`."""
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
    """The call of this library, if the loss is one of its reductions."""
    words, reduction = reduced(sum(factors[:2]), n)
    if "times" in words:
        return ""
    arguments |= {"label_smoothing": smoothing(factors), "reduction": reduction}
    return f"multismooth.{name}(logits, labels, {', '.join(f'{k}={v!r}' for k, v in arguments.items())})"


def temperature(t, f, n):
    if abs(t - 1) < 1e-3:
        return None
    text = f"cross-entropy of softmax(z/T), T = {number(t)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
    return Named(text, "" if "times" in text else _of_scaled(f"logits / {number(t)}", f, n))


def _of_scaled(logits, f, n):
    reduction = reduced(f[0] + f[1], n)[1]
    return f"multismooth.loss({logits}, labels, label_smoothing={number(smoothing(f))}, reduction={reduction!r})"


def soft_cap(c, f, n):
    text = f"cross-entropy of c·tanh(z/c), c = {number(c)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
    return Named(text, call("loss", f, n, logit_softcap=float(number(c))))


def focal(modulation):
    where = {"label": "(1 − p_y)^γ times the loss", "class": "each class's term times (1 − p_k)^γ"}[modulation]

    def describe(gamma, f, n):
        text = f"focal loss, {where}, γ = {number(gamma)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
        if "times the mean" in text:
            text += " (the factor is α)"
        return Named(text, call("focal_loss", f, n, gamma=float(number(gamma)), modulation=modulation))

    return describe


def penalty(_, f, n):
    beta = f[2] / (f[0] + f[1])
    if abs(beta) < 1e-5:
        return None
    text = f"cross-entropy less β times the entropy of p (confidence penalty), β = {number(beta)}{smoothed(f)}; "
    text += reduced(f[0] + f[1], n)[0]
    return Named(text, call("confidence_penalty", f, n, beta=float(number(beta))))


def poly(_, f, n):
    factor = f[2] / (f[0] + f[1])
    if abs(factor) < 1e-5:
        return None
    text = f"cross-entropy plus a·(1 − p_y) (poly-1), a = {number(factor)}{smoothed(f)}; {reduced(f[0] + f[1], n)[0]}"
    return Named(text)


def margins(m, f, n):
    strength = f[2] / (f[0] + f[1])
    if abs(strength) < 1e-5:
        return None
    text = f"cross-entropy plus s·mean max(0, max z − z_k − m), m = {number(m)}, s = {number(strength)}{smoothed(f)}; "
    text += reduced(f[0] + f[1], n)[0]
    options = {"margin": float(number(m)), "strength": float(number(strength))}
    return Named(text, call("margin_smoothing", f, n, **options))


def plain(text):
    return lambda theta, f, n: Named(text.format(number(theta or 0)) + f"; {reduced(f[0], n)[0]}")


def brier(_, f, n):
    if abs(f[1] / f[0] + 2) > 2e-3:
        return None
    return Named(f"squared error of the probabilities (Brier score), Σ(p − onehot)²; {reduced(f[0], n)[0]}")


def squared(_, f, n):
    if abs(f[1] / f[0] + 2) > 2e-3:
        return None
    return Named(f"squared error of the logits, Σ(z − onehot)²: no softmax; {reduced(f[0], n)[0]}")


def sigmoid(_, f, n):
    """on·softplus(−z_y) + (1 − on)·softplus(z_y) + the same with off for the others; f in this order."""
    size = f[2] + f[3]
    if size <= 0 or min(f) < -1e-3 * size:
        return None
    on, off, weight = f[0] / size, f[2] / size, 1.0
    if abs(f[0] + f[1] - size) > 2e-3 * size:
        if abs(off) > 1e-4 or f[1] > 1e-4 * size:
            return None
        weight, on = f[0] / size, 1.0
    eps, share, spread = (off * 2, "ε/2", "") if abs(on + off - 1) < 2e-3 else (off * n, "ε/K", ', spread="all"')
    text = f"sigmoid cross-entropy of every class, targets {number(on)} and {number(off)}"
    text += f", pos_weight {number(weight)}" if weight != 1 else ""
    if spread and abs(on - (1 - eps + off)) > 2e-3:
        return Named(text)
    text += f": (1 − ε)·t + {share}" if off > 1e-5 else ""
    extra = spread + (f", pos_weight={number(weight)}" if weight != 1 else "")
    return Named(text, f"multismooth.binary_loss(logits, rows, label_smoothing={number(max(eps, 0))}{extra}, …)")


def sigmoid_focal(gamma, f, n):
    alpha = f[0] / (f[0] + f[1])
    return Named(f"sigmoid focal loss of every class, γ = {number(gamma)}, α = {number(alpha)}")


def distillation(t, f, n):
    kind = "KL divergence" if abs(f[1] - f[0]) < 1e-3 * abs(f[0]) else "cross-entropy"
    words = reduced(f[0] / t**2, n)[0]
    squared_t = "T² times the " if "times" not in words else "the "
    words = words if "times" not in words else reduced(f[0], n)[0] + ", without the factor T²"
    text = f"distillation: {squared_t}{kind} from softmax(teacher/T) to softmax(z/T), T = {number(t)}; {words}"
    if "times" in words or kind != "KL divergence" or "without" in words:
        return Named(text)
    return Named(text, f"multismooth.distillation_loss(logits, teacher_logits, temperature={number(t)}, …)")


def softened(teacher, t):
    return np.exp(log_p(teacher / t))


def entropy(q):
    return np.broadcast_to((q * np.log(q)).sum(-1), q.shape[:-1]) + 0j


def _focal_class(z, y, gamma):
    lp = log_p(z)
    each = -((1 - np.exp(lp)) ** gamma) * lp
    return [own(each, y), each.mean(-1)]


def _focal_label(z, y, gamma):
    factor = (1 - np.exp(-nll(z, y))) ** gamma
    return [factor * nll(z, y), factor * spread(z)]


def _sigmoid(z, y, _):
    return [own(softplus(-z), y), own(softplus(z), y), others(softplus(-z), y), others(softplus(z), y)]


def _sigmoid_focal(z, y, gamma):
    low, high = np.exp(-gamma * softplus(z)), np.exp(-gamma * softplus(-z))  # (1 − σ)^γ and σ^γ
    return [own(low * softplus(-z), y), others(high * softplus(z), y)]


def _margin(z, y, m, power):
    over = own(np.zeros(z.shape), y)
    return [others(positive(m + z - own(z, y)[:, None]) ** power, y) + over]


def _hardest(z, y, m):
    rest = z.copy()
    rest[np.arange(len(y)), y] = -1e300
    return [positive(m + largest(rest)[:, 0] - own(z, y))]


def _margin_smoothing(z, y, m):
    return [nll(z, y), spread(z), positive(largest(z) - z - m).mean(-1)]


GAMMAS = grid(0.2, 8)
MARGINS = (0.1, 0.2, 0.25, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)  # exact: kinks move
STRANGERS = (
    Stranger(lambda z, y, t: [1 - np.exp(-nll(z, y))], plain("1 − p_y (mean absolute error of the label)")),
    Stranger(lambda z, y, t: [(np.exp(log_p(z)) ** 2).sum(-1), np.exp(-nll(z, y))], brier),
    Stranger(lambda z, y, t: [(z**2).sum(-1), own(z, y)], squared),
    Stranger(lambda z, y, m: _margin(z, y, m, 1), plain("hinge loss Σ max(0, m + z_k − z_y), m = {}"), MARGINS),
    Stranger(lambda z, y, m: _margin(z, y, m, 2), plain("squared hinge, Σ max(0, m + z_k − z_y)², m = {}"), MARGINS),
    Stranger(_hardest, plain("hinge loss of the hardest class, max(0, m + max z_k − z_y), m = {}"), MARGINS),
    Stranger(
        lambda z, y, q: [(1 - np.exp(-q * nll(z, y))) / q],
        plain("generalised cross-entropy (1 − p_y^q)/q, q = {}"),
        grid(0.05, 0.98),
    ),
    Stranger(lambda z, y, t: [nll(z / t, y), spread(z / t)], temperature, grid(0.02, 50)),
    Stranger(_focal_label, focal("label"), GAMMAS),
    Stranger(_focal_class, focal("class"), GAMMAS),
    Stranger(lambda z, y, t: [nll(z, y), spread(z), (np.exp(log_p(z)) * log_p(z)).sum(-1)], penalty),
    Stranger(lambda z, y, t: [nll(z, y), spread(z), 1 - np.exp(-nll(z, y))], poly),
    Stranger(_sigmoid, sigmoid),
    Stranger(_sigmoid_focal, sigmoid_focal, GAMMAS),
    Stranger(lambda z, y, c: [nll(c * np.tanh(z / c), y), spread(c * np.tanh(z / c))], soft_cap, grid(1, 100)),
    Stranger(_margin_smoothing, margins, (*MARGINS, 4.0, 6.0, 8.0, 12.0, 15.0, 20.0)),
)
OF_TEACHERS = (
    Stranger(
        lambda z, y, t: [-(softened(y, t) * log_p(z / t)).sum(-1), entropy(softened(y, t))],
        distillation,
        grid(0.3, 40),
        of_teacher=True,
    ),
    Stranger(
        lambda z, y, t: [((z - y) ** 2).sum(-1)],
        plain("squared difference from the teacher's logits, Σ(z − teacher)²"),
        of_teacher=True,
    ),
)
