"""Kinds of calls: what types, shapes, dtypes and settings decide is worked out once for all calls of a kind.

What remains of a call is its values. `quick_check` looks at them in the fewest steps.
"""

import math
import sys
from typing import Any, NamedTuple

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.problem import Call, Memo, Problem, new

LAST = Problem._fields.index("normalizer")  # a plain one is not fixed: it changes from call to call


class Kind:
    """What calls of one kind have in common.

    fixed: (place in the Problem, value) of plain numbers. readers: (place, function) of arguments that are not taken
    as they are. views: (place, function) of arrays; the function shows them to NumPy. visible: whether NumPy sees the
    values. expect: what `quick_check` wants to know; None: nothing is checked.
    memos: by what `quick_check` found, that is by whether labels are ignored.
    """

    __slots__ = ("expect", "fixed", "memos", "readers", "views", "visible")

    def __init__(self, problem, given, readers, views, settings, expect):
        self.views, self.expect, self.visible = [*views.items()], expect, visible(views, problem)
        self.memos, self.fixed, self.readers = memos(settings, expect), [], []
        for place, (value, own) in enumerate(zip(problem, given, strict=True)):
            if value is own:
                continue
            if place < LAST and (value is None or isinstance(value, float)):  # what the key says already
                self.fixed.append((place, value))
            else:
                self.readers.append((place, readers[place]))

    def call(self, values):
        """The checked Call of a Problem's arguments, or None if one of their values is unexpected.

        `values` are these arguments in a list, in which the Call's values take their place.
        """
        for place, value in self.fixed:
            values[place] = value
        for place, read in self.readers:
            values[place] = read(values[place])
        problem, found = new(Problem, values), None
        try:
            for place, view in self.views:
                values[place] = view(values[place])
        except (TypeError, RuntimeError):  # a sparse tensor, or one that requires a gradient
            return None
        if self.expect is not None and (found := quick_check(values, self.expect)) is None:
            return None
        memo = self.memos[found]
        return new(Call, (problem, memo.settings, memo, values if self.visible else None))


def memos(settings, expect):
    """A Memo for each answer of `quick_check`; for None, where it is not asked."""
    if expect is None:
        return {None: Memo(settings)}
    found = {}
    for ignored in (False, True):
        clean = not ignored and not settings.soft
        found[ignored] = Memo(settings._replace(valid=True, clean=clean, positive=True))
    return found


def views_of(backend, problem, axis):
    """{place: function that shows NumPy such an array} of a Problem. None if NumPy cannot read one of them."""
    try:
        views = {0: backend.row_view(problem.logits, axis)}
        views |= {place: backend.view(x) for place, x in enumerate(problem) if place and backend.is_array(x)}
        for place, view in views.items():
            view(problem[place])
    except (TypeError, RuntimeError, IndexError):  # or there is no first element
        return None
    return views


def visible(views, problem):
    """Whether NumPy sees the values of calls like this one, and not only that they are there, on a device."""
    return views[1](problem.targets) is not None


# --- their values ----------------------------------------------------------------------------------------------------


class Expectations(NamedTuple):
    """What `quick_check` needs to know about calls of one kind. Shapes, dtypes and settings decide all of it."""

    classes: np.uint64  # how many
    axis: int
    soft: bool
    ignore_index: int | None
    ignores_a_class: bool  # the ignored label is in [0, num_classes)
    row_slack: float  # a soft row is valid if its sum is this close to 1
    score_slack: float | None  # logits look like probabilities if their sum is this close to 1; None: they may
    prior_slack: float
    included: Any  # (K,) booleans, False for a class that the convention excludes; None: it excludes none
    lightest: float  # a ratio of smallest to largest class weight below this one brings a warning


def expectations(problem, settings, scores):
    """The Expectations of calls of this kind, or None if `quick_check` cannot check such calls.

    scores: whether logits that are probabilities are refused.
    """
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
    return Expectations(
        np.uint64(num_classes),
        axis,
        soft,
        settings.ignore_index,
        settings.ignore_index is not None and 0 <= settings.ignore_index < num_classes,
        settings.row_tolerance,
        target_checks.tolerance(z.dtype) if scores else None,
        0.0 if problem.prior is None else target_checks.tolerance(problem.prior.dtype),
        argument_checks.included(convention.exclude, num_classes) if restricted and not soft else None,
        0.0 if mass == 0 else 1 / (1 + num_classes * (1 - mass) / mass),
    )


def quick_check(values, expect):
    """True if some labels are ignored, False if none is; None if `value_checks.check` must decide.

    It examines the same values as `check`, in the fewest steps, and is stricter: it never accepts a value that `check`
    refuses or warns about. `values` are a Problem's fields as NumPy sees them; the first of them is the logits of the
    first element, or None.
    """
    row, targets, smoothing, weight, prior, mask, sample_weight, z_loss, softcap, normalizer = values
    ignored = False
    if expect.soft:
        with np.errstate(over="ignore", invalid="ignore"):
            total = np.add.reduce(targets, expect.axis) - 1
        if not (np.minimum.reduce(targets, None) >= -expect.row_slack and _largest(total) <= expect.row_slack / 2):
            return None
    else:
        outside = targets.size - np.count_nonzero(targets.view(np.uint64) < expect.classes)  # −1 is huge as uint64
        if outside or expect.ignores_a_class:
            ignored = np.count_nonzero(targets == expect.ignore_index)  # None equals no label
            if outside != (0 if expect.ignores_a_class else ignored):
                return None
        if mask is not None or expect.included is not None:
            counted = targets[targets != expect.ignore_index] if ignored else targets
            if not (_allowed(mask, counted, ignored, expect) and _allowed(expect.included, counted)):
                return None
    if row is not None and 0 <= row[0] <= 1 and 0 <= row[-1] <= 2 and _sums_to_one(row, expect.score_slack):
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
    if not (z_loss is None or 0 <= z_loss < math.inf):
        return None
    if not ((softcap is None or 0 < softcap < math.inf) and (normalizer is None or 0 < normalizer < math.inf)):
        return None
    return ignored > 0


def _allowed(mask, labels, ignored=False, expect=None):
    """Whether the mask of existing classes, if there is one, is True at every one of these labels."""
    if mask is None:
        return True
    if mask.ndim == 1:
        return bool(np.logical_and.reduce(mask[labels], None))
    if ignored:  # `labels` are then some of the elements' alone, and no longer in their shape
        return False
    index = np.expand_dims(labels, expect.axis)
    return bool(np.take_along_axis(mask, index, axis=expect.axis).all())


def _between(values, high):
    """Whether all values are in [0, high]. NaN is not."""
    if values.size == 0:
        return True
    return np.minimum.reduce(values, None) >= 0 and float(np.maximum.reduce(values, None)) <= high


def _sums_to_one(row, slack):
    with np.errstate(over="ignore", invalid="ignore"):
        return slack is not None and abs(float(np.add.reduce(row)) - 1) <= 2 * slack


def _largest(differences):
    return max(-np.minimum.reduce(differences, None), np.maximum.reduce(differences, None))
