"""Which convention a loss function implements, found by asking it.

The loss of every softmax convention is −Σ A·log softmax(z) + c with an A that the logits do not change. So a few
gradients (or enough loss values) determine A, A spells the convention, and a fresh problem shows whether it was read
rightly. What is the same on every problem cannot be told apart: then all readings are reported, the plainest first.
"""

from dataclasses import replace

import numpy as np

from multismooth.errors import complain
from multismooth.parity.calling.black_box import LAYOUTS, connect
from multismooth.parity.identification import Identification, settings_text
from multismooth.parity.identifying import probes, target_mass
from multismooth.parity.identifying.equivalents import named, names_of, plainness, unique, variations
from multismooth.parity.identifying.readings import readings
from multismooth.registry import conventions

EXACT = 1e-11  # differences below this are rounding, in float64


def identify(fn, framework=None, *, num_classes=None, weight=None) -> Identification:
    """What fn(logits, targets) computes: convention, ε, reduction, ignored label, and the names that it goes by.

    Args:
        fn: takes (N, K) floating logits (or (B, T, K), or (B, K, T)) and integer labels; returns a scalar or one loss
            per element, or (loss, gradient with respect to the logits). Whatever else it returns is not looked at.
        framework: "torch", "jax" or "numpy"; None takes the first that works. PyTorch and JAX functions are
            differentiated, others are asked for enough values.
        num_classes: K, for a fn that takes one K only; None tries several, and separates what one K cannot.
        weight: (K,) class weights that fn closes over, if they are known. Unknown ones are found as far as they show:
            up to a factor under a mean that divides by them.

    Returns:
        Identification. Its `convention` is None, and its text says why, when fn is no softmax cross-entropy.

    Raises:
        ValueError: fn cannot be called, with all that was tried.

    Some things are the same on every problem and so cannot be told apart: smoothing_map "classy" is "identity" with
    another ε; at one K alone also spread "others" is "all"; a divisor is only as sharp as what fn ignores and weighs;
    a floor larger than 30 elements looks like a sum. Batches without a counted element are not tried.

    >>> import numpy as np
    >>> from multismooth import parity
    >>> def theirs(z, y):
    ...     log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    ...     off = 0.1 / (z.shape[1] - 1)
    ...     return -((0.9 - off) * log_p[np.arange(len(y)), y] + off * log_p.sum(1)).sum()
    >>> found = parity.identify(theirs)
    >>> found.convention.spread, found.label_smoothing, found.reduction, "fairseq" in found.names
    ('others', 0.1, 'sum', True)
    """
    if weight is not None:
        weight = np.asarray(weight, dtype=np.float64)
        if weight.ndim != 1 or num_classes not in (None, len(weight)):
            raise complain("weight", "shape (K,), one entry per class", f"{weight.shape}", "num_classes= is K too.")
        num_classes = len(weight)
    box = connect(fn, framework, num_classes)
    return Search(box, weight).run()


class Search:
    """One run of `identify`: what was asked so far and what it allows."""

    def __init__(self, box, weight):
        self.box, self.weight, self.notes, self.wide = box, weight, [], None
        self.k = box.num_classes
        self.labels = probes.usable(box, self.k)
        labels = probes.uneven(self.labels, self.k)
        self.main = probes.ask(box, labels, self.k, times=probes.unknowns(box, self.k, labels))
        self.target = target_mass.target(self.main)
        self.noise = max(float(np.nan_to_num(self.target.misfit, nan=np.inf).max()), self.target.moves)
        precision = self.main.precision
        if precision > 1e-6:  # half precision: no more than its own rounding can be asked for
            self.limit, self.tolerance = 8 * precision, max(self.noise, precision) / 2
        else:
            self.limit = 2e-5 if self.main.gradient is not None else 2e-4
            least = EXACT if precision < 1e-12 else 20 * precision
            self.tolerance = float(np.clip(30 * self.noise, least, self.limit))

    def run(self):
        if why := self.not_of_the_family():
            return self.nothing(why)
        try:
            patterns = target_mass.patterns(self.main, self.target.mass, max(self.tolerance, 4 * self.noise))
        except target_mass.Undecoded as reason:
            return self.nothing(str(reason))
        patterns = [self.with_many_classes(pattern) for pattern in patterns]
        self.seen = self.observations(patterns[0].ignore_index)
        sentinels = self.sentinels()
        candidates = []
        for pattern in patterns:
            pattern, more = self.with_sentinel(pattern, sentinels)
            found = readings(self.seen + more, pattern, self.tolerance, self.squared(), self.weight)
            candidates += [(reading, self.seen + more) for reading in found]
        near = 10 * self.tolerance
        fitting = [r for r, seen in candidates if all(r.residual(o) <= near for o in seen)]
        return self.conclude(fitting, sentinels, near) if fitting else self.nothing(self.no_reading(candidates))

    # --- asking ---------------------------------------------------------------------------------------------------

    def observations(self, ignored):
        """The first problem and its variations, without those in which nothing counts."""
        tried = [labels for labels in probes.compositions(self.labels, self.k) if (labels != ignored).any()]
        asked = [probes.attempt(self.box, labels, self.k, like=self.main) for labels in tried]
        return [self.main] + [o for o in asked if o is not None and o.finite]

    def with_many_classes(self, pattern):
        """The pattern with the excluded and ignored classes that only many classes show."""
        if self.main.gradient is None or pattern.weight is not None or pattern.prior is not None:
            return pattern
        labels = probes.usable(self.box, probes.MANY)
        self.wide = self.other(probes.uneven(labels, probes.MANY), probes.MANY, times=3)
        if self.wide is None:
            return pattern
        try:
            wide = target_mass.patterns(self.wide, target_mass.target(self.wide).mass, self.tolerance)[0]
        except target_mass.Undecoded:
            return pattern
        if wide.weight is not None or wide.prior is not None:
            return pattern
        if pattern.ignore_index is None:
            pattern = replace(pattern, ignore_index=wide.ignore_index, ignore_scope=wide.ignore_scope)
        return replace(pattern, exclude=wide.exclude)

    def sentinels(self):
        """{label outside [0, K): Observation} for those that fn does not refuse."""
        values, counts = np.unique(self.main.labels, return_counts=True)
        places = np.flatnonzero(self.main.labels == values[counts.argmax()])[: max(counts.max() - 1, 1)]
        found = {}
        for label in probes.SENTINELS:
            if 0 <= label < self.k:
                continue
            labels = self.main.labels.copy()
            labels[places] = label
            observation = probes.attempt(self.box, labels, self.k, like=self.main)
            if observation is not None and observation.finite:
                found[label] = observation
        return found

    def with_sentinel(self, pattern, sentinels):
        """The pattern with the label outside [0, K) that it ignores, if there is one, and what was seen of it."""
        if pattern.ignore_index is not None:
            return pattern, []
        for scope in ("all", "nll_only"):
            found = [
                (changed, [observation])
                for label, observation in sentinels.items()
                for changed in [replace(pattern, ignore_index=label, ignore_scope=scope)]
                if target_mass.factors(changed, observation, self.squared())[-1] <= 10 * self.tolerance
            ]
            if found and scope == "nll_only" and len(found) > 1:  # what one-hot rows make of any impossible label
                self.notes = ["a label outside the classes is not refused: it loses its own term and keeps ε′"]
                sentinels.clear()
                break
            if found:
                return found[0]
        return pattern, []

    def squared(self):
        """Whether there is a z-loss: ζ of an element of the first problem that is more than rounding."""
        return bool(np.abs(self.target.z_loss).max() > 10 * self.tolerance * np.abs(self.target.mass).max())

    # --- concluding -----------------------------------------------------------------------------------------------

    def conclude(self, fitting, sentinels, near):
        """Check the readings at other K and on a fresh problem, and report those that stand."""
        free = [r for r in fitting if r.weight is None and r.prior is None]
        others = self.at_other_k() if free else []
        for other in others:
            standing = [r for r in fitting if r not in free or r.residual(other) <= near]
            if not standing:
                return self.nothing(self.k_dependent(fitting, other))
            fitting = standing
        fitting = sorted(unique([*fitting, *(v for r in fitting for v in variations(r))]), key=plainness)
        fresh = self.fresh(fitting[0], bool(others))
        residuals = [r.residual(fresh) for r in fitting]
        if (gap := min(residuals)) > near:
            why = f"{settings_text(fitting[0])} explains the probes, but is off by {gap:.1e} on a fresh problem"
            return self.nothing(why)
        fitting = [r for r, gap in zip(fitting, residuals, strict=True) if gap <= near]
        names = names_of(fitting, [fresh, *others, *self.seen], near)
        self.note_sentinels(fitting[0], sentinels, near)
        fitting = [replace(r, convention=named(r)) for r in fitting]
        return Identification(
            readings=tuple(fitting),
            names=tuple(sorted(names, key=lambda name: self.rank(name, names[name], fitting[0]))),
            smoothing=names,
            residual=fitting[0].residual(fresh),
            notes=tuple(self.notes),
            asked=self.asked(),
        )

    def at_other_k(self):
        """Observations with few classes and with many, as far as fn takes them."""
        k = probes.FEW if self.k != probes.FEW else 5
        labels = self.labels[self.labels < k]
        asked = self.other(probes.uneven(labels, k), k) if len(labels) else None, self.wide
        return [o for o in asked if o is not None]

    def fresh(self, reading, free):
        """Another problem: other labels and logits, and many classes if fn takes them."""
        if free and self.wide is not None:
            known, k, n = np.unique(self.wide.labels), probes.MANY, probes.elements(probes.MANY)
        else:
            known, k, n = self.labels, self.k, probes.many(self.k)
        return self.other(probes.unseen(known, reading.ignore_index, n), k, scale=3.0) or self.main

    def other(self, labels, k, **options):
        observation = probes.attempt(self.box, labels, k, like=self.main, **options)
        return observation if observation is not None and observation.finite else None

    def note_sentinels(self, reading, sentinels, near):
        """Say what fn does with labels outside [0, K) that it neither refuses nor, by the reading, ignores."""
        for label, observation in [pair for pair in sentinels.items() if pair[0] != reading.ignore_index]:
            others = dict.fromkeys(k for k in (reading.ignore_index, label % self.k, 0, self.k - 1) if k is not None)
            ignored = replace(reading, ignore_index=label).residual(observation) <= near
            alike = (k for k in others if reading.residual(self.as_if(observation, label, k)) <= near)
            taken = None if ignored else next(alike, None)
            if ignored or (taken is not None and taken == reading.ignore_index):
                self.notes.append(f"the label {label} is ignored in the same way")
            elif taken is not None:
                self.notes.append(f"the label {label} is not refused but taken for the class {taken}")
            else:
                self.notes.append(f"the label {label} is neither refused nor ignored: it has a target row of its own")

    @staticmethod
    def as_if(observation, label, other):
        return observation._replace(labels=np.where(observation.labels == label, other, observation.labels))

    def rank(self, name, eps, best):
        """Names with this ε and this ignored label come first, then in the registry's order."""
        recorded = conventions[name].ignore_index == best.ignore_index
        return eps != best.label_smoothing, not recorded, list(conventions).index(name)

    def asked(self):
        precision = "float64" if self.main.precision < 1e-12 else "lower precision"
        how = "gradients" if self.main.gradient is not None else "values"
        shapes, calls = LAYOUTS[self.box.layout][1], self.box.calls
        return {"framework": self.box.mode, "for": how, "shapes": shapes, "in": precision, "calls": calls}

    # --- why nothing fits -----------------------------------------------------------------------------------------

    def nothing(self, why):
        return Identification(why=why, notes=tuple(self.notes), asked=self.asked())

    def not_of_the_family(self):
        """Why no A that stays put explains the answers; "" if one does."""
        misfit = np.nan_to_num(self.target.misfit, nan=np.inf)
        wrong = np.flatnonzero(misfit > self.limit)
        if len(wrong) == 0:
            if self.target.moves <= self.limit:
                return ""
            return (
                "gradient and value do not belong together (something is detached, or added): less what the gradient "
                f"implies, the loss still moves by {self.target.moves:.1e} of itself with the logits"
            )
        g = self.main.gradient
        rows = ", ".join(f"{n} (label {self.main.labels[n]})" for n in wrong[:4]) + (" …" if len(wrong) > 4 else "")
        if g is not None and np.abs(g.sum(-1)).max() > 1e-3 * np.abs(g).max():
            return (
                f"the gradient of an element does not sum to 0 over the classes (up to {np.abs(g.sum(-1)).max():.2g}): "
                "no softmax, or a part of it is detached"
            )
        return (
            "the target mass A moves with the logits, as in a focal or a squared loss: no fixed A explains element "
            f"{rows}, off by {misfit.max():.1e} of the largest {'loss' if g is None else 'gradient'}"
        )

    def no_reading(self, candidates):
        mass = self.masses([self.main])
        if not candidates:
            return f"A is fixed, but how its two terms change with labels and elements fits no divisor: {mass}"
        gaps = [(max(r.residual(o) for o in seen), i) for i, (r, seen) in enumerate(candidates)]
        gap, nearest = min(gaps)
        return f"the nearest reading, {settings_text(candidates[nearest][0])}, is off by {gap:.1e}: {mass}"

    def k_dependent(self, fitting, other):
        return (
            f"at K = {self.k} it is {settings_text(min(fitting, key=plainness))}, but at K = {other.num_classes} that "
            f"is off by {min(r.residual(other) for r in fitting):.1e}: " + self.masses([self.main, other])
        )

    def masses(self, observations):
        """The target mass of an element of each problem, as text."""
        texts = []
        for o in observations:
            times = probes.unknowns(self.box, o.num_classes, o.labels)
            mass = target_mass.target(probes.ask(self.box, o.labels, o.num_classes, times=times)).mass
            texts.append(f"{mass.sum() / self.unit(len(o.labels)):.6g} at K = {o.num_classes}")
        return "the target mass of an element is " + " and ".join(texts)

    def unit(self, n):
        """1 where A sums to one element's mass, the number of elements where it sums to all of them."""
        total = self.target.mass.sum()
        return 1.0 if abs(np.log(max(abs(total), 1e-9))) < 0.7 else float(n)
