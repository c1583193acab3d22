"""Losses beyond the family of conventions: the formula of one element, linear in unknown factors.

A Stranger has features: functions of logits (N, K), labels and one parameter, each of which gives (N,) numbers. The
loss is a sum of them with factors that are fitted. Features take complex logits, so that a complex step differentiates
them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from multismooth.parity.identifying.descriptions import (
    brier,
    distillation,
    focal,
    margins,
    penalty,
    plain,
    poly,
    sigmoid,
    sigmoid_focal,
    soft_cap,
    squared,
    temperature,
)


class Stranger(NamedTuple):
    """features(z, y, θ); grid: values of θ to start from, if there is one; describe(θ, factors, N, K) -> Named or None.

    N is 1 for a loss per element.
    """

    features: Callable[..., list]
    describe: Callable[..., Any]
    grid: tuple[float, ...] = ()
    of_teacher: bool = False  # y is the teacher's logits


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
