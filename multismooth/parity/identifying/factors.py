"""The factors of the two terms of a loss on one problem, and the denominators that these may come from."""

from dataclasses import replace

import numpy as np

from multismooth.convention import Convention
from multismooth.namespace import XP
from multismooth.parity.identifying.target_mass import log_softmax, share_in_sentence
from multismooth.parity.reading import COUNTING_SENTENCES, SENTENCE_LENGTH, SENTENCES
from multismooth.plan import plan_of
from multismooth.problem import Problem, Settings
from multismooth.reduction import summed

PLAIN = Convention()


def _summed_loss(z, labels, label_smoothing=0.0, convention=PLAIN, weight=None, prior=None, ignore_index=None):
    """(Problem, Settings) of a summed loss."""
    problem = Problem(z, labels, label_smoothing, weight=weight, prior=prior)
    return problem, Settings(convention, axis=1, ignore_index=ignore_index, reduction="sum")


def unit_terms(pattern, observation):
    """(U, V), each (N, K): A where all mass is the label's (ε′ = 0), and where all mass is smoothed (ε′ = 1)."""
    mode = "target" if pattern.class_weights == "mixture" else pattern.class_weights
    convention = Convention(class_weights=mode, exclude=pattern.exclude, ignore_scope=pattern.ignore_scope)
    both = []
    for mass in (0.0, 1.0):
        z, labels = observation.logits[0], observation.labels
        arguments = convention, pattern.weight, pattern.prior, pattern.ignore_index
        plan = plan_of(*_summed_loss(z, labels, mass, *arguments), XP)
        a, b = (np.broadcast_to(x, labels.shape)[:, None] for x in (plan.a, plan.b))
        v = 1 / z.shape[-1] if plan.v is None else plan.v
        if pattern.sentence_means:
            share = share_in_sentence(_counted(pattern, observation), observation.shape)[:, None]
            a, b = a * share, b * share
        both.append(a * np.eye(z.shape[-1])[plan.labels] + b * v)
    return both


def denominators_by_kind(pattern, observation):
    """{kind: D} for every kind of denominator that a mean may have, on the observation's labels."""
    if pattern.sentence_means:
        full = _counted(pattern, observation).reshape(observation.shape[0], -1).any(1)
        return {SENTENCES: float(len(full)), COUNTING_SENTENCES: float(full.sum())}
    found = {}
    for kind in ("target_weight", "counted", "all", "classes"):
        z, convention = observation.logits[0], replace(PLAIN, denominator=kind)
        arguments = convention, pattern.weight, None, pattern.ignore_index
        plan = plan_of(*_summed_loss(z, observation.labels, 0.0, *arguments), XP)
        found[kind] = float(summed(plan.denominator_share, z, 1, XP))
    if len(observation.shape) == 1:
        return found
    sentences = float(observation.shape[0])
    return found | {SENTENCES: sentences, SENTENCE_LENGTH: len(observation.labels) / sentences}


def _counted(pattern, observation):
    """(N,) which elements the pattern does not ignore."""
    if pattern.ignore_index is None:
        return np.ones(observation.labels.shape, bool)
    return observation.labels != pattern.ignore_index


def fit_factors(pattern, observation, with_z_loss):
    """(G, H, z_loss, misfit) with A = G·U + H·V, fitted to the answers; NaN for a term that is 0 on these labels."""
    log_p, lse = log_softmax(observation.logits)
    terms = unit_terms(pattern, observation)
    z_loss_terms = [terms[0].any(-1).astype(float)] if with_z_loss else []
    if observation.gradient is not None:
        p = np.exp(log_p)
        columns = [u.sum(-1)[:, None] * p - u for u in terms]
        columns += [2 * (lse * counted)[..., None] * p for counted in z_loss_terms]
        expected = observation.gradient
    else:
        losses = [-(u * log_p).sum(-1) for u in terms] + [counted * lse**2 for counted in z_loss_terms]
        columns = losses if observation.per_element else [loss.sum(-1) for loss in losses]
        columns = [column - column.mean(0) for column in columns]
        expected = observation.loss - observation.loss.mean(0)
    design, expected = np.stack([column.ravel() for column in columns], axis=1), expected.ravel()
    found = np.linalg.lstsq(design, expected)[0]
    misfit = np.abs(design @ found - expected).max() / max(np.abs(expected).max(), 1e-300)
    factors = [float(found[i]) if terms[i].any() else np.nan for i in (0, 1)]
    z_loss = float(found[2]) if with_z_loss else np.nan
    return *factors, z_loss, float(np.nan_to_num(misfit, nan=np.inf))
