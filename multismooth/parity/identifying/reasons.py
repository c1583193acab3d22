"""Sentences on why no convention fits a loss, for the caller of `identify`."""

import numpy as np

from multismooth.parity.identifying import probes, target_mass
from multismooth.parity.identifying.equivalents import simplicity
from multismooth.parity.reading import settings_text


def why_no_fixed_mass(observation, fitted, limit):
    """Why no A that is the same for all logits explains the answers; "" if one does."""
    misfit = np.nan_to_num(fitted.misfit, nan=np.inf)
    wrong = np.flatnonzero(misfit > limit)
    if len(wrong) == 0:
        if fitted.constant_drift <= limit:
            return ""
        return (
            "gradient and value do not belong together (something is detached, or added): less what the gradient "
            f"implies, the loss still moves by {fitted.constant_drift:.1e} of itself with the logits"
        )
    g = observation.gradient
    if g is not None and np.abs(g.sum(-1)).max() > 1e-3 * np.abs(g).max():
        return (
            f"the gradient of an element does not sum to 0 over the classes (up to {np.abs(g.sum(-1)).max():.2g}): "
            "no softmax, or a part of it is detached"
        )
    elements = ", ".join(f"{n} (label {observation.labels[n]})" for n in wrong[:4]) + (" …" if len(wrong) > 4 else "")
    return (
        "the target mass A moves with the logits, as in a focal or a squared loss: no fixed A explains element "
        f"{elements}, off by {misfit.max():.1e} of the largest {'loss' if g is None else 'gradient'}"
    )


def why_no_reading(candidates, mass):
    """Why none of the candidates fits. candidates: (reading, observations) pairs; mass: `mass_of_an_element`."""
    if not candidates:
        return f"A is fixed, but how its two terms change with labels and elements fits no denominator: {mass}"
    residuals = [
        (max(reading.residual(observation) for observation in observations), i)
        for i, (reading, observations) in enumerate(candidates)
    ]
    residual, nearest = min(residuals)
    return f"the nearest reading, {settings_text(candidates[nearest][0])}, is off by {residual:.1e}: {mass}"


def why_not_at_other_k(readings, first, other, mass):
    """Why readings that fit at one K do not fit at another."""
    residual = min(reading.residual(other) for reading in readings)
    return (
        f"at K = {first.num_classes} it is {settings_text(min(readings, key=simplicity))}, "
        f"but at K = {other.num_classes} that is off by {residual:.1e}: {mass}"
    )


def mass_of_an_element(box, observations, fitted):
    """The target mass of an element of each problem, as text. fitted: that of the first problem."""
    total = fitted.mass.sum()
    is_mean = abs(np.log(max(abs(total), 1e-9))) < 0.7  # A sums to one element's mass, and not to all elements' mass
    texts = []
    for observation in observations:
        labels, num_classes = observation.labels, observation.num_classes
        times = probes.calls_needed(box, num_classes, labels)
        mass = target_mass.fit(probes.observe(box, labels, num_classes, times=times)).mass
        texts.append(f"{mass.sum() / (1.0 if is_mean else len(labels)):.6g} at K = {num_classes}")
    return "the target mass of an element is " + " and ".join(texts)
