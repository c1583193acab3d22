"""Converts and checks the arguments that only the losses beside smoothing have."""

import numpy as np

from multismooth import alternatives
from multismooth.api import argument_checks, target_checks
from multismooth.api.conversions import Conversions
from multismooth.api.options import by_default
from multismooth.classes import Classes
from multismooth.errors import TargetError, complain
from multismooth.registry import resolve
from multismooth.spec import along
from multismooth.target import included_classes

MODULATIONS = {"class": alternatives.Focal, "label": alternatives.LabelFocal}


class Parameters(Conversions):
    """Makes the alternative of a call from its arguments.

    Its numbers may be 0-d arrays. An invalid number that no check can read becomes NaN.
    """

    def focal(self, gamma, modulation, problem, settings, validate):
        if not isinstance(modulation, str) or modulation not in MODULATIONS:
            remedy = '"class" multiplies each class\'s term by (1 − p_k)^γ, "label" the whole loss by (1 − p_y)^γ.'
            raise complain("modulation", '"class" or "label"', repr(modulation), remedy)
        if modulation == "label" and settings.soft:
            remedy = 'Pass integer labels, or modulation="class".'
            raise complain(
                "targets", 'labels for modulation "label"', "soft targets, which name no label", remedy, TargetError
            )
        if modulation == "label" and settings.convention.ignore_scope == "nll_only":
            expected = '"class" under ignore_scope "nll_only"'
            raise complain("modulation", expected, '"label"', "An ignored label has no probability to modulate by.")
        return MODULATIONS[modulation](self.number("gamma", gamma, problem, validate))

    def penalty(self, beta, problem, validate):
        return alternatives.Penalty(self.number("beta", beta, problem, validate))

    def margin(self, margin, strength, problem, validate):
        strength = self.number("strength", strength, problem, validate)
        return alternatives.Margin(strength, self.number("margin", margin, problem, validate))

    def distillation(self, teacher, temperature, hard_weight, learns_labels, problem, settings, validate):
        z, xp = problem.logits, self.backend.xp
        teacher = self._teacher(teacher, z, settings.axis, validate)
        temperature = self.number("temperature", temperature, problem, validate, lambda t: (t > 0) & (t < np.inf))
        hard_weight = self.number("hard_weight", hard_weight, problem, validate, lambda h: (h >= 0) & (h <= 1))
        if not (isinstance(hard_weight, float) and hard_weight == 0.0):
            if not learns_labels:
                remedy = "Pass the labels, or leave out hard_weight."
                raise complain("targets", "labels or distributions, because hard_weight is not 0", "None", remedy)
        else:
            _only_for_labels(problem)
        return alternatives.Distillation(xp.stop_gradient(teacher), temperature, hard_weight)

    @by_default
    def any_labels(self, logits, *, class_mask, convention, axis, **others):
        """(labels that are all valid, the class axis) for a call without targets: the first class that exists."""
        z, xp, convention = self._floating("logits", logits), self.backend.xp, resolve(convention)
        axis = argument_checks.axis_index(-1 if axis is None else axis, z.ndim, "the logits")
        mask = self._mask(class_mask, z, z.shape[axis], axis)
        labels = self.backend.array(next(k for k in range(z.shape[axis] + 1) if k not in convention.exclude), z)
        if mask is not None:
            allowed = along(mask, z, axis, xp) if mask.ndim == 1 else mask
            if convention.exclude:
                classes = Classes(z, axis, xp)
                allowed = allowed & classes.row(included_classes(convention, classes))
            labels = xp.argmax(xp.astype(allowed, xp.float_of(z)), axis=axis)
        return xp.broadcast_to(labels, argument_checks.elements_shape(z.shape, axis)), axis

    def _teacher(self, teacher, z, axis, validate):
        teacher = self._floating("teacher_logits", teacher, z)
        if not argument_checks.same_shape(teacher.shape, z.shape):
            remedy = "The teacher's classes are the student's, element by element."
            raise complain("teacher_logits", f"the logits' shape {tuple(z.shape)}", f"{tuple(teacher.shape)}", remedy)
        row = None if validate is False else self.backend.first_row(teacher, axis, validate)
        if row is not None:
            values = lambda: (self._values(teacher, True), axis)  # noqa: E731
            target_checks.probabilities(row, target_checks.tolerance(teacher.dtype), values, "teacher_logits")
        return teacher

    def number(self, name, value, problem, validate, valid=lambda x: (x >= 0) & (x < np.inf)):
        """A number as a float, or as a 0-d array of the computing dtype."""
        z, xp = problem.logits, self.backend.xp
        number = self._as_number(value)
        if number is not None:
            known = number = float(number)
        else:
            value = self._numbers(name, value, z)
            if value.ndim or self.backend.kind(value) == "boolean":
                raise complain(
                    name, "a number or a 0-d array", f"shape {tuple(value.shape)}, {value.dtype}", RANGE[name][1]
                )
            number, known = xp.astype(value, xp.float_of(z)), self._values(value, validate)
        if known is not None and not valid(known):
            raise complain(name, RANGE[name][0], f"{float(known):g}", RANGE[name][1])
        return (
            number
            if known is not None or validate is False
            else xp.where(valid(number), number, xp.constant(np.nan, z))
        )


def _only_for_labels(problem):
    """Refuse arguments of the label's term in a call that has none."""
    smoothing = problem.label_smoothing
    given = {
        "label_smoothing": None if isinstance(smoothing, float) and smoothing == 0.0 else smoothing,
        "weight": problem.weight,
        "prior": problem.prior,
    }
    for name, value in given.items():
        if value is not None:
            got = f"{value:g}" if isinstance(value, float) else f"shape {tuple(value.shape)}"
            remedy = "They belong to the labels' term: pass hard_weight > 0, or leave them out."
            raise complain(name, "none with hard_weight 0", got, remedy)


RANGE = {
    "gamma": ("a finite number ≥ 0", "0 is the loss without modulation, 2 the value of the paper."),
    "beta": ("a finite number ≥ 0", "0 is no penalty, 0.1 a usual one."),
    "strength": ("a finite number ≥ 0", "0 is no penalty, 0.1 the value of the paper."),
    "margin": ("a finite number ≥ 0", "It is a difference of logits; 10 is the value of the paper."),
    "temperature": ("a finite number > 0", "1 takes the teacher's probabilities as they are; 2 to 4 are usual."),
    "hard_weight": ("a number in [0, 1]", "0 learns from the teacher alone, 1 from the labels alone."),
}
