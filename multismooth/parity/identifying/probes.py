"""The problems on which a loss is observed.

Labels are repeated, absent and ignored. A problem has one element, a dozen or many. K is small and large. On these
problems two conventions that differ in anything give different gradients.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from multismooth import spec
from multismooth.errors import complain
from multismooth.namespace import XP
from multismooth.parity.calling.forms import default_length

OUTSIDE_LABELS = (-100, -1, 255)  # labels that libraries ignore and that usually name no class
FEW_CLASSES, MANY_CLASSES = 3, 40  # other K on which a reading is tried, where fn takes them


@dataclass(frozen=True, eq=False)
class Observation:
    """M answers of fn for one vector of N labels, each with other logits."""

    labels: np.ndarray  # (N,)
    logits: np.ndarray  # (M, N, K)
    loss: np.ndarray  # (M,) or (M, N)
    gradient: Any  # (M, N, K), or None where fn has none
    precision: float
    shape: tuple[int, ...]  # in which fn got the elements: (N,), (B, T) or (B, H, W)

    @property
    def num_classes(self):
        return self.logits.shape[-1]

    @property
    def per_element(self):
        return self.loss.ndim == 2

    @cached_property
    def exponentials(self):
        """(peak, peak − z, exp(z − peak)) of the logits, which every reading of the answers needs."""
        peak, gap = spec.peak_and_gap(self.logits, -1, XP)
        return peak, gap, np.exp(-gap)

    @property
    def finite(self):
        return bool(np.isfinite(self.loss).all() and (self.gradient is None or np.isfinite(self.gradient).all()))


# --- calling fn -----------------------------------------------------------------------------------------------------


def observe(box, labels, num_classes, times=1, scale=1.5, least=8):
    """The Observation of `times` calls.

    Without gradients there are at least `least` calls: 8 are enough for the three unknowns of
    `factors.fit_factors`.
    """
    labels = np.asarray(labels)
    answers, logits = [], []
    for z in random_logits(len(labels), num_classes, scale):
        answers.append(box(z, labels))
        logits.append(z)
        if len(answers) >= (times if answers[0].gradient is not None else max(times, least)):
            break
    gradients = None if answers[0].gradient is None else np.stack([answer.gradient for answer in answers])
    losses = np.stack([answer.loss for answer in answers])
    precision = max(answer.precision for answer in answers)
    return Observation(labels, np.stack(logits), losses, gradients, precision, box.shape(len(labels), num_classes))


def observe_or_none(box, labels, num_classes, like=None, **options):
    """An Observation, or None where fn raises.

    like: an Observation of more elements. A lone element's loss becomes a vector only where that of `like` is one.
    """
    try:
        observation = observe(box, labels, num_classes, **options)
    except Exception:
        return None
    if like is not None and len(labels) == 1:
        shape = (-1, 1) if like.per_element else (-1,)
        observation = replace(observation, loss=observation.loss.reshape(shape))
    return observation


def random_logits(n, num_classes, scale):
    """An endless stream of (n, K) logits; each row has an offset of its own, without which lse² would not show."""
    random = np.random.default_rng((n, num_classes))
    while True:
        yield scale * random.normal(size=(n, num_classes)) + random.normal(size=(n, 1))


def calls_needed(box, num_classes, labels):
    """How many calls determine A: three with gradients, else one loss value per unknown and an eighth more."""
    n = len(labels)
    answer = box(np.zeros((n, num_classes)), labels)
    if answer.gradient is not None:
        return 3
    unknowns = num_classes + 2 if answer.loss.ndim else n * (num_classes + 1) + 1
    if unknowns > 5000:
        raise complain(
            "fn",
            "at most 5000 unknowns where loss values are all there is",
            f"{unknowns}: {n} elements of {num_classes} classes",
            "Let fn return (loss, gradient), or take logits of fewer classes.",
        )
    return unknowns + unknowns // 8 + 3


# --- labels ---------------------------------------------------------------------------------------------------------


def long_length(num_classes):
    """How many elements the long problems have."""
    return 30 if num_classes <= 6 else 2 * default_length(num_classes)


def accepted_labels(box, num_classes):
    """The classes that fn accepts as labels: some conventions refuse the class that they exclude."""
    n = default_length(num_classes)
    classes = np.arange(min(num_classes, n))
    if _gives_finite_loss(box, np.resize(classes, n), num_classes):
        return classes
    alone = [k for k in classes if _gives_finite_loss(box, np.full(n, k), num_classes)]
    accepted = alone[-1] if alone else 0
    beside = (k for k in classes if k in alone or _gives_finite_loss(box, np.resize([k, accepted], n), num_classes))
    return np.array(list(beside))


def _gives_finite_loss(box, labels, num_classes):
    observation = observe_or_none(box, labels, num_classes)
    return observation is not None and observation.finite


def uneven_labels(labels, num_classes):
    """A medium problem: each label at least once, the first ones more often, in random order."""
    n = default_length(num_classes)
    rest = np.resize(np.repeat(labels[: max(len(labels) - 1, 1)], 2), max(n - len(labels), 0))
    return np.random.default_rng(0).permutation(np.concatenate([labels, rest])[:n])


def label_vectors(labels, num_classes):
    """Problems that tell denominators apart: classes absent, many elements, one element at a time."""
    n = default_length(num_classes)
    half = labels[len(labels) // 2 :]
    yield np.resize(half, n)
    yield np.resize(np.repeat(labels, np.arange(len(labels)) % 4 + 1), long_length(num_classes))
    yield np.resize(half, long_length(num_classes))
    for label in labels[:6]:
        yield np.array([label])


def fresh_labels(labels, ignore_index, n):
    """n random labels; every fifth one is ignored where a label is, and the first one counts."""
    chosen = np.random.default_rng(n).choice(labels, size=n)
    if ignore_index is not None:
        chosen[1::5] = ignore_index
    chosen[0] = next((k for k in labels if k != ignore_index), labels[0])
    return chosen
