"""Random conventions and settings, as `parity.identify` is to recover them from a loss's answers alone.

Some are left out, because no answer shows them: fewer than three labels that count; the weight of a class whose own
label never counts, where it is mixed with others or multiplied by a prior. The denominator "caller" is tried as what it
is, a normalizer.
"""

from dataclasses import replace

import numpy as np

from multismooth import Convention
from multismooth.convention import CHOICES

DENOMINATORS = [kind for kind in CHOICES["denominator"] if kind != "caller"]


def random_shape(rng, k):
    """What a compiler would have to know: (convention, reduction, ignore_index) for K classes."""

    def one(choices):
        return choices[rng.integers(len(choices))]

    exclude = tuple(rng.choice(k, size=rng.integers(1, 3), replace=False).tolist()) if rng.random() < 0.2 else ()
    convention = Convention(
        **{name: one(choices) for name, choices in CHOICES.items() if name != "denominator"},
        denominator=one(DENOMINATORS),
        smooth_denominator=one(DENOMINATORS) if rng.random() < 0.25 else None,
        exclude=exclude,
        denominator_add=one([0.5, 2.0, 1e-6]) if rng.random() < 0.2 else 0.0,
        denominator_floor=one([0.7, 1.0, 3.0, 5.0]) if rng.random() < 0.2 else None,
        scale=one([0.5, 3.0, 0.01]) if rng.random() < 0.2 else 1.0,
    )
    ignored = one([None, -100, -1, 255, int(rng.integers(k)), *exclude])
    return convention, one(["mean", "mean", "sum", "none"]), ignored


def random_values(rng, k, convention, reduction):
    """What the compiler need not know: ε, weights, prior, z_loss, normalizer."""
    values = {"label_smoothing": 0.1 if rng.random() < 0.3 else round(rng.uniform(0.005, 0.6), 3)}
    if rng.random() < 0.35:
        values["weight"] = 10 ** rng.uniform(-1, 1, k)
    if convention.spread == "all" and rng.random() < 0.25:
        values["prior"] = rng.dirichlet(np.full(k, 2.0))
    if rng.random() < 0.1:
        values["z_loss"] = round(rng.uniform(0.001, 0.1), 4)
    if reduction == "mean" and rng.random() < 0.1:
        values["normalizer"] = 7.0
    return values


def squared(rng, settings):
    """The settings with a z-loss that has a denominator of its own."""
    convention = replace(settings["convention"], z_loss_denominator=DENOMINATORS[rng.integers(len(DENOMINATORS))])
    return settings | {"convention": convention, "z_loss": round(rng.uniform(0.001, 0.1), 4)}


def shows(k, settings):
    """Whether answers can show everything."""
    convention, ignored = settings["convention"], settings["ignore_index"]
    counting = set(range(k)) - set(convention.exclude) - {ignored}
    denominators = convention.denominator, convention.smooth_denominator, convention.z_loss_denominator
    mixing = "mixture" in convention.class_weights + "".join(map(str, denominators))
    hidden = "weight" in settings and ignored in range(k) and ignored not in convention.exclude
    return len(counting) >= 3 and not (hidden and (mixing or "prior" in settings))


def draws(number, seed):
    """(K, settings, what to tell identify) of random losses."""
    rng, more, found = np.random.default_rng(seed), np.random.default_rng((seed, 1)), 0
    while found < number:
        k = int(rng.choice([4, 5, 7]))
        convention, reduction, ignored = random_shape(rng, k)
        settings = {"convention": convention, "reduction": reduction, "ignore_index": ignored}
        settings |= random_values(rng, k, convention, reduction)
        if shows(k, settings):
            found += 1
            apart = squared(more, settings)
            yield k, apart if more.random() < 0.3 and shows(k, apart) else settings, told(rng, k, settings)


def told(rng, k, settings):
    """What `identify` is told beside the loss."""
    if "weight" in settings and rng.random() < 0.5:
        return {"weight": settings["weight"]}
    return {"num_classes": k} if "weight" in settings or "prior" in settings else {}


def jax_draws(shapes, each, seed):
    """Few shapes, for each of which JAX compiles once, with many values."""
    rng, found = np.random.default_rng(seed), 0
    while found < shapes:
        k = int(rng.choice([4, 5, 7]))
        convention, reduction, ignored = random_shape(rng, k)
        shape = {"convention": convention, "reduction": reduction, "ignore_index": ignored}
        values = random_values(rng, k, convention, reduction)
        if not shows(k, shape | values):
            continue
        found += 1
        if found % 3 == 0:
            apart = squared(rng, shape | values)
            shape["convention"], values["z_loss"] = apart["convention"], apart["z_loss"]
        for _ in range(each):
            again = values | {"label_smoothing": round(rng.uniform(0.005, 0.6), 3)}
            if "weight" in values:
                again["weight"] = 10 ** rng.uniform(-1, 1, k)
            if "prior" in values:
                again["prior"] = rng.dirichlet(np.full(k, 2.0))
            yield k, shape | again, told(rng, k, shape | again)
