"""The checks that need values, put together: which elements count decides what may stand at the others."""

import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.problem import Problem, Settings


class Seen:
    """What can be seen of a call: NumPy arrays, plain numbers, and None for what is not there or out of sight.

    something: elements with a sample weight that is not 0. counted: those of them whose label is not ignored. weighed:
    those whose sample weight matters; active: those whose logits do, as an ignored one's under ignore_scope "nll_only".
    None: all. known: all of this is in sight.
    """

    smoothing: Any
    weight: Any
    prior: Any
    mask: Any
    sample_weight: Any
    z_loss: Any
    normalizer: Any

    def __init__(self, problem: Problem, shape, targets, see: Callable[[Any], Any], ignore_index=None, keeps=False):
        self.targets, self.shape = targets, tuple(shape)
        self.smoothing, self.weight, self.prior, self.mask, self.sample_weight, self.z_loss, self.normalizer = (
            value if value is None or isinstance(value, float) else see(value)
            for value in [*problem][2:]  # PyTorch 2.6's compiler cuts no NamedTuple
        )
        s = self.sample_weight
        labelled = None if ignore_index is None or targets is None else targets != ignore_index
        self.something = None if s is None else np.broadcast_to(s != 0, self.shape)
        self.counted = self.something if labelled is None else labelled
        if labelled is not None and self.something is not None:
            self.counted = labelled & self.something
        self.weighed: Any = None if keeps else labelled
        self.active: Any = self.something if keeps else self.counted
        self.known = (s is None) == (problem.sample_weight is None) and (ignore_index is None or targets is not None)

    def anything(self):
        """Whether something is sure to be counted."""
        return self.known and bool(math.prod(self.shape) if self.counted is None else self.counted.any())

    def check(self):
        """Sample weights, ε and the normalizer; the largest ε that counts."""
        if self.sample_weight is not None:
            argument_checks.not_negative("sample_weight", self.sample_weight, self.weighed)
        if self.normalizer is not None and self.normalizer == 0 and self.anything():
            raise argument_checks.divides_by_nothing()
        epsilon = self.smoothing
        if epsilon is None or isinstance(epsilon, float):
            return epsilon or 0.0
        where = self.active if epsilon.ndim else None
        if self.known or not epsilon.ndim:
            argument_checks.smoothing_range(epsilon, where)
            argument_checks.smoothing(argument_checks.highest(epsilon, where))
        return argument_checks.highest(epsilon, where)


def check(problem: Problem, settings: Settings, targets, see, tracing: bool) -> tuple[bool, bool]:
    """Look at what can be looked at; (valid, clean) of the labels: see `Settings`."""
    z, convention, axis, soft = problem.logits, settings.convention, settings.axis, settings.soft
    num_classes, excluded, ignored = z.shape[axis], convention.exclude, None if soft else settings.ignore_index
    keeps = convention.ignore_scope == "nll_only"
    seen = Seen(problem, argument_checks.elements_shape(z.shape, axis), targets, see, ignored, keeps)
    mask, there = seen.mask, (seen.mask is None) == (problem.class_mask is None)
    if mask is not None and mask.ndim > 1:
        mask = np.broadcast_to(mask, tuple(z.shape))
    valid = clean = False
    what, left = argument_checks.together(mask, excluded, num_classes, axis) if there and not tracing else ("", None)
    if mask is not None and (seen.known or mask.ndim == 1):
        argument_checks.some_class(what, left, axis, seen.active)
    if targets is not None and not soft:
        clean = target_checks.labels(targets, num_classes, ignored, mask, axis, excluded, seen.something)
        valid = problem.sample_weight is None and there
    elif targets is not None:
        target_checks.distributions("targets", targets, axis, settings.row_tolerance, seen.something)
        target_checks.soft_mass(targets, axis, mask, seen.something)
        valid = seen.known and there
    epsilon = seen.check()
    if seen.prior is not None:
        target_checks.distributions(
            "prior", seen.prior, -1, target_checks.tolerance(problem.prior.dtype), error=ValueError
        )
        if left is not None and (seen.known or left.ndim == seen.prior.ndim == 1):
            target_checks.prior_left(seen.prior, targets, axis, what, left, seen.active)
    if seen.weight is not None or seen.prior is not None or epsilon > 0.5:
        mass = convention.mass(epsilon, convention.receivers(num_classes))
        if seen.weight is not None:
            per_term = convention.class_weights == "per_term"
            argument_checks.weights(seen.weight, mass if per_term else 0.0, mask, excluded)
            _check_divisors(problem, settings, seen, epsilon)
        if not soft and not tracing:
            target_checks.largest_entry(mass, seen.prior, targets, num_classes)
    return valid, valid and clean


def _check_divisors(problem, settings, seen, epsilon):
    """Σ w_y of the counted labels divides no sum that is not empty; where it cannot be seen, the mean is NaN."""
    convention, labels = settings.convention, seen.targets
    if settings.soft or settings.reduction != "mean" or problem.normalizer is not None or labels is None:
        return
    smooths, squares = epsilon > 0 and convention.class_weights != "target", problem.z_loss is not None
    own, smooth, square = convention.denominator, convention.smooth_denominator, convention.z_loss_denominator
    used = [own] if (smooths and smooth is None) or (squares and square is None) else []
    used += [kind for kind, there in ((smooth, smooths), (square, squares)) if there]
    lifted = convention.denominator_add > 0 or (convention.denominator_floor or 0) > 0
    if "target_weight" not in used or lifted or not seen.anything() or seen.weight.all():
        return
    counted = labels if seen.counted is None else labels[seen.counted]
    if not seen.weight[counted].any():
        raise argument_checks.weighs_nothing()


def check_binary(problem: Problem, targets, slack, see):
    """The same for `binary_loss`, whose entries all stand alone; `weight` holds pos_weight."""
    seen = Seen(problem, problem.logits.shape, targets, see)
    seen.check()
    if seen.weight is not None and seen.known:
        argument_checks.not_negative("pos_weight", seen.weight, seen.counted)
    if targets is not None and seen.known:
        target_checks.probability(targets, slack, seen.counted)


# --- calls like an earlier one ----------------------------------------------------------------------------------------


class Expectations(NamedTuple):
    """What `quick_check` needs to know of a kind of call: all of it follows from shapes, dtypes and settings."""

    num_classes: int
    axis: int
    soft: bool
    ignore_index: int | None
    row_slack: float  # how far from 1 the sum of a soft row may be
    score_slack: float  # how far from 1 the sum of logits may be that look like probabilities
    prior_slack: float
    included: Any  # (K,) booleans, or None: the classes that the convention does not exclude
    lightest: float  # the smallest class weight over the largest that brings no warning


def expectations(problem, settings):
    """The Expectations of calls like this one, or None if `quick_check` cannot judge them."""
    z, convention, axis, soft = problem.logits, settings.convention, settings.axis, settings.soft
    num_classes, mask, restricted = z.shape[axis], problem.class_mask, bool(convention.exclude)
    if num_classes < 2 or 0 in z.shape or (soft and (z.ndim < 2 or "float" not in str(problem.targets.dtype))):
        return None
    if mask is not None and (soft or (mask.ndim > 1 and tuple(mask.shape) != tuple(z.shape))):
        return None
    if problem.prior is not None and (mask is not None or restricted):
        return None
    if any("float" not in str(x.dtype) for x in (problem.weight, problem.prior) if x is not None):
        return None
    epsilon = problem.label_smoothing if isinstance(problem.label_smoothing, float) else 0.5
    mass = convention.mass(epsilon, convention.receivers(num_classes)) if convention.class_weights == "per_term" else 0
    included = np.array([k not in convention.exclude for k in range(num_classes)]) if restricted else None
    return Expectations(
        num_classes,
        axis,
        soft,
        settings.ignore_index,
        settings.row_tolerance,
        target_checks.tolerance(z.dtype),
        0.0 if problem.prior is None else target_checks.tolerance(problem.prior.dtype),
        included,
        0.0 if mass == 0 else 1 / (1 + num_classes * (1 - mass) / mass),
    )


def quick_check(row, values, expect):
    """Whether labels were found that are ignored: True or False; None where `check` must look again.

    Looks at all that `check` looks at, in the fewest steps, and is content with less: it never accepts what `check`
    refuses or warns of. `row` is the first element's logits or None, `values` the arrays of the Problem behind them.
    """
    targets, smoothing, weight, prior, mask, sample_weight, z_loss, normalizer = values
    ignored = False
    if expect.soft:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(targets, expect.axis) - 1
        if not (np.minimum.reduce(targets, None) >= -expect.row_slack and _largest(total) <= expect.row_slack / 2):
            return None
    else:
        ignored, counted = _ignored(targets, expect)
        if counted is None or not (mask is None or _allowed(mask, counted, ignored, expect)):
            return None
        if not (expect.included is None or _allowed(expect.included, counted)):
            return None
    if row is not None and 0 <= row[0] <= 1 and _sums_to_one(row, 2 * expect.score_slack):
        return None
    if weight is not None:
        low, high = np.minimum.reduce(weight), np.maximum.reduce(weight)
        if not (low > 0 and high < math.inf and low >= expect.lightest * high):
            return None
    if prior is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(prior, -1, np.float64) - 1
        if not (np.minimum.reduce(prior, None) >= -expect.prior_slack and _largest(total) <= expect.prior_slack / 2):
            return None
    if type(smoothing) is not float and not _between(smoothing, 0.5):
        return None
    if sample_weight is not None and not _between(sample_weight, sys.float_info.max):
        return None
    if not (z_loss is None or 0 <= z_loss < math.inf) or not (normalizer is None or 0 < normalizer < math.inf):
        return None
    return ignored


def _ignored(labels, expect):
    """(whether some labels are ignored, the others), None for the others where one names no class."""
    ignore_index, ignored = expect.ignore_index, False
    if labels.size and np.maximum.reduce(labels.view(np.uint64), None) >= expect.num_classes:  # negative ones are huge
        if ignore_index is None:
            return False, None
        ignored, labels = True, labels[labels != ignore_index]
        if labels.size and np.maximum.reduce(labels.view(np.uint64), None) >= expect.num_classes:
            return True, None
    elif ignore_index is not None and ignore_index >= 0 and (labels == ignore_index).any():
        ignored, labels = True, labels[labels != ignore_index]
    return ignored, labels


def _allowed(mask, labels, ignored=False, expect=None):
    """Whether the mask of existing classes has all these labels."""
    if mask.ndim == 1:
        return bool(np.logical_and.reduce(mask[labels], None))
    place = np.expand_dims(labels, expect.axis)
    return not ignored and bool(np.take_along_axis(mask, place, axis=expect.axis).all())


def _between(values, high):
    """Whether all values are in [0, high]; NaN is not."""
    if values.size == 0:
        return True
    return np.minimum.reduce(values, None) >= 0 and float(np.maximum.reduce(values, None)) <= high


def _sums_to_one(row, slack):
    with np.errstate(over="ignore", invalid="ignore"):
        return abs(float(np.add.reduce(row)) - 1) <= slack


def _largest(differences):
    return max(-np.minimum.reduce(differences, None), np.maximum.reduce(differences, None))
