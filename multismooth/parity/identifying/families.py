"""Names losses that are no convention: fits the formulas of `strangers`, and takes the first that holds."""

from dataclasses import replace

import numpy as np

from multismooth.parity.identifying import adjusted, noise, probes
from multismooth.parity.identifying.descriptions import SUMMED
from multismooth.parity.identifying.strangers import OF_TEACHERS, STRANGERS

KNOWN = "focal, temperature, soft cap, penalty, poly, margins, hinge, squared, sigmoid or distillation"


def named(box, found, precision):
    """The Identification `found`, with the name of the loss where one is known, and else with the reason."""
    if found.fixed_mass:
        return found
    tolerance = max(1e-7, 8 * precision)
    for observation, formulas in _observations(box):
        exact = observation if observation is not None and observation.finite else None
        for stranger in formulas if exact is not None else ():
            if name := _fitted(stranger, exact, tolerance, box):
                return replace(found, family=name.text, call=name.call, why="")
        if exact is not None and formulas is STRANGERS and (text := adjusted.text(exact, max(tolerance, 1e-6))):
            return replace(found, family=text, why="")
    if _is_no_derivative(box, precision):
        detached = "; its gradient is not that of its value: something is detached, or added"
        return replace(found, why=found.why + detached)
    return replace(found, why=f"{found.why}; nor is it a loss that is known here ({KNOWN})")


def _is_no_derivative(box, precision):
    """Whether the gradient is far from the slope of the value along a line. Half precision does not show it."""
    if precision > 1e-6:
        return False
    labels, z = noise.problem(box)
    step = (1e-4 if precision < 1e-12 else 2e-2) * np.random.default_rng(7).normal(size=z.shape)
    try:
        answer, ahead, back = box(z, labels), box(z + step, labels), box(z - step, labels)
    except Exception:
        return False
    if answer.gradient is None:
        return False
    slope, expected = ahead.loss.sum() - back.loss.sum(), 2 * (answer.gradient * step).sum()
    return bool(abs(slope - expected) > 1e-2 * max(abs(slope), abs(expected)))


def _observations(box):
    """(Observation, the formulas to try on it)."""
    k = box.num_classes
    labels = probes.uneven_labels(probes.accepted_labels(box, k), k)
    if box.form.targets == "rows":
        teacher = 2 * np.random.default_rng(8).normal(size=(len(labels), k))
        yield probes.observe_or_none(box, teacher, k, times=4, least=40), OF_TEACHERS
    yield probes.observe_or_none(box, labels, k, times=4, least=40), STRANGERS


def _fitted(stranger, observation, tolerance, box):
    """The Named that fits all answers, or None."""
    problem = _Problem(stranger, observation)
    theta = None
    if stranger.grid:
        errors = [problem.error(theta) for theta in stranger.grid]
        best = int(np.argmin(errors))
        theta = stranger.grid[best]
    if stranger.grid and not errors[best] <= tolerance:
        if errors[best] > 0.2:
            return None
        low, high = (np.log(stranger.grid[max(best - 1, 0)]), np.log(stranger.grid[min(best + 1, len(errors) - 1)]))
        theta = np.exp(_minimum(lambda t: problem.error(np.exp(t)), low, high))
        short = float(f"{theta:.3g}")
        theta = short if problem.error(short) <= max(problem.error(theta), tolerance) else theta
    factors, error = problem.fit(theta)
    if not error <= tolerance or np.abs(factors).max() == 0:
        return None
    n = 1 if observation.per_element else len(observation.labels)
    if n > 1 and _grows(stranger, observation, theta, factors, box):
        n = SUMMED
    return stranger.describe(theta, factors, n, observation.num_classes)


def _grows(stranger, observation, theta, factors, box):
    """Whether the loss of twice as many elements has the same factors: a sum, times a number."""
    labels = np.concatenate([observation.labels] * 2)
    twice = probes.observe_or_none(box, labels, observation.num_classes, times=2, least=40)
    if twice is None or not twice.finite:
        return False
    again, _ = _Problem(stranger, twice).fit(theta)
    return bool(np.abs(again - factors).max() < 0.1 * np.abs(factors).max())


class _Problem:
    """A Stranger's features at the observed logits: values, and slopes along two directions for each element."""

    def __init__(self, stranger, observation):
        self.stranger, self.observation = stranger, observation
        m, n, k = observation.logits.shape
        self.z = observation.logits.reshape(-1, k)
        self.y = np.concatenate([observation.labels] * m)
        loss = self._centred(observation.loss)
        self.expected = [loss / max(np.abs(loss).max(), 1e-300)]
        self.scales = [max(np.abs(loss).max(), 1e-300)]
        self.directions = []
        if observation.gradient is not None:
            size = max(np.abs(observation.gradient).max(), 1e-300)
            for direction in np.random.default_rng(9).normal(size=(2, n, k)):
                self.directions.append(np.concatenate([direction] * m))
                self.expected.append((observation.gradient * direction).sum(-1) / size)
                self.scales.append(size)
        self.right = np.concatenate([x.ravel() for x in self.expected])

    def _centred(self, loss):
        """The loss less a constant, which a formula may leave out. Of a teacher the constant is a part of it."""
        return loss if self.stranger.of_teacher else loss - loss.mean(0)

    def fit(self, theta):
        """(the factors, the largest misfit, relative to the largest entry)."""
        with np.errstate(all="ignore"):
            design = np.stack([np.concatenate(column) for column in self._columns(theta)], axis=1)
        if not np.isfinite(design).all():
            return np.zeros(design.shape[1]), np.inf
        factors = np.linalg.lstsq(design, self.right)[0]
        return factors, float(np.abs(design @ factors - self.right).max())

    def error(self, theta):
        return self.fit(theta)[1]

    def _columns(self, theta):
        m, n, _ = self.observation.logits.shape
        steps = [self.z + 0j, *(self.z + 1e-30j * direction for direction in self.directions)]
        evaluated = [self.stranger.features(z, self.y, theta) for z in steps]
        for number in range(len(evaluated[0])):
            value = np.real(evaluated[0][number]).reshape(m, n)
            value = value if self.observation.per_element else value.sum(1)
            parts = [self._centred(value).ravel() / self.scales[0]]
            parts += [
                np.imag(found[number]) / 1e-30 / scale
                for found, scale in zip(evaluated[1:], self.scales[1:], strict=True)
            ]
            yield parts


def _minimum(function, low, high):
    """Where a function of one minimum has it, by golden sections."""
    ratio = (5**0.5 - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(60):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = function(b)
    return (low + high) / 2
