"""Which convention a loss function implements, found from its answers to a few problems.

The loss of every softmax convention is −Σ A·log softmax(z) + c, and the logits do not change A. A few gradients, or
enough loss values, determine A. A determines the convention. A fresh problem then shows whether that convention fits.
Conventions that agree on every problem cannot be told apart: all of them are reported, the simplest first.
"""

from dataclasses import replace
from itertools import product

import numpy as np

from multismooth.parity.calling.forms import default_length
from multismooth.parity.identification import Identification
from multismooth.parity.identifying import factors, probes, reasons, target_mass
from multismooth.parity.identifying.equivalents import matching_names, simplicity, unique, variations, with_name
from multismooth.parity.identifying.readings import readings
from multismooth.parity.reading import settings_text
from multismooth.registry import conventions

EXACT = 1e-11  # relative differences below this are float64 rounding


class Search:
    """The search for readings of one loss in one form: the answers observed so far, and the readings they allow.

    precision: machine epsilon of what fn computes in, where it is coarser than the dtype of its answers.
    """

    def __init__(self, box, weight=None, precision=0.0):
        self.box, self.weight, self.num_classes = box, weight, box.num_classes
        self.notes = []
        self.at_many_classes = None  # an Observation with many classes, where fn takes them
        self.labels = probes.accepted_labels(box, self.num_classes)
        labels = probes.uneven_labels(self.labels, self.num_classes)
        times = probes.calls_needed(box, self.num_classes, labels)
        self.first = probes.observe(box, labels, self.num_classes, times=times)
        self.fitted = target_mass.fit(self.first)
        self.noise = max(float(np.nan_to_num(self.fitted.misfit, nan=np.inf).max()), self.fitted.constant_drift)
        precision = self.precision = max(self.first.precision, precision)
        if precision > 1e-6:  # half precision: answers are exact to its rounding only
            self.limit, self.tolerance = 8 * precision, max(self.noise, precision) / 2
        else:
            self.limit = 2e-5 if self.first.gradient is not None else 2e-4
            least = EXACT if precision < 1e-12 else 20 * precision
            self.tolerance = float(np.clip(30 * self.noise, least, self.limit))
        self.rtol = 10 * self.tolerance  # how far a reading may be from the answers

    def run(self) -> Identification:
        if why := reasons.why_no_fixed_mass(self.first, self.fitted, self.limit):
            return self._no_match(why, fixed_mass=False)
        try:
            patterns = target_mass.patterns(self.first, self.fitted.mass, max(self.tolerance, 4 * self.noise))
        except target_mass.NoConvention as reason:
            return self._no_match(str(reason))
        patterns = [self._with_many_classes(pattern) for pattern in patterns]
        self.observations = self._observe_label_vectors(patterns[0].ignore_index)
        self.outside = self._observe_outside_labels()
        candidates = []
        for pattern in patterns:
            pattern, observations = self._with_outside_label(pattern)
            found = readings(observations, pattern, self.tolerance, self._has_z_loss(), self.weight)
            candidates += [(reading, observations) for reading in found]
        fitting = [reading for reading, observations in candidates if all(self._fits(reading, o) for o in observations)]
        if fitting:
            return self._conclude(fitting)
        return self._no_match(reasons.why_no_reading(candidates, self._mass([self.first])))

    def _fits(self, reading, observation):
        return reading.residual(observation) <= self.rtol

    def _has_z_loss(self):
        """Whether an element of the first problem has a z-loss that is more than rounding."""
        return bool(np.abs(self.fitted.z_loss).max() > self.rtol * np.abs(self.fitted.mass).max())

    def _mass(self, observations):
        return reasons.mass_of_an_element(self.box, observations, self.fitted)

    def _no_match(self, why, fixed_mass=True):
        return Identification(why=why, notes=tuple(self.notes), asked=self._how_called(), fixed_mass=fixed_mass)

    # --- observing ------------------------------------------------------------------------------------------------

    def _observe(self, labels, num_classes, **options):
        """An Observation, or None where fn raises or its answer is not finite."""
        observation = probes.observe_or_none(self.box, labels, num_classes, like=self.first, **options)
        return observation if observation is not None and observation.finite else None

    def _observe_label_vectors(self, ignore_index):
        """The first problem and its variations, without those in which nothing counts."""
        vectors = probes.label_vectors(self.labels, self.num_classes)
        times = 1 if self.num_classes > 2 else 3  # of two classes one gradient of one element is a single number
        counting = [labels for labels in vectors if (labels != ignore_index).any()]
        found = [self._observe(labels, self.num_classes, times=times) for labels in counting]
        return [self.first] + [observation for observation in found if observation is not None]

    def _with_many_classes(self, pattern):
        """The pattern with the excluded and ignored classes that only many classes show."""
        free = pattern.weight is None and pattern.prior is None
        if self.first.gradient is None or not free or not self.box.any_num_classes:
            return pattern
        labels = probes.uneven_labels(probes.accepted_labels(self.box, probes.MANY_CLASSES), probes.MANY_CLASSES)
        self.at_many_classes = self._observe(labels, probes.MANY_CLASSES, times=3)
        if self.at_many_classes is None:
            return pattern
        try:
            mass = target_mass.fit(self.at_many_classes).mass
            wide = target_mass.patterns(self.at_many_classes, mass, self.tolerance)[0]
        except target_mass.NoConvention:
            return pattern
        if wide.weight is not None or wide.prior is not None:
            return pattern
        if pattern.ignore_index is None:
            pattern = replace(pattern, ignore_index=wide.ignore_index, ignore_scope=wide.ignore_scope)
        return replace(pattern, exclude=wide.exclude)

    def _observe_outside_labels(self):
        """{label outside [0, K): Observation} for the labels that fn does not refuse."""
        values, counts = np.unique(self.first.labels, return_counts=True)
        places = np.flatnonzero(self.first.labels == values[counts.argmax()])[: max(counts.max() - 1, 1)]
        found = {}
        for label in probes.OUTSIDE_LABELS:
            if 0 <= label < self.num_classes:
                continue
            labels = self.first.labels.copy()
            labels[places] = label
            observation = self._observe(labels, self.num_classes, times=1 if self.num_classes > 2 else 3)
            if observation is not None:
                found[label] = observation
        return found

    def _without_a_sentence(self, label):
        """An Observation in which the whole first sentence has a label, and a part of the second; None without one."""
        shape = self.first.shape
        if len(shape) == 1:
            return None
        labels, length = self.first.labels.copy(), len(self.first.labels) // shape[0]
        labels[: length + 1] = label
        return self._observe(labels, self.num_classes)

    def _with_outside_label(self, pattern):
        """(the pattern with the label outside [0, K) that it ignores, if there is one; the observations to explain)."""
        if pattern.ignore_index is not None:
            return pattern, self._with_an_empty_sentence(pattern.ignore_index, self.observations)
        means = (False, True) if len(self.first.shape) > 1 else (False,)
        for scope, of_means in product(("all", "nll_only"), means):
            changes = {"ignore_scope": scope, "sentence_means": of_means}
            ignoring = {label: replace(pattern, ignore_index=label, **changes) for label in self.outside}
            found = [label for label, changed in ignoring.items() if self._explains(changed, self.outside[label])]
            if found and scope == "nll_only" and len(found) > 1:  # one-hot rows do so to any label outside [0, K)
                self.notes = ["a label outside the classes is not refused: it loses its own term and keeps ε′"]
                self.outside = {}
                break
            if found:
                observations = self._with_an_empty_sentence(found[0], self.observations)
                return ignoring[found[0]], [*observations, self.outside[found[0]]]
        return pattern, self.observations

    def _with_an_empty_sentence(self, label, observations):
        """The observations, with one of a wholly ignored sentence, where fn has sentences."""
        empty = self._without_a_sentence(label)
        return observations if empty is None else [*observations, empty]

    def _explains(self, pattern, observation):
        return factors.fit_factors(pattern, observation, self._has_z_loss())[-1] <= self.rtol

    def _observe_other_k(self):
        """Observations with few classes and with many, as far as fn takes them."""
        if not self.box.any_num_classes:
            return []
        few = probes.FEW_CLASSES if self.num_classes != probes.FEW_CLASSES else 5
        labels = self.labels[self.labels < few]
        found = [self._observe(probes.uneven_labels(labels, few), few) if len(labels) else None, self.at_many_classes]
        return [observation for observation in found if observation is not None]

    def _observe_fresh(self, reading, any_num_classes):
        """Another problem, with other labels and logits, and with many classes if fn takes them."""
        if any_num_classes and self.at_many_classes is not None:
            labels, num_classes = np.unique(self.at_many_classes.labels), probes.MANY_CLASSES
            n = default_length(num_classes)
        else:
            labels, num_classes, n = self.labels, self.num_classes, probes.long_length(self.num_classes)
        fresh = probes.fresh_labels(labels, reading.ignore_index, n)
        scale = 1.5 if self.box.form.scores == "probabilities" else 3.0  # Keras clips probabilities at 1e-7
        return self._observe(fresh, num_classes, scale=scale) or self.first

    # --- concluding -----------------------------------------------------------------------------------------------

    def _conclude(self, fitting):
        """The Identification of the readings that also fit at other K and on a fresh problem."""
        any_k = [reading for reading in fitting if reading.weight is None and reading.prior is None]
        at_other_k = self._observe_other_k() if any_k else []
        for other in at_other_k:
            standing = [reading for reading in fitting if reading not in any_k or self._fits(reading, other)]
            if not standing:
                mass = self._mass([self.first, other])
                return self._no_match(reasons.why_not_at_other_k(fitting, self.first, other, mass))
            fitting = standing
        more = [variation for reading in fitting for variation in variations(reading)]
        fitting = sorted(unique([*fitting, *more]), key=simplicity)
        fresh = self._observe_fresh(fitting[0], bool(at_other_k))
        residuals = [reading.residual(fresh) for reading in fitting]
        if min(residuals) > self.rtol:
            off = f"{min(residuals):.1e} on a fresh problem"
            return self._no_match(f"{settings_text(fitting[0])} explains the probes, but is off by {off}")
        fitting = [reading for reading, residual in zip(fitting, residuals, strict=True) if residual <= self.rtol]
        names = matching_names(fitting, [fresh, *at_other_k, *self.observations], self.rtol)
        self._note_outside_labels(fitting[0])
        named = [replace(reading, convention=with_name(reading)) for reading in fitting]
        return Identification(
            readings=tuple(named),
            names=tuple(sorted(names, key=lambda name: self._rank(name, names[name], named[0]))),
            smoothing=names,
            residual=named[0].residual(fresh),
            notes=tuple(self.notes),
            asked=self._how_called(),
        )

    def _note_outside_labels(self, reading):
        """Say what fn does with labels outside [0, K) that it does not refuse and that the reading does not ignore."""
        for label, observation in self.outside.items():
            if label == reading.ignore_index:
                continue
            classes = (reading.ignore_index, label % self.num_classes, 0, self.num_classes - 1)
            others = dict.fromkeys(k for k in classes if k is not None)
            ignored = self._fits(replace(reading, ignore_index=label), observation)
            alike = (k for k in others if self._fits(reading, _relabelled(observation, label, k)))
            taken_for = None if ignored else next(alike, None)
            if ignored or (taken_for is not None and taken_for == reading.ignore_index):
                self.notes.append(f"the label {label} is ignored in the same way")
            elif taken_for is not None:
                self.notes.append(f"the label {label} is not refused but taken for the class {taken_for}")
            else:
                self.notes.append(f"the label {label} is neither refused nor ignored: it has a target row of its own")

    def _rank(self, name, eps, best):
        """A sort key: names with this ε and this ignored label come first, then the registry's order decides."""
        other_label = conventions[name].ignore_index != best.ignore_index
        return eps != best.label_smoothing, other_label, list(conventions).index(name)

    def _how_called(self):
        return {"for": "gradients" if self.first.gradient is not None else "values"}


def _relabelled(observation, before, after):
    """The observation with another label in the place of one."""
    return replace(observation, labels=np.where(observation.labels == before, after, observation.labels))
