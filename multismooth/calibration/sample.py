"""The arguments that all metrics share: logits or probabilities, labels, the class axis, the ignored label."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.dispatch import backend_object
from multismooth.errors import TargetError, complain


@dataclass(frozen=True)
class Sample:
    """Checked scores and labels, the elements in one axis."""

    backend: Any
    scores: Any  # (n, K), an array of the backend, where it was
    labels: np.ndarray  # (n,) int64; 0 where a row does not count
    counted: np.ndarray | None  # (n,) booleans; None: all rows count
    logits: bool  # else probabilities
    shape: tuple[int, ...]  # of the elements, for error messages

    @property
    def classes(self) -> int:
        return self.scores.shape[1]

    @property
    def counted_labels(self) -> np.ndarray:
        return self.labels if self.counted is None else self.labels[self.counted]


def read(logits, targets, probs, ignore_index, axis) -> Sample:
    """The Sample of a metric's arguments; each mistake is an error with a remedy."""
    name, given = one_of(logits, probs)
    backend, z = as_scores(name, given)
    if targets is None:
        raise complain(
            "targets", "the labels", "None", "Call f(logits, targets) or f(probs=…, targets=…).", TargetError
        )
    axis, ignore_index, targets = fitted(backend, z, targets, ignore_index, axis)
    if backend.watched() or backend.traced(z):
        remedy = "Under a trace use calibration.update(state, logits, targets); compute(state) gives the summary."
        raise complain(name, "values that can be read now", "a traced array", remedy)
    seen = backend.values(targets, True)
    if seen is None or backend.values(backend.xp.reshape(z, (-1,))[:1], True) is None:
        remedy = "Gather it (full_tensor(), process_allgather), or update a state with each part and add the states."
        raise complain(name, "an array that this process can read", type(z).__name__, remedy)
    labels = seen.astype(np.int64, copy=False)
    clean = target_checks.labels(labels, z.shape[axis], ignore_index)
    if name == "logits" and (row := backend.first_row(z, axis, True)) is not None:
        slack = target_checks.tolerance(z.dtype)
        target_checks.probabilities(row, slack, lambda: (backend.values(z, True), axis))
    counted = None if clean else (labels != ignore_index).reshape(-1)
    if counted is not None:
        labels = np.where(labels == ignore_index, 0, labels)
    xp = backend.xp
    scores = xp.reshape(z if axis == z.ndim - 1 else xp.moveaxis(z, axis, -1), (-1, z.shape[axis]))
    return Sample(backend, scores, labels.reshape(-1), counted, name == "logits", labels.shape)


def one_of(logits, probs):
    """(name, value) of the one argument that was passed."""
    if (logits is None) == (probs is None):
        got = "neither" if logits is None else "both"
        remedy = "They are never guessed from values: f(logits, targets) or f(probs=…, targets=…)."
        raise complain("logits", "exactly one of logits and probs", got, remedy)
    return ("logits", logits) if probs is None else ("probs", probs)


def as_scores(name, value):
    """(backend, the scores as its array). Lists become NumPy arrays."""
    if isinstance(value, (list, tuple)):
        value = np.asarray(value, dtype=np.float64)
    try:
        backend = backend_object(value)
    except TypeError as error:
        expected = "a torch.Tensor, jax.Array or numpy.ndarray"
        raise complain(name, expected, type(value).__name__, "Convert it with numpy.asarray.", TypeError) from error
    z = backend.take(name, value)
    if backend.kind(z) != "floating":
        raise complain(name, "a floating dtype", str(z.dtype), "The order is logits, targets.")
    return backend, z


def fitted(backend, z, targets, ignore_index, axis):
    """(class axis ≥ 0, the ignored label, the labels as an array of the backend)."""
    targets = backend.take("targets", targets, z)
    kind = backend.kind(targets)
    if kind != "integer":
        remedy = "Calibration is that of labels: pass rows.argmax(-1), or cast class ids to integers."
        raise complain("targets", "integer labels", f"dtype {targets.dtype}", remedy, TargetError)
    if z.ndim == 0:
        raise complain("logits", "at least one axis, the classes", "a single number", "Pass an (N, K) array.")
    axis = target_checks.class_axis(z.shape, targets.shape, False, axis)
    target_checks.target_shape(kind, targets.shape, z.shape, axis)
    if z.shape[axis] < 2:
        got = f"shape {tuple(z.shape)} with classes on axis {axis}"
        raise complain("logits", "at least two classes", got, "For one score of class 1 stack [0, z], or [1 − p, p].")
    return axis, argument_checks.ignored_label(ignore_index, backend.widest(targets)), targets
