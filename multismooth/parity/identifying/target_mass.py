"""From answers to conventions: loss = −Σ A·log softmax(z) + ζ·lse² + c, and how A is made of ε, weights and divisors.

A (N, K) does not depend on the logits, so few answers determine it. Its diagonal and its columns give the label's
term and the smoothing term up to a factor per problem; how the factors change from problem to problem gives what the
mean divides by; both together give ε′. Letters as in `spec`.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from multismooth.convention import Convention
from multismooth.numpy import XP
from multismooth.plan import plan_of
from multismooth.problem import Problem, Settings
from multismooth.reduction import summed

UNIT = Convention()


class Target(NamedTuple):
    """What the loss is linear in: A (N, K), ζ (N,), c, and how badly each element fits (relative)."""

    mass: np.ndarray
    z_loss: np.ndarray
    constant: np.ndarray
    misfit: np.ndarray  # (N,): of the gradient, or of the loss
    moves: float  # how much c moves with the logits, relative to the loss


@dataclass(frozen=True, eq=False)
class Pattern:
    """Where mass goes, up to one factor for each of the two terms."""

    mode: str
    weight: Any = None
    prior: Any = None
    hidden: tuple[int, ...] = ()  # classes whose weight does not show
    revealed: bool = False  # it follows from a divisor after all
    exclude: tuple[int, ...] = ()
    ignore_index: int | None = None
    ignore_scope: str = "all"


# --- A --------------------------------------------------------------------------------------------------------------


def log_softmax(z):
    lse = np.logaddexp.reduce(z, -1)
    return z - lse[..., None], lse


def _sum(z, labels, label_smoothing=0.0, convention=UNIT, weight=None, prior=None, ignore_index=None):
    problem = Problem(z, labels, label_smoothing, weight=weight, prior=prior)
    return problem, Settings(convention, axis=1, ignore_index=ignore_index, reduction="sum")


def target(observation) -> Target:
    """A, ζ and c by least squares: from the gradients, else from the values."""
    log_p, lse = log_softmax(observation.logits)
    if observation.gradient is None:
        return _target_of_values(observation, log_p, lse)
    # g = (Σ A) p − A + 2 ζ lse p: its sum over the classes is 2 ζ lse, and A drops out of differences
    p, g = np.exp(log_p), observation.gradient
    z_loss = (g.sum(-1) * lse).sum(0) / (2 * lse**2).sum(0)
    plain = g - (2 * z_loss * lse)[..., None] * p
    apart = p - p.mean(0)
    height = ((plain - plain.mean(0)) * apart).sum((0, 2)) / (apart**2).sum((0, 2))
    mass = (height[:, None] * p - plain).mean(0)
    misfit = np.abs(mass.sum(-1)[:, None] * p - mass - plain).max((0, 2)) / max(np.abs(g).max(), 1e-300)
    each = -(mass * log_p).sum(-1) + z_loss * lse**2
    rest = observation.loss - (each if observation.per_element else each.sum(-1))
    moves = np.ptp(rest, axis=0).max() / max(np.abs(observation.loss).max(), 1e-3)
    return Target(mass, z_loss, rest.mean(0), misfit, float(moves))


def _target_of_values(observation, log_p, lse):
    m, n, k = log_p.shape
    features = np.concatenate([-log_p, lse[..., None] ** 2], axis=-1)
    scale = max(np.abs(observation.loss).max(), 1e-300)
    if observation.per_element:
        design = np.concatenate([features, np.ones((m, n, 1))], axis=-1).transpose(1, 0, 2)
        found = np.einsum("nuv,vn->nu", np.linalg.pinv(design), observation.loss)
        misfit = np.abs(np.einsum("nvu,nu->vn", design, found) - observation.loss).max(0) / scale
        return Target(found[:, :k], found[:, k], found[:, k + 1], misfit, 0.0)
    design = np.concatenate([features.reshape(m, -1), np.ones((m, 1))], axis=1)
    found = np.linalg.lstsq(design, observation.loss)[0]
    misfit = np.full(n, np.abs(design @ found - observation.loss).max() / scale)
    rows = found[:-1].reshape(n, k + 1)
    return Target(rows[:, :k], rows[:, k], found[-1], misfit, 0.0)


# --- where mass goes ------------------------------------------------------------------------------------------------


class Undecoded(Exception):
    """Why A spells no convention; the text is for the caller of `identify`."""


def patterns(observation, mass, tolerance):
    """Every Pattern that A (N, K) may have. Raises Undecoded, saying what stands in the way."""
    small = tolerance * np.abs(mass).max()
    labels = np.unique(observation.labels)
    rows = np.stack([mass[observation.labels == y].mean(0) for y in labels])
    spread = max(np.ptp(mass[observation.labels == y], axis=0).max() for y in labels)
    if spread > small:
        raise Undecoded(
            f"elements with the same label have unlike target rows (by up to {spread:.3g}): the loss weighs elements "
            "by their place, as means of sentences do, or mixes rows"
        )
    live = np.abs(rows).max(1) > small
    if not live.any():
        raise Undecoded("no label has any target mass: the gradient is zero everywhere")
    silent, labels, rows = labels[~live], labels[live], rows[live]
    height, column = _rank_one(rows, labels, small)
    own = rows[np.arange(len(labels)), labels] - height * column[labels]
    column[np.abs(column) <= small] = 0.0
    own = own if np.abs(own).max() > small else np.zeros_like(own)
    bumpless = (np.abs(own) <= small) & own.any() & column.any()
    ignored, scope = None, "all"
    if len(silent) + bumpless.sum() == 1:
        ignored, scope = (int(silent[0]), "all") if len(silent) else (int(labels[bumpless][0]), "nll_only")
    elif len(silent) or bumpless.any():
        dead = [*silent.tolist(), *labels[bumpless].tolist()]
        raise Undecoded(f"the labels {dead} lose their term, more than the one that a convention ignores")
    exclude = tuple(np.flatnonzero(column == 0).tolist()) if column.any() else ()
    common = {"exclude": exclude, "ignore_index": ignored, "ignore_scope": scope}
    found = []
    for mode, weight, prior in _modes(np.where(bumpless, np.nan, own), height, column, labels, 10 * tolerance):
        hidden = () if weight is None else tuple(np.flatnonzero(np.isnan(weight)).tolist())
        weight = None if weight is None else np.nan_to_num(weight, nan=1.0)
        found.append(Pattern(mode, weight, prior, hidden, **common))
    return found


def _rank_one(rows, labels, small):
    """(height, column) with rows[y, k] = height_y·column_k for every k but y."""
    size = len(labels)
    off = np.ones(rows.shape, bool)
    off[np.arange(size), labels] = False
    height = np.ones(size)
    for i in range(1, size):
        shared = off[0] & off[i]
        length = (rows[0, shared] ** 2).sum()
        height[i] = (rows[i, shared] * rows[0, shared]).sum() / length if length > small**2 else 1.0
    if (height == 0).any():
        raise Undecoded("the smoothing term reaches some labels only")
    weights = off * height[:, None] ** 2
    column = (weights * rows / height[:, None]).sum(0) / np.maximum(weights.sum(0), 1e-300)
    alone = weights.sum(0) == 0  # a single label: what its own column would be, the others must say
    if alone.any():
        column[alone] = column[~alone].mean() if (~alone).any() else 0.0
    wrong = np.abs(off * (rows - height[:, None] * column)).max(1)
    if (wrong > 10 * small).any():
        raise Undecoded(
            f"the smoothed mass of the labels {labels[wrong > 10 * small].tolist()} goes elsewhere than that of the "
            "others: it depends on the pair of classes, which takes a (K, K) prior"
        )
    return height, column


def _modes(own, height, column, labels, near):
    """(class_weights, weight, prior) that explain the two terms; NaN for weights that do not show."""
    allowed, shown = column != 0, ~np.isnan(own)
    prior = None if not allowed.any() or _flat(column[allowed], near) else column / column.sum()
    weight = np.full(len(column), np.nan)
    if not _flat(height, near):
        if own[shown].any() and not _flat(own[shown] / height[shown], near):
            raise Undecoded("the two terms of the loss weigh the classes in two unlike ways")
        weight[labels] = height / height.mean()
        yield "target", weight, prior
        yield "mixture", weight, prior
        return
    if not own[shown].any() or _flat(own[shown], near):
        yield "per_term", None, prior
        if prior is not None and not own[shown].any():
            yield "per_term", np.where(allowed, column / column[allowed].mean(), np.nan), None
        return
    labels, own = labels[shown], own[shown]
    weight[labels] = own / own.mean()
    both = labels[allowed[labels]]
    if _flat(column[both] / weight[both], near):
        whole = np.where(allowed, column, np.nan) * (weight[both].sum() / column[both].sum() if allowed.any() else 1.0)
        whole[labels] = weight[labels]
        yield "per_term", whole, None
        return
    yield "nll_only", weight, prior
    if prior is not None:
        share = np.where(allowed, column / np.nan_to_num(weight, nan=1.0), 0.0)
        yield "per_term", weight, share / share.sum()


def _flat(values, near):
    return len(values) == 0 or np.ptp(values) <= near * np.abs(values).max()


# --- the two terms' factors, and what the mean divides by -----------------------------------------------------------


def terms(pattern, observation):
    """(U, V), each (N, K): A of the label's term alone (ε′ = 0) and of the smoothing term alone (ε′ = 1)."""
    mode = "target" if pattern.mode == "mixture" else pattern.mode
    convention = Convention(class_weights=mode, exclude=pattern.exclude, ignore_scope=pattern.ignore_scope)
    both = []
    for mass in (0.0, 1.0):
        z, labels = observation.logits[0], observation.labels
        call = _sum(z, labels, mass, convention, pattern.weight, pattern.prior, pattern.ignore_index)
        plan = plan_of(*call, XP)
        a, b = (np.broadcast_to(x, labels.shape)[:, None] for x in (plan.a, plan.b))
        v = 1 / z.shape[-1] if plan.v is None else plan.v
        both.append(a * np.eye(z.shape[-1])[plan.labels] + b * v)
    return both


def shares(pattern, observation):
    """D of every kind that a mean may divide by."""
    found = {}
    for kind in ("target_weight", "counted", "all", "classes"):
        convention = replace(UNIT, denominator=kind)
        z = observation.logits[0]
        call = _sum(z, observation.labels, 0.0, convention, pattern.weight, None, pattern.ignore_index)
        plan = plan_of(*call, XP)
        found[kind] = float(summed(plan.denominator_share, z, 1, XP))
    return found if observation.sentences is None else found | {"caller": float(observation.sentences)}


def factors(pattern, observation, with_lse):
    """(G, H, ζ, misfit) with A = G·U + H·V: fitted to the answers; NaN for a term that is absent here."""
    log_p, lse = log_softmax(observation.logits)
    pair = terms(pattern, observation)
    extra = [pair[0].any(-1).astype(float)] if with_lse else []
    if observation.gradient is not None:
        p = np.exp(log_p)
        columns = [u.sum(-1)[:, None] * p - u for u in pair] + [2 * (lse * c)[..., None] * p for c in extra]
        wanted = observation.gradient
    else:
        each = [-(u * log_p).sum(-1) for u in pair] + [c * lse**2 for c in extra]
        columns = each if observation.per_element else [e.sum(-1) for e in each]
        wanted = observation.loss - observation.loss.mean(0)
        columns = [c - c.mean(0) for c in columns]
    design, wanted = np.stack([c.ravel() for c in columns], axis=1), wanted.ravel()
    found = np.linalg.lstsq(design, wanted)[0]
    misfit = np.abs(design @ found - wanted).max() / max(np.abs(wanted).max(), 1e-300)
    there = [float(found[i]) if pair[i].any() else np.nan for i in (0, 1)]
    return *there, float(found[2]) if with_lse else np.nan, float(np.nan_to_num(misfit, nan=np.inf))
