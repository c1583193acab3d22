"""The checks that read values. First they find the elements that count, because the others may hold any value."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.problem import Problem, Settings


class VisibleValues:
    """The values of a call that can be read now, as NumPy arrays and plain numbers.

    None stands for an argument that was not passed, or whose values cannot be read (under a trace, on a device).

    Four masks over the elements; None means all elements:
        weighted    the sample weight is not 0
        counted     weighted, and the label is not ignored
        checked     the sample weight must be valid: under ignore_scope "nll_only" everywhere, else where the label is
                    not ignored
        active      the logits enter the loss: under ignore_scope "nll_only" also those of an ignored element
    known: whether every value that these masks depend on can be read.
    """

    smoothing: Any
    weight: Any
    prior: Any
    mask: Any
    sample_weight: Any
    z_loss: Any
    softcap: Any
    normalizer: Any

    def __init__(
        self, problem: Problem, shape, targets, values_of: Callable[[Any], Any], ignore_index=None, keeps_ignored=False
    ):
        self.targets, self.shape = targets, tuple(shape)
        (
            self.smoothing, self.weight, self.prior, self.mask,
            self.sample_weight, self.z_loss, self.softcap, self.normalizer,
        ) = (
            value if value is None or isinstance(value, float) else values_of(value)
            for value in [*problem][2:]  # PyTorch 2.6's compiler cannot slice a NamedTuple
        )  # fmt: skip
        s = self.sample_weight
        not_ignored = None if ignore_index is None or targets is None else targets != ignore_index
        self.weighted = None if s is None else np.broadcast_to(s != 0, self.shape)
        self.counted = self.weighted if not_ignored is None else not_ignored
        if not_ignored is not None and self.weighted is not None:
            self.counted = not_ignored & self.weighted
        self.checked: Any = None if keeps_ignored else not_ignored
        self.active: Any = self.weighted if keeps_ignored else self.counted
        self.known = (s is None) == (problem.sample_weight is None) and (ignore_index is None or targets is not None)

    def some_counted(self):
        """Whether it is certain that at least one element counts."""
        return self.known and bool(math.prod(self.shape) if self.counted is None else self.counted.any())

    def check(self):
        """Check the sample weights, ε and the normalizer. Returns the largest ε among the active elements."""
        if self.sample_weight is not None:
            argument_checks.not_negative("sample_weight", self.sample_weight, self.checked)
        if self.normalizer is not None and self.normalizer == 0 and self.some_counted():
            raise argument_checks.zero_normalizer()
        epsilon = self.smoothing
        if epsilon is None or isinstance(epsilon, float):
            return epsilon or 0.0
        where = self.active if epsilon.ndim else None
        if self.known or not epsilon.ndim:
            argument_checks.smoothing_range(epsilon, where)
            argument_checks.smoothing(argument_checks.largest(epsilon, where))
        return argument_checks.largest(epsilon, where)


def check(problem: Problem, settings: Settings, targets, values_of, tracing: bool) -> tuple[bool, bool]:
    """Check every value that can be read. Returns (valid, clean) of the targets, as `Settings` defines them.

    `targets` are the targets' values, or None where they cannot be read. `values_of` reads another array.
    """
    z, convention, axis, soft = problem.logits, settings.convention, settings.axis, settings.soft
    num_classes, excluded, ignored = z.shape[axis], convention.exclude, None if soft else settings.ignore_index
    keeps_ignored, shape = convention.ignore_scope == "nll_only", argument_checks.elements_shape(z.shape, axis)
    visible = VisibleValues(problem, shape, targets, values_of, ignored, keeps_ignored)
    mask, mask_known = visible.mask, (visible.mask is None) == (problem.class_mask is None)
    if mask is not None and mask.ndim > 1:
        mask = np.broadcast_to(mask, tuple(z.shape))
    valid = clean = False
    source, allowed = "", None
    if mask_known and not tracing:
        source, allowed = argument_checks.allowed_classes(mask, excluded, num_classes, axis)
    if mask is not None and (visible.known or mask.ndim == 1):
        argument_checks.some_class(source, allowed, axis, visible.active)
    if targets is not None and not soft:
        clean = target_checks.labels(targets, num_classes, ignored, mask, axis, excluded, visible.weighted)
        valid = problem.sample_weight is None and mask_known
    elif targets is not None:
        target_checks.distributions("targets", targets, axis, settings.row_tolerance, visible.weighted)
        target_checks.soft_mass(targets, axis, mask, visible.weighted)
        valid = visible.known and mask_known
    epsilon = visible.check()
    if visible.prior is not None:
        target_checks.distributions(
            "prior", visible.prior, -1, target_checks.tolerance(problem.prior.dtype), error=ValueError
        )
        if allowed is not None and (visible.known or allowed.ndim == visible.prior.ndim == 1):
            target_checks.prior_mass(visible.prior, targets, axis, source, allowed, visible.active)
    if visible.weight is not None or visible.prior is not None or epsilon > 0.5:
        mass = convention.mass(epsilon, convention.receivers(num_classes))
        if visible.weight is not None:
            per_term = convention.class_weights == "per_term"
            argument_checks.weights(visible.weight, mass if per_term else 0.0, mask, excluded)
            _check_denominators(problem, settings, visible, epsilon)
        if not soft and not tracing:
            target_checks.largest_entry(mass, visible.prior, targets, num_classes)
    return valid, valid and clean


def _check_denominators(problem, settings, visible, epsilon):
    """Refuse a mean whose denominator Σ w_y over the counted labels is 0, although its numerator is not.

    Where the values cannot be read, the mean is NaN (see `reduction.reciprocal`).
    """
    convention, labels = settings.convention, visible.targets
    if settings.soft or settings.reduction != "mean" or problem.normalizer is not None or labels is None:
        return
    smooths, squares = epsilon > 0 and convention.class_weights != "target", problem.z_loss is not None
    own, smooth, square = convention.denominator, convention.smooth_denominator, convention.z_loss_denominator
    used = [own] if (smooths and smooth is None) or (squares and square is None) else []
    used += [kind for kind, present in ((smooth, smooths), (square, squares)) if present]
    never_zero = convention.denominator_add > 0 or (convention.denominator_floor or 0) > 0
    if "target_weight" not in used or never_zero or not visible.some_counted() or visible.weight.all():
        return
    counted = labels if visible.counted is None else labels[visible.counted]
    if not visible.weight[counted].any():
        raise argument_checks.zero_weights()


def check_binary(problem: Problem, pos_weight, targets, slack, values_of):
    """`check` for `binary_loss`, where each entry of the logits is an element. `pos_weight`: its values, or None."""
    visible = VisibleValues(problem, problem.logits.shape, targets, values_of)
    visible.check()
    if visible.weight is not None:
        argument_checks.not_negative("weight", visible.weight)
    if pos_weight is not None and visible.known:
        argument_checks.not_negative("pos_weight", pos_weight, visible.counted)
    if targets is not None and visible.known:
        target_checks.probability(targets, slack, visible.counted)
