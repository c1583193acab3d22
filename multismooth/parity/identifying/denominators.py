"""What a mean divides by, and with it ε′, the scale and the readings: from the factors of the two terms.

Each term of A is top/max(D + add, floor) times a known pattern, so 1/factor is linear in the right D and in no other.
"""

from dataclasses import replace
from itertools import product
from typing import NamedTuple

import numpy as np

from multismooth.convention import Convention
from multismooth.parity.identifying import target_mass
from multismooth.parity.identifying.probes import Reading

WEIGHTY = ("target_weight", "mixture_weight")  # the divisors that grow with the class weights


class Divisor(NamedTuple):
    """max(D + add, floor) of one kind D, as fitted; `top` is the term's factor times it."""

    kind: str
    top: float
    add: float = 0.0
    floor: float | None = None
    mass: float | None = None  # ε′, where the kind tells it
    expected: float | None = None  # Σ r·w, likewise

    def grown(self, factor):
        """What the divisor and its constants are multiplied by where the class weights are multiplied by a factor."""
        return factor if self.kind in WEIGHTY else 1.0


def powers(convention, reduction):
    """The powers of a factor of the class weights with which the two terms of A shrink or grow."""
    own, smooth = convention.denominator, convention.smooth_denominator or convention.denominator
    grow = [reduction == "mean" and kind in WEIGHTY for kind in (own, smooth)]
    return grow[0] - 1, grow[1] - (convention.class_weights != "nll_only")


def takers(convention, num_classes):
    """How many classes take smoothed mass."""
    return num_classes - sum(k < num_classes for k in convention.exclude)


def shares(pattern):
    """r: where smoothed mass goes."""
    r = np.ones(len(pattern.weight)) if pattern.prior is None else pattern.prior.copy()
    r[list(pattern.exclude)] = 0.0
    return r / r.sum()


def _expected(pattern):
    """Σ r_k w_k, the weight of the smoothed mass."""
    return float((shares(pattern) * pattern.weight).sum())


def _revealed(pattern, expected):
    """The pattern with the weights that do not show such that Σ r·w is as expected."""
    r, hidden = shares(pattern), np.isin(np.arange(len(pattern.weight)), pattern.hidden)
    if not r[hidden].any():
        return pattern
    rest = (expected - (r * pattern.weight)[~hidden].sum()) / r[hidden].sum()
    return replace(pattern, weight=np.where(hidden, rest, pattern.weight), revealed=True)


def fitted(observations, pattern, tolerance, squared):
    """The readings of a pattern whose class weights stay as they are; `squared`: whether there is a z-loss."""
    kinds = [target_mass.shares(pattern, o) for o in observations]
    own, smooth, z_loss, misfits = np.array([target_mass.factors(pattern, o, squared) for o in observations]).T
    if misfits.max() > 10 * tolerance:
        return
    size = [np.nanmax(np.abs(x)) if np.isfinite(x).any() else 0.0 for x in (own, smooth)]
    with np.errstate(all="ignore"):
        ratios = (smooth / (own + smooth))[np.isfinite(own + smooth)]
    same = float(ratios.mean()) if len(ratios) and np.ptp(ratios) <= 100 * tolerance else None
    fits = [
        divisors(x, kinds, pattern, 10 * tolerance, same) if top > tolerance * max(size) else [None]
        for x, top in zip((own, smooth), size, strict=True)
    ]
    near = 10 * tolerance * max(1.0, max(size) / np.abs(z_loss).max()) if squared else 0.0  # ζ may be small beside A
    tries = (10 * tolerance, near) if squared and near < 0.1 else ()
    squares = next(filter(None, (divisors(z_loss, kinds, pattern, limit, same) for limit in tries)), [])
    for pair in product(*fits):
        both = zip(pair, (own[0], smooth[0]), strict=True)
        alike = [d._replace(top=z_loss[0] * d.top / factor) for d, factor in both if d is not None and squared][:1]
        apart = [square for square in squares if alike and square.kind != alike[0].kind]
        for square in [*alike, *apart] or [None]:
            reading = _spelled(pair, square, pattern, observations[0], 100 * tolerance)
            if reading is not None:
                reading = replace(reading, z_loss=tidy(reading.z_loss, max(tolerance, near / 10)))
                yield from _spreads(reading, observations[0].num_classes, tolerance)


def divisors(factors, kinds, pattern, near, mass=None):
    """The Divisors that explain how a term's factor changes from problem to problem, one per kind that can be told.

    mass: ε′ where the two terms have one divisor, which shows because their factors keep their ratio.
    """
    there = np.isfinite(factors) & (factors != 0)
    if not there.any() or np.ptp(np.sign(factors[there])):
        return []
    sign, y = np.sign(factors[there][0]), 1 / np.abs(factors[there])
    if np.ptp(y) <= near * y.max():
        return [Divisor("", float(sign / y.mean()))]
    found, seen = [], []
    for kind in kinds[0]:
        d = np.array([k[kind] for k in kinds])[there]
        if not any(np.allclose(d, other) for other in seen):
            seen.append(d)
            found += _fit(kind, d[:, None], y, sign, near)
    if pattern.weight is not None:
        d = np.array([(k["target_weight"], k["counted"]) for k in kinds])[there]
        found += [_with_mass(*fit, pattern, mass) for fit in _fit("mixture_weight", d, y, sign, near, raw=True)]
    return [divisor for divisor in found if divisor is not None]


def _fit(kind, d, y, sign, near, raw=False):
    """1/factor = (d·c + add)/top above the floor: the fit with the fewest constants."""
    low = y <= y.min() * (1 + near)
    for added, floored in product((False, True), (False, True)):
        keep = ~low if floored else np.ones(len(y), bool)
        columns = np.concatenate([d, np.ones((len(d), int(added)))], axis=1)
        if len(np.unique(columns[keep].round(9), axis=0)) < columns.shape[1] + (not floored):
            continue
        c = np.linalg.lstsq(columns[keep] / y[keep, None], np.ones(keep.sum()))[0]
        line = columns @ c
        if np.abs(line / y - 1)[keep].max() > near or abs(c[0]) < near * y.max() / d[:, 0].max():
            continue
        if floored and (line[low].max() > y.min() * (1 + near) or line[low].min() > y.min() * (1 - near)):
            continue
        fit = c, float(y.min()) if floored else None, float(c[-1]) if added else 0.0, sign
        return [fit] if raw else [_divisor(kind, sign / c[0], fit)]
    return []


def _divisor(kind, top, fit, *more):
    _, floor, add, _ = fit
    return Divisor(kind, float(top), add * abs(top), None if floor is None else floor * abs(top), *more)


def _with_mass(c, floor, add, sign, pattern, mass):
    """A divisor that mixes Σ w_y and the count reveals ε′, or the weight that does not show, if ε′ is known."""
    expected = _expected(pattern)
    mixing = pattern.mode == "mixture"  # the fitted weights are then those of whole rows
    ratio = c[1] / c[0]
    unknown = pattern.mode != "nll_only" and shares(pattern)[list(pattern.hidden)].any()
    if unknown and mass is not None and 0 < mass < 1:
        expected = -ratio / mass if mixing else ratio * (1 - mass) / mass
    else:
        mass = -ratio / expected if mixing else ratio / (ratio + expected)
    if abs(ratio) < 1e-9 * expected or mass >= 1:
        return None
    top = sign / ((1 - mass) * c[0]) if mixing else sign * (1 - mass) / c[0]
    return _divisor("target_weight" if mixing else "mixture_weight", top, (c, floor, add, sign), mass, expected)


def _spelled(pair, square, pattern, observation, near):
    """The Reading, at spread "all", of the divisors of the two terms and of lse²; None where they do not go together.

    `square` is None where there is no z-loss.
    """
    known = [divisor for divisor in (*pair, square) if divisor is not None]
    if not any(pair) or len({divisor.kind == "" for divisor in known}) > 1:
        return None
    if len({"caller" in divisor.kind for divisor in known}) > 1:
        return None
    masses = [divisor.mass for divisor in known if divisor.mass is not None]
    tops = [0.0 if divisor is None else divisor.top for divisor in pair]
    scale = sum(tops)
    mass = masses[0] if masses and masses[0] > 0 else tops[1] / scale if scale else 0.0
    if pattern.hidden and (sums := [divisor.expected for divisor in known if divisor.expected is not None]):
        pattern = _revealed(pattern, sums[0])
    weight = pattern.weight
    if pattern.mode == "mixture":
        if mass >= 1:
            return None
        weight = _unmixed(pattern, mass)
    if weight is not None and (weight < 0).any():
        return None
    kinds = [_named(divisor, pattern.mode) if divisor else None for divisor in (*pair, square)]
    kinds = [kinds[0] or kinds[1], kinds[1] or kinds[0], kinds[2]]
    averaged = known[0].kind != ""
    convention = Convention(
        exclude=pattern.exclude,
        class_weights=pattern.mode if weight is not None else "per_term",
        denominator=kinds[0] if averaged else "target_weight",
        smooth_denominator=kinds[1] if averaged else None,
        z_loss_denominator=kinds[2] if averaged else None,
        ignore_scope=pattern.ignore_scope,
        ignore_index=pattern.ignore_index,
    )
    reduction = "none" if observation.per_element else "mean" if averaged else "sum"
    factor, (own, smooth) = 1.0, powers(convention, reduction)
    if weight is not None:
        apart = own != smooth and all(tops)
        factor = _weight_factor(pair, masses, own - smooth) if apart else _unit(known[0], known[-1])
        weight, tops = weight * factor, [tops[0] * factor**own, tops[1] * factor**smooth]
    scale = sum(tops)
    if not scale > 0:
        return None
    mass = tops[1] / scale
    add = next((divisor.add * divisor.grown(factor) for divisor in known if divisor.add), 0.0)
    floor = next((divisor.floor * divisor.grown(factor) for divisor in known if divisor.floor is not None), None)
    convention = replace(
        convention,
        scale=tidy(scale, near),
        denominator_add=tidy(add, near) if averaged else 0.0,
        denominator_floor=tidy(floor, near) if averaged and floor is not None else None,
    )
    z_loss = 0.0 if square is None else square.top * square.grown(factor) / scale
    normalizer = "sentences" if convention.denominator == "caller" else None
    return Reading(convention, float(mass), reduction, pattern.ignore_index, weight, pattern.prior, z_loss, normalizer)


def _weight_factor(pair, masses, power):
    """The factor of the class weights that makes the two terms agree, where ε′ or a divisor's constant tells it."""
    label, smooth = pair
    if masses and 0 < masses[0] < 1:
        ratio = smooth.top / label.top * (1 - masses[0]) / masses[0]
        return ratio ** (1 / power) if ratio > 0 else 1.0
    return _unit(label, smooth)


def _unit(*pair):
    """The factor of the class weights at which two divisors have the same constants: one grows with them, one not."""
    constants = [divisor.floor for divisor in pair]
    constants = constants if all(constants) else [divisor.add for divisor in pair]
    weighty = [divisor.kind in WEIGHTY for divisor in pair]
    if not all(constants) or weighty[0] == weighty[1]:
        return 1.0
    ratio = constants[1] / constants[0] if weighty[0] else constants[0] / constants[1]
    return ratio if ratio > 0 and abs(ratio - 1) > 1e-6 else 1.0


def _unmixed(pattern, mass):
    """Class weights w from those of whole rows, W_y = (1 − ε′)·w_y + ε′·Σ r·w; 0 for what does not show."""
    r = shares(pattern)
    shown = ~np.isin(np.arange(len(r)), pattern.hidden)
    if pattern.revealed or shown.all():
        return (pattern.weight - mass * _expected(pattern)) / (1 - mass)
    expected = (r * pattern.weight)[shown].sum() / (1 - mass + mass * r[shown].sum())
    return np.where(shown, (pattern.weight - mass * expected) / (1 - mass), 0.0)


def _named(divisor, mode):
    """In "mixture" the fitted weights are those of whole rows: their sum over the labels is Σ q·w."""
    simple = divisor.mass is None and divisor.kind == "target_weight"
    return "mixture_weight" if mode == "mixture" and simple else divisor.kind


def _spreads(reading, num_classes, tolerance):
    """The reading at both spreads and objectives, with an ε that each can have."""
    mass, convention = reading.label_smoothing, reading.convention
    for spread in ("all",) if reading.prior is not None else ("all", "others"):
        stretch = replace(convention, spread=spread).stretch(takers(convention, num_classes))
        eps = tidy(mass / stretch, 10 * tolerance) if stretch else 0.0
        if -tolerance <= eps <= 1 + tolerance:
            for objective in ("cross_entropy", "kl"):
                changed = replace(convention, spread=spread, objective=objective)
                yield replace(reading, convention=changed, label_smoothing=min(max(eps, 0.0), 1.0))


def tidy(value, near):
    """The number of few decimals that is as good as the fitted one, if there is one."""
    for decimals in range(7):
        rounded = round(float(value), decimals)
        if abs(rounded - value) <= near * max(abs(value), 1e-3):
            return rounded
    return float(value)
