"""What the losses beside smoothing must return, from their definitions, in mpmath at 40 digits.

Values are sums of −log p, of entropies and of distances. Gradients are differences of those values, at 60 digits.
"""

from types import SimpleNamespace

import numpy as np
from mpmath import mp, mpf, workdps
from oracle import DIGITS, _dot, _over, _Problem, number

STEP = mpf(10) ** -20


def evaluate(alternative, logits, targets, *, teacher=None, parameters, **settings):
    """(loss, gradient) of one of ALTERNATIVES; the gradient is that of the sum for reduction "none"."""
    problem = _Alternative(alternative, logits, targets, teacher, parameters, settings)
    with workdps(DIGITS):
        loss = problem.loss()
    with workdps(60):
        return loss, problem.gradient()


class _Alternative(_Problem):
    def __init__(self, alternative, logits, targets, teacher, parameters, settings):
        super().__init__(logits, targets, **settings)
        self.alternative = ALTERNATIVES[alternative]
        self.parameters = SimpleNamespace(
            **{name: value if isinstance(value, str) else number(value) for name, value in parameters.items()}
        )
        self.teacher = None if teacher is None else np.moveaxis(np.asarray(teacher), self.axis, -1)

    def element(self, n):
        """The element's loss in four parts, each with a denominator: label, smooth, square (the z-loss), added."""
        found = super().element(n)
        if found is None:
            return None
        found.added = mpf(0)
        there = [k for k in range(self.classes) if self.mask[n][k]]
        z = {k: self.logit(n, k) for k in there}
        self.alternative(self, n, found, there, z, self.parameters)
        if found.ignored:
            found.added = mpf(0)
        return found

    def parts(self, found, denominators):
        label, smooth, square = denominators
        sums = zip((found.label, found.smooth, found.square, found.added), (label, smooth, square, label), strict=True)
        return sum((_over(part, denominator) for part, denominator in sums), mpf(0))

    def loss(self):
        elements = {n: self.element(n) for n in np.ndindex(self.shape)}
        denominators = self.denominators(elements)
        each = np.full(self.shape, mpf(0), dtype=object)
        for n, found in elements.items():
            if found is not None:
                each[n] = self.parts(found, denominators)
        return each if self.reduction == "none" else sum(each.ravel().tolist(), mpf(0))

    def gradient(self):
        gradient = np.full((*self.shape, self.classes), mpf(0), dtype=object)
        denominators = self.denominators({n: self.element(n) for n in np.ndindex(self.shape)})
        self.logits = exact = np.array([number(z) for z in self.logits.ravel()], dtype=object).reshape(gradient.shape)
        for n in np.ndindex(self.shape):
            if self.element(n) is None:
                continue
            for k in np.flatnonzero(self.mask[n]):
                place, ends = (*n, int(k)), []
                middle = exact[place]
                for step in (STEP, -STEP):
                    exact[place] = middle + step
                    ends.append(self.parts(self.element(n), denominators))
                exact[place] = middle
                gradient[place] = (ends[0] - ends[1]) / (2 * STEP)
        return np.moveaxis(gradient, -1, self.axis)


def _surprise(found, k, z):
    return found.lse - z[k] if k in z else mpf(0)


def _rest(found, y):
    """1 − p_y."""
    return sum((p for k, p in enumerate(found.p) if k != y), mpf(0))


def _focal(problem, n, found, there, z, given):
    gamma = given.gamma
    if given.modulation == "label":
        factor = _power(_rest(found, int(problem.targets[n])), gamma)
        found.label, found.smooth = factor * found.label, factor * found.smooth
        return
    constant = found.label - found.scale * _dot(found.a, [_surprise(found, k, z) for k in range(problem.classes)])
    cost = [_power(_rest(found, k), gamma) * _surprise(found, k, z) for k in range(problem.classes)]
    found.label = constant + found.scale * _dot(found.a, cost)
    found.smooth = found.scale * _dot(found.b, cost)


def _power(base, exponent):
    return mpf(1) if exponent == 0 else base**exponent


def _penalty(problem, n, found, there, z, given):
    entropy = -sum((p * mp.log(p) for p in found.p if p), mpf(0))
    found.added = -found.scale * given.beta * entropy


def _margin(problem, n, found, there, z, given):
    top = max(z.values())
    distances = [max(mpf(0), top - z[k] - given.margin) for k in there]
    found.added = found.scale * given.strength * sum(distances, mpf(0)) / len(there)


def _distillation(problem, n, found, there, z, given):
    heat, hard = given.temperature, given.hard_weight
    teacher = {k: number(problem.teacher[n][k]) for k in there}
    q, p = ({k: mp.exp(value / heat) for k, value in logits.items()} for logits in (teacher, z))
    for powers in (q, p):
        total = sum(powers.values())
        for k in powers:
            powers[k] /= total
    divergence = sum((q[k] * mp.log(q[k] / p[k]) for k in there if q[k]), mpf(0))
    found.added = found.scale * (1 - hard) * heat**2 * divergence
    found.label, found.smooth = hard * found.label, hard * found.smooth


ALTERNATIVES = {
    "focal_loss": _focal,
    "confidence_penalty": _penalty,
    "margin_smoothing": _margin,
    "distillation_loss": _distillation,
}
