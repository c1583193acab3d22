"""Checks the arguments of `unigram_prior` and `OnlinePrior`, and counts."""

import numpy as np

from multismooth.alternatives import priors as counting
from multismooth.api import argument_checks, target_checks
from multismooth.errors import TargetError, complain

LABELS = "Pass integer labels; the unigram prior of soft rows is their mean."


def unigram(backend, targets, num_classes, pseudo_count, ignore_index):
    """The prior of `unigram_prior`."""
    number = argument_checks.positive("num_classes", num_classes, "It is the length of the prior.", backend.size)
    labels, counted, valid = labels_of(backend, targets, number, ignore_index)
    if not isinstance(pseudo_count, (int, float)) or not 0 <= pseudo_count < float("inf"):
        remedy = "1 is Laplace's rule; 0 leaves counts as they are."
        raise complain("pseudo_count", "a finite number ≥ 0", repr(pseudo_count), remedy)
    counts = counting.label_counts(zeros(backend, (number,), labels), labels, counted, backend.xp)
    if pseudo_count == 0 and (seen := backend.values(counts, None)) is not None and not seen.any():
        raise complain("pseudo_count", "a number > 0 where no label is counted", "0", "Pass 1, or more labels.")
    prior = counting.unigram(counts, pseudo_count)
    return prior if valid is None else backend.xp.where(valid, prior, prior * float("nan"))


def start(backend, num_classes):
    """(prior, sums, counts) of `OnlinePrior.start`."""
    number = argument_checks.positive("num_classes", num_classes, "It is the number of rows of the prior.")
    like = backend.array(0)
    sums = zeros(backend, (number, number), like)
    counts = backend.xp.broadcast_to(like, (number,)) + like
    return sums + 1 / number, sums, counts


def updated(backend, state, logits, targets, ignore_index, axis):
    """(prior, sums, counts) of `OnlinePrior.update`."""
    number = state.counts.shape[0]
    z = backend.take("logits", logits)
    if backend.kind(z) != "floating" or z.ndim == 0:
        raise complain("logits", "a floating array (N…, K)", f"{z.dtype}, shape {tuple(z.shape)}", "Cast them.")
    labels = backend.take("targets", targets, z)
    axis = target_checks.class_axis(z.shape, labels.shape, False, axis)
    if z.shape[axis] != number:
        remedy = f"Start with OnlinePrior.start({z.shape[axis]})."
        raise complain("logits", f"{number} classes, as in the state", f"{z.shape[axis]} on axis {axis}", remedy)
    labels, counted, _ = labels_of(backend, labels, number, ignore_index, z)
    target_checks.target_shape("integer", labels.shape, z.shape, axis)
    prior, sums, counts = (backend.moved(x, z) for x in state)
    added = counting.added_predictions(sums, counts, z, labels, counted, axis, backend.xp)
    return prior, *added


def labels_of(backend, targets, num_classes, ignore_index, like=None):
    """(labels, which of them count, whether all are valid). The last is None if it is known, and wrong ones raise."""
    labels = backend.take("targets", targets, like)
    if backend.kind(labels) != "integer":
        raise complain("targets", "integer labels", f"dtype {labels.dtype}", LABELS, TargetError)
    ignore_index = argument_checks.ignored_label(ignore_index, backend.widest(labels))
    inside = (labels >= 0) & (labels < num_classes)
    counted = inside if ignore_index is None else inside & (labels != ignore_index)
    values = backend.values(labels, None)
    if values is not None:
        target_checks.labels(values, num_classes, ignore_index)
        return labels, counted, None
    return labels, counted, backend.xp.all(inside if ignore_index is None else inside | (labels == ignore_index))


def zeros(backend, shape, like):
    """Zeros of the framework's default float, on the device of `like`."""
    dtype = backend.template((), None, like).dtype
    return backend.xp.astype(backend.array(np.zeros(shape), like), dtype)
