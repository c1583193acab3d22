"""The problems to probe a loss with, what it answers, and what a reading of it would have answered.

Labels are repeated, absent and ignored; the elements are 1, a dozen and a long sentence; K is small and large: on
these, two conventions that differ anywhere give different gradients.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from multismooth.convention import Convention
from multismooth.errors import complain
from multismooth.implementations import implementation
from multismooth.numpy import NumpyBackend
from multismooth.problem import Problem, Settings

SENTINELS = (-100, -1, 255)
FEW, MANY = 3, 40  # the other numbers of classes, if fn takes them


class Observation(NamedTuple):
    """M answers for one vector of labels."""

    labels: np.ndarray  # (N,)
    logits: np.ndarray  # (M, N, K)
    loss: np.ndarray  # (M,) or (M, N)
    gradient: Any  # (M, N, K), or None where fn has none
    precision: float
    sentences: int | None

    @property
    def num_classes(self):
        return self.logits.shape[-1]

    @property
    def per_element(self):
        return self.loss.ndim == 2

    @property
    def finite(self):
        return bool(np.isfinite(self.loss).all() and (self.gradient is None or np.isfinite(self.gradient).all()))


@dataclass(frozen=True)
class Reading:
    """A convention with the arguments under which this library computes what fn computes."""

    convention: Convention
    label_smoothing: float
    reduction: str
    ignore_index: int | None = None
    weight: np.ndarray | None = None
    prior: np.ndarray | None = None
    z_loss: float = 0.0
    normalizer: float | str | None = None  # "sentences": the length of the first axis

    def settings(self, sentences=None) -> dict[str, Any]:
        """The keyword arguments of `multismooth.loss` that reproduce fn."""
        settings = {
            "convention": self.convention,
            "label_smoothing": self.label_smoothing,
            "reduction": self.reduction,
            "ignore_index": self.ignore_index,
        }
        optional = {
            "weight": self.weight,
            "prior": self.prior,
            "z_loss": self.z_loss or None,
            "normalizer": sentences if self.normalizer == "sentences" else self.normalizer,
        }
        return settings | {name: value for name, value in optional.items() if value is not None}

    def problem(self, observation, logits):
        """(Problem, Settings) of one of the calls; unchecked, as fn may accept what this library refuses."""
        arguments = self.settings(observation.sentences)
        shaping = {name: arguments.pop(name) for name in ("convention", "reduction", "ignore_index")}
        return Problem(logits, observation.labels, **arguments), Settings(axis=1, **shaping)

    def residual(self, observation):
        """The largest difference from what fn answered, relative to the largest number there, of loss and gradient."""
        gaps = []
        for m, logits in enumerate(observation.logits):
            with np.errstate(all="ignore"), implementation("spec"):
                loss, gradient = NumpyBackend().loss_and_grad(*self.problem(observation, logits))
            if np.shape(loss) != observation.loss[m].shape:
                return np.inf
            gaps.append(_gap(loss, observation.loss[m], 1e-3))
            if observation.gradient is not None:
                gaps.append(_gap(gradient, observation.gradient[m], 1e-300))
        return float(np.nan_to_num(max(gaps), nan=np.inf))

    def excess(self, observation):
        """How much more the summed loss is than what fn answered first."""
        with np.errstate(all="ignore"), implementation("spec"):
            loss, _ = NumpyBackend().loss_and_grad(*self.problem(observation, observation.logits[0]))
        return float(np.sum(loss) - np.sum(observation.loss[0]))


def _gap(ours, theirs, smallest):
    return np.abs(ours - theirs).max() / max(np.abs(theirs).max(), smallest)


# --- asking ---------------------------------------------------------------------------------------------------------


def elements(num_classes):
    """How many elements the middle problems have: they factor, and hold every class up to 34 of them."""
    return 3 * max(min(num_classes, 34) - 1, 1)


def many(num_classes):
    """How many elements the long problems have."""
    return 30 if num_classes <= 6 else 2 * elements(num_classes)


def ask(box, labels, num_classes, times=1, scale=1.5):
    """The Observation of `times` calls with other logits each; without gradients, enough of them for three unknowns."""
    labels = np.asarray(labels)
    answers, logits = [], []
    for z in scores(len(labels), num_classes, scale):
        answers.append(box(z, labels))
        logits.append(z)
        if len(answers) >= (times if answers[0].gradient is not None else max(times, 8)):
            break
    gradients = None if answers[0].gradient is None else np.stack([answer.gradient for answer in answers])
    losses = np.stack([answer.loss for answer in answers])
    precision = max(answer.precision for answer in answers)
    return Observation(labels, np.stack(logits), losses, gradients, precision, box.sentences(len(labels)))


def scores(n, num_classes, scale):
    """Random logits without end, each row with a level of its own so that lse² shows."""
    random = np.random.default_rng((n, num_classes))
    while True:
        yield scale * random.normal(size=(n, num_classes)) + random.normal(size=(n, 1))


def unknowns(box, num_classes, labels):
    """How many calls determine A: three gradients, or one value per unknown and some to spare."""
    n = len(labels)
    answer = box(np.zeros((n, num_classes)), labels)
    if answer.gradient is not None:
        return 3
    count = num_classes + 2 if answer.loss.ndim else n * (num_classes + 1) + 1
    if count > 5000:
        raise complain(
            "fn",
            "at most 5000 unknowns where loss values are all there is",
            f"{count}: {n} elements of {num_classes} classes",
            "Let fn return (loss, gradient), or take logits of fewer classes.",
        )
    return count + count // 8 + 3


def usable(box, num_classes):
    """The labels that fn accepts: some conventions refuse the class that they exclude."""
    n = elements(num_classes)
    everything = np.arange(min(num_classes, n))
    if _answers(box, np.resize(everything, n), num_classes):
        return everything
    alone = [k for k in everything if _answers(box, np.full(n, k), num_classes)]
    good = alone[-1] if alone else 0
    return np.array([k for k in everything if k in alone or _answers(box, np.resize([k, good], n), num_classes)])


def _answers(box, labels, num_classes):
    observation = attempt(box, labels, num_classes)
    return observation is not None and observation.finite


def attempt(box, labels, num_classes, like=None, **options):
    """An Observation, or None where fn raises; a lone element's loss is a vector only where that of `like` is."""
    try:
        observation = ask(box, labels, num_classes, **options)
    except Exception:
        return None
    if like is not None and len(labels) == 1:
        shape = (-1, 1) if like.per_element else (-1,)
        observation = observation._replace(loss=observation.loss.reshape(shape))
    return observation


def compositions(labels, num_classes):
    """Label vectors that tell denominators apart: classes absent, a long sentence, one element at a time."""
    n = elements(num_classes)
    half = labels[len(labels) // 2 :]
    yield np.resize(half, n)
    yield np.resize(np.repeat(labels, np.arange(len(labels)) % 4 + 1), many(num_classes))
    yield np.resize(half, many(num_classes))
    for label in labels[:6]:
        yield np.array([label])


def unseen(labels, ignored, n):
    """Labels of a fresh problem, some of them ignored if any are."""
    chosen = np.random.default_rng(n).choice(labels, size=n)
    if ignored is not None:
        chosen[1::5] = ignored
    chosen[0] = next((k for k in labels if k != ignored), labels[0])
    return chosen


def uneven(labels, num_classes):
    """Each label at least once, the first ones often."""
    n = elements(num_classes)
    rest = np.resize(np.repeat(labels[: max(len(labels) - 1, 1)], 2), max(n - len(labels), 0))
    return np.random.default_rng(0).permutation(np.concatenate([labels, rest])[:n])
