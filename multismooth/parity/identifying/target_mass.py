"""The target mass A of a loss, fitted to its answers, and the patterns of ε, weights and denominators it may come from.

    loss = −Σ A·log softmax(z) + z_loss·lse² + c

A (N, K) does not depend on the logits, so few answers determine it. Each row of A is a label's term, on one class, plus
a smoothing term, on all classes. Both are known up to a factor per problem. How the factors change from problem to
problem shows what the mean divides by; both together show ε′. Letters as in `spec`.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np


class FittedLoss(NamedTuple):
    """A, z_loss and c, which the loss is linear in, and how well they fit the answers."""

    mass: np.ndarray  # A, (N, K)
    z_loss: np.ndarray  # (N,)
    constant: np.ndarray
    misfit: np.ndarray  # (N,): of the gradient, or of the loss; relative to the largest entry
    constant_drift: float  # how much c changes with the logits, relative to the loss


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where the target mass goes, up to one factor for each of the two terms."""

    class_weights: str  # as in `Convention.class_weights`
    weight: Any = None
    prior: Any = None
    unseen_weights: tuple[int, ...] = ()  # classes whose weight A does not show
    weights_inferred: bool = False  # the unseen weights follow from a denominator
    exclude: tuple[int, ...] = ()
    ignore_index: int | None = None
    ignore_scope: str = "all"
    sentence_means: bool = False  # every sentence's elements are divided by their number


# --- A --------------------------------------------------------------------------------------------------------------


def log_softmax(z):
    """(log softmax, lse)."""
    lse = np.logaddexp.reduce(z, -1)
    return z - lse[..., None], lse


def fit(observation) -> FittedLoss:
    """A, z_loss and c by least squares: from the gradients, or from the loss values where there are none."""
    log_p, lse = log_softmax(observation.logits)
    if observation.gradient is None:
        return _fit_to_values(observation, log_p, lse)
    # g = (Σ A) p − A + 2 z_loss lse p. Its sum over the classes is 2 z_loss lse, and A drops out of differences.
    p, g = np.exp(log_p), observation.gradient
    z_loss = (g.sum(-1) * lse).sum(0) / (2 * lse**2).sum(0)
    without_z_loss = g - (2 * z_loss * lse)[..., None] * p
    p_centred = p - p.mean(0)
    total = ((without_z_loss - without_z_loss.mean(0)) * p_centred).sum((0, 2)) / (p_centred**2).sum((0, 2))
    mass = (total[:, None] * p - without_z_loss).mean(0)
    residual = mass.sum(-1)[:, None] * p - mass - without_z_loss
    misfit = np.abs(residual).max((0, 2)) / max(np.abs(g).max(), 1e-300)
    elements = -(mass * log_p).sum(-1) + z_loss * lse**2
    rest = observation.loss - (elements if observation.per_element else elements.sum(-1))
    drift = np.ptp(rest, axis=0).max() / max(np.abs(observation.loss).max(), 1e-3)
    return FittedLoss(mass, z_loss, rest.mean(0), misfit, float(drift))


def _fit_to_values(observation, log_p, lse):
    m, n, k = log_p.shape
    features = np.concatenate([-log_p, lse[..., None] ** 2], axis=-1)
    scale = max(np.abs(observation.loss).max(), 1e-300)
    if observation.per_element:
        design = np.concatenate([features, np.ones((m, n, 1))], axis=-1).transpose(1, 0, 2)
        found = np.einsum("nuv,vn->nu", np.linalg.pinv(design), observation.loss)
        misfit = np.abs(np.einsum("nvu,nu->vn", design, found) - observation.loss).max(0) / scale
        return FittedLoss(found[:, :k], found[:, k], found[:, k + 1], misfit, 0.0)
    design = np.concatenate([features.reshape(m, -1), np.ones((m, 1))], axis=1)
    found = np.linalg.lstsq(design, observation.loss)[0]
    misfit = np.full(n, np.abs(design @ found - observation.loss).max() / scale)
    rows = found[:-1].reshape(n, k + 1)
    return FittedLoss(rows[:, :k], rows[:, k], found[-1], misfit, 0.0)


# --- where the mass goes --------------------------------------------------------------------------------------------


class NoConvention(Exception):
    """No convention has this target mass. The text says why, to the caller of `identify`."""


def patterns(observation, mass, tolerance):
    """Every Pattern that A (N, K) may have. Raises NoConvention where there is none."""
    try:
        return _patterns(observation, mass, tolerance)
    except NoConvention:
        if len(observation.shape) == 1:
            raise
        counted = np.abs(mass).max(1) > tolerance * np.abs(mass).max()
        in_a_mean = mass / share_in_sentence(counted, observation.shape)[:, None]
        try:
            found = _patterns(observation, in_a_mean, tolerance)
        except NoConvention:
            found = None
        if found is None:
            raise
        return [replace(pattern, sentence_means=True) for pattern in found]


def share_in_sentence(counted, shape):
    """(N,) 1/(the counted elements of its sentence) for each element."""
    lengths = np.maximum(counted.reshape(shape[0], -1).sum(1, keepdims=True), 1)
    return np.broadcast_to(1 / lengths, (shape[0], counted.size // shape[0])).reshape(-1)


def _patterns(observation, mass, tolerance):
    small = tolerance * np.abs(mass).max()
    labels, rows = _rows_by_label(observation.labels, mass, small)
    has_mass = np.abs(rows).max(1) > small
    if not has_mass.any():
        raise NoConvention("no label has any target mass: the gradient is zero everywhere")
    massless, labels, rows = labels[~has_mass], labels[has_mass], rows[has_mass]
    row_factors, smoothing_row = _rank_one(rows, labels, small)
    label_terms = rows[np.arange(len(labels)), labels] - row_factors * smoothing_row[labels]
    smoothing_row[np.abs(smoothing_row) <= small] = 0.0
    label_terms = label_terms if np.abs(label_terms).max() > small else np.zeros_like(label_terms)
    only_smoothed = (np.abs(label_terms) <= small) & label_terms.any() & smoothing_row.any()
    ignore_index, ignore_scope = _ignored_label(massless, labels[only_smoothed])
    exclude = tuple(np.flatnonzero(smoothing_row == 0).tolist()) if smoothing_row.any() else ()
    common = {"exclude": exclude, "ignore_index": ignore_index, "ignore_scope": ignore_scope}
    label_terms = np.where(only_smoothed, np.nan, label_terms)
    found = []
    for mode, weight, prior in _weights_and_prior(label_terms, row_factors, smoothing_row, labels, 10 * tolerance):
        unseen = () if weight is None else tuple(np.flatnonzero(np.isnan(weight)).tolist())
        weight = None if weight is None else np.nan_to_num(weight, nan=1.0)
        found.append(Pattern(mode, weight, prior, unseen, **common))
    return found


def _rows_by_label(element_labels, mass, small):
    """(labels, the row of A for each label); all elements with one label must have the same row."""
    labels = np.unique(element_labels)
    rows = np.stack([mass[element_labels == y].mean(0) for y in labels])
    difference = max(np.ptp(mass[element_labels == y], axis=0).max() for y in labels)
    if difference > small:
        raise NoConvention(
            f"elements with the same label have unlike target rows (by up to {difference:.3g}): the loss weighs "
            "elements by their place, as means of sentences do, or mixes rows"
        )
    return labels, rows


def _ignored_label(massless, only_smoothed):
    """(ignored label, ignore_scope): at most one label may lose its whole row, or its own term alone."""
    if len(massless) + len(only_smoothed) == 0:
        return None, "all"
    if len(massless) + len(only_smoothed) == 1:
        return (int(massless[0]), "all") if len(massless) else (int(only_smoothed[0]), "nll_only")
    lost = [*massless.tolist(), *only_smoothed.tolist()]
    raise NoConvention(f"the labels {lost} lose their term, more than the one that a convention ignores")


def _rank_one(rows, labels, small):
    """(row_factors, smoothing_row) with rows[y, k] = row_factors[y]·smoothing_row[k] for every k but y."""
    size = len(labels)
    off_label = np.ones(rows.shape, bool)
    off_label[np.arange(size), labels] = False
    row_factors = np.ones(size)
    for i in range(1, size):
        common = off_label[0] & off_label[i]
        length = (rows[0, common] ** 2).sum()
        row_factors[i] = (rows[i, common] * rows[0, common]).sum() / length if length > small**2 else 1.0
    if (row_factors == 0).any():
        raise NoConvention("the smoothing term reaches some labels only")
    weights = off_label * row_factors[:, None] ** 2
    smoothing_row = (weights * rows / row_factors[:, None]).sum(0) / np.maximum(weights.sum(0), 1e-300)
    unseen = weights.sum(0) == 0  # with a single label, its own column has the label's term too: take the others' mean
    if unseen.any():
        smoothing_row[unseen] = smoothing_row[~unseen].mean() if (~unseen).any() else 0.0
    misfit = np.abs(off_label * (rows - row_factors[:, None] * smoothing_row)).max(1)
    if (misfit > 10 * small).any():
        raise NoConvention(
            f"the smoothed mass of the labels {labels[misfit > 10 * small].tolist()} goes elsewhere than that of the "
            "others: it depends on the pair of classes, which takes a (K, K) prior"
        )
    return row_factors, smoothing_row


def _weights_and_prior(label_terms, row_factors, smoothing_row, labels, rtol):
    """Every (class_weights, weight, prior) that explains the two terms; NaN for weights that A does not show."""
    allowed, shown = smoothing_row != 0, ~np.isnan(label_terms)
    uniform = not allowed.any() or _constant(smoothing_row[allowed], rtol)
    prior = None if uniform else smoothing_row / smoothing_row.sum()
    weight = np.full(len(smoothing_row), np.nan)
    if not _constant(row_factors, rtol):  # the label's weight multiplies the smoothing term too
        if label_terms[shown].any() and not _constant(label_terms[shown] / row_factors[shown], rtol):
            raise NoConvention("the two terms of the loss weigh the classes in two unlike ways")
        weight[labels] = row_factors / row_factors.mean()
        yield "target", weight, prior
        yield "mixture", weight, prior
        return
    if not label_terms[shown].any() or _constant(label_terms[shown], rtol):  # no class weights in the label's term
        yield "per_term", None, prior
        if prior is not None and not label_terms[shown].any():
            yield "per_term", np.where(allowed, smoothing_row / smoothing_row[allowed].mean(), np.nan), None
        return
    labels, label_terms = labels[shown], label_terms[shown]
    weight[labels] = label_terms / label_terms.mean()
    both = labels[allowed[labels]]
    if _constant(smoothing_row[both] / weight[both], rtol):  # the same weights in both terms
        scale = weight[both].sum() / smoothing_row[both].sum() if allowed.any() else 1.0
        whole = np.where(allowed, smoothing_row, np.nan) * scale
        whole[labels] = weight[labels]
        yield "per_term", whole, None
        return
    yield "nll_only", weight, prior
    if prior is not None:
        unweighted = np.where(allowed, smoothing_row / np.nan_to_num(weight, nan=1.0), 0.0)
        yield "per_term", weight, unweighted / unweighted.sum()


def _constant(values, rtol):
    return len(values) == 0 or np.ptp(values) <= rtol * np.abs(values).max()
