"""Kinds of calls: what types, shapes, dtypes and settings decide is worked out once for all calls of a kind.

What remains of a call is its values. `quick_check` looks at them in the fewest steps.
"""

import math
import sys
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.problem import Call, Memo, Problem
from multismooth.recording import Recorded, Recording, example

LAST = Problem._fields.index("normalizer")  # a plain one is not fixed: it changes from call to call


class Kind:
    """What calls of one kind have in common.

    fixed: (place in the Problem, value) of what is the same in all of them. readers: (place, function) of arguments
    that are not taken as they are. arrays: (place, functions that show it to NumPy one after another, shape and dtype
    of what NumPy sees). visible: whether NumPy sees the values. expect: what `quick_check` wants to know; None: nothing
    is checked. memos: by what `quick_check` found, that is by whether labels are ignored.
    settings: of calls whose values nobody has looked at. programs: of whole calls, by what decides which one serves; a
    backend fills them.
    """

    __slots__ = ("_checked", "arrays", "expect", "fixed", "memos", "programs", "readers", "settings", "visible")

    def __init__(self, problem, given, readers, views, settings, expect):
        self.arrays, self.visible = [*arrays_of(views, problem)], visible(views, problem)
        self.expect, self.memos, self.programs, self._checked = expect, memos(settings, expect), {}, None
        self.settings = settings._replace(valid=False, clean=False)
        shown = {place for place, *_ in self.arrays}
        places = [place for place in range(len(problem)) if place not in shown]
        self.fixed = [(place, problem[place]) for place in places if place < LAST or problem[place] is None]
        fixed = {place for place, _ in self.fixed}
        self.readers = [
            (place, readers[place])
            for place, (value, own) in enumerate(zip(problem, given, strict=True))
            if value is not own and place not in fixed
        ]

    def problem(self, given):
        """The Problem of these arguments, in a kind without readers."""
        problem = [*given]
        for place, value in self.fixed:
            problem[place] = value
        return Problem(*problem)

    def call(self, given):
        """The checked Call of a Problem's arguments, or None if one of their values is unexpected."""
        if self._checked is None:
            self._checked = Recording().program(self._call, Problem._fields)
        try:
            return self._checked(*given)
        except (TypeError, RuntimeError):  # a sparse tensor, or one that requires a gradient
            return None

    def _call(self, recording, *given):
        problem, values, memo = self.recorded(recording, given)
        return Call(problem, memo.settings, memo, values if self.visible else None)

    def recorded(self, recording, given):
        """(the Problem of these arguments, its values as NumPy sees them, their Memo), with the lines that check them.

        The first of the values is the logits of the first element.
        """
        problem = [*self.problem(given)]
        for place, read in self.readers:
            problem[place] = recording.call(read, given[place], value=1.0)
        values = [*problem]
        for place, functions, shape, dtype in self.arrays:
            *first, last = functions
            for function in first:
                values[place] = recording.call(function, values[place])
            if dtype is None:
                values[place] = recording.call(last, values[place])
            else:
                values[place] = recording.array(last, values[place], example(shape, dtype))
        if isinstance(values[LAST], Recorded) and values[LAST].value is None:
            values[LAST] = recording.argument(values[LAST].name, 1.0)
        found = None if self.expect is None else quick_check(values, self.expect, recording)
        return Problem(*problem), tuple(values), self.memos[found]


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
    """{place: functions that show NumPy such an array, one after another} of a Problem.

    None if NumPy cannot read one of them.
    """
    try:
        views = {0: backend.row_view(problem.logits, axis)}
        views |= {place: backend.view(x) for place, x in enumerate(problem) if place and backend.is_array(x)}
        for place, view in views.items():
            shown(view, problem[place])
    except (TypeError, RuntimeError, IndexError):  # or there is no first element
        return None
    return views


def shown(functions, array):
    """The array as NumPy sees it."""
    return reduce(lambda x, function: function(x), functions, array)


def arrays_of(views, problem):
    """(place, functions, shape and dtype of what NumPy sees, or None and None) of every array."""
    for place, functions in views.items():
        values = shown(functions, problem[place])
        yield place, functions, *((None, None) if values is None else (values.shape, values.dtype))


def visible(views, problem):
    """Whether NumPy sees the values of calls like this one, and not only that they are there, on a device."""
    return shown(views[1], problem.targets) is not None


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
    some: bool  # a mean over no elements is left to the full checks


def expectations(problem, settings, scores, some=False):
    """The Expectations of calls of this kind, or None if `quick_check` cannot check such calls.

    scores: whether logits that are probabilities are refused. some: as in Expectations.
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
        some,
    )


def quick_check(values, expect, xp):
    """Whether some labels are ignored. It stops where `value_checks.check` must decide.

    It examines the same values as `check`, in the fewest steps, and is stricter: it never accepts a value that `check`
    refuses or warns about. `values` are a Problem's fields as NumPy sees them; the first of them is the logits of the
    first element, or None. It is recorded by `xp`, so that calls of a kind make the steps that their kind needs.
    """
    row, targets, smoothing, weight, prior, mask, sample_weight, z_loss, softcap, normalizer = xp.plain(values)
    ignored = False
    if expect.soft:
        xp.stop_unless(xp.call(distributions, targets, expect.axis, expect.row_slack, None))
    else:
        if targets.ndim:
            inside = xp.count(targets.view(np.uint64) < expect.classes)  # −1 is huge as uint64
        else:
            inside = xp.count((targets >= 0) & (targets < expect.classes))
        counted, restricted = None, mask is not None or expect.included is not None
        if expect.ignore_index is None:
            xp.stop_unless(inside == targets.size)
        elif expect.ignores_a_class:
            xp.stop_unless(inside == targets.size)
            ignored = xp.ask(xp.count(targets != expect.ignore_index) != targets.size)
        else:
            ignored = xp.ask(inside != targets.size)
        if ignored:
            counted = targets != expect.ignore_index
            if not expect.ignores_a_class:
                xp.stop_unless(xp.count(counted) == inside)
            if expect.some or restricted:  # a label that counts shows that a class exists
                xp.stop_unless(xp.count(counted) > 0)
        for allowed in (mask, expect.included):
            if allowed is not None:
                _stop_unless_allowed(allowed, targets, counted, expect.axis, xp)
    if row is not None and expect.score_slack is not None:
        xp.stop_unless(xp.call(plausible_scores, row, expect.score_slack))
    if weight is not None:
        low, high = xp.lowest(weight), xp.largest(weight)
        xp.stop_unless(low > 0)
        xp.stop_unless(high < math.inf)
        if expect.lightest:
            xp.stop_unless(low >= high * expect.lightest)
    if prior is not None:
        xp.stop_unless(xp.call(distributions, prior, -1, expect.prior_slack, np.float64))
    if type(smoothing) is not float:
        _stop_outside(smoothing, 0.5, xp)
    if sample_weight is not None:
        _stop_outside(sample_weight, sys.float_info.max, xp)
    if z_loss is not None:
        _stop_outside(z_loss, sys.float_info.max, xp)
    for number in (softcap, normalizer):
        if number is not None:
            xp.stop_unless(number > 0)
            xp.stop_unless(number < math.inf)
    return ignored


def _stop_unless_allowed(allowed, targets, counted, axis, xp):
    """Stop unless these classes, of all elements or of each, include the labels of all counted elements."""
    if counted is not None and not targets.ndim:  # the one element is ignored
        return
    if allowed.ndim == 1:
        labels = targets if counted is None else targets[counted]
        found = xp.take(allowed, labels, 0)
        xp.stop_unless(xp.count(found) == (targets.size if counted is None else xp.count(counted)))
    elif counted is None:
        xp.stop_unless(xp.call(allowed_each, allowed, targets, axis))
    else:  # the labels of ignored elements are no classes
        xp.stop_unless(False)


def _stop_outside(values, high, xp):
    """Stop unless all values are in [0, high]. NaN is not."""
    xp.stop_unless(xp.lowest(values) >= 0)
    xp.stop_unless(xp.largest(values) <= high)


def allowed_each(mask, labels, axis):
    """Whether each element's mask of existing classes is True at its label."""
    return bool(np.take_along_axis(mask, np.expand_dims(labels, axis), axis=axis).all())


def plausible_scores(row, slack):
    """Whether the first element's logits do not look like probabilities. They are added up only if two of them do."""
    if row is None or not (0 <= row[0] <= 1 and 0 <= row[-1] <= 2):
        return True
    with np.errstate(over="ignore", invalid="ignore"):
        return not abs(float(np.add.reduce(row)) - 1) <= 2 * slack


def distributions(rows, axis, slack, dtype):
    """Whether all entries are ≥ 0 and all rows sum to 1, added in this dtype, within the slack."""
    with np.errstate(over="ignore", invalid="ignore"):
        total = np.add.reduce(rows, axis, dtype) - 1
    if not np.minimum.reduce(rows, None) >= -slack:
        return False
    return bool(max(-np.minimum.reduce(total, None), np.maximum.reduce(total, None)) <= slack / 2)
