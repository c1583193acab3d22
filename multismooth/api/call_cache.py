"""Calls like an earlier one: what types, shapes, dtypes and settings decide is worked out once for each kind of call.

The first call of a kind goes through all of `arguments` and leaves an `Entry`: the settings, how each array becomes one
of the backend's, and what `quick_check` expects of their values. Every later call has its values checked and nothing
else. If a value is unexpected (a label that names no class, a class weight of 0), the call goes through `arguments`
again, which says what is wrong with it, if anything is.
"""

import numpy as np

from multismooth.api.options import by_default
from multismooth.api.value_checks import expectations, quick_check
from multismooth.problem import Call, Memo, Problem, new

MAX_ENTRIES = 1024  # kinds of calls that are kept. A model that sees sequences of many lengths makes many.
NUMBERS = (float, int)
LAST = Problem._fields.index("normalizer")  # a plain one is not fixed: it changes from call to call


class Entry:
    """What calls of one kind have in common.

    fixed: (place in the Problem, value) of plain numbers. readers: (place, function) of arguments that are not taken
    as they are. expect: what `quick_check` wants to know; None: nothing is checked.
    memos: by what `quick_check` found, that is by whether labels are ignored.
    """

    __slots__ = ("axis", "expect", "fixed", "memos", "readers", "scores")

    def __init__(self, problem, given, readers, settings, expect, scores):
        self.axis, self.expect, self.scores = settings.axis, expect, scores
        self.memos, self.fixed, self.readers = memos(settings, expect), [], []
        for place, (value, own) in enumerate(zip(problem, given, strict=True)):
            if value is own:
                continue
            if place < LAST and (value is None or isinstance(value, float)):  # what the key says already
                self.fixed.append((place, value))
            else:
                self.readers.append((place, readers[place]))

    def call(self, backend, arguments):
        """The checked Call of these arguments of a Problem, or None if one of their values is unexpected."""
        for place, value in self.fixed:
            arguments[place] = value
        for place, read in self.readers:
            arguments[place] = read(arguments[place])
        problem, found = new(Problem, arguments), None
        seen = backend.views(problem, self.axis, self.scores)
        if seen is None:
            return None
        row, values = seen
        if self.expect is not None and (found := quick_check(row, values, self.expect)) is None:
            return None
        memo = self.memos[found]
        return new(Call, (problem, memo.settings, memo, values))


def remember(entries, key, entry):
    """Keep an entry. When there are too many, all go: which of them are still in use is not known."""
    if len(entries) >= MAX_ENTRIES:
        entries.clear()
    entries[key] = entry


class CallCache:
    """Call an instance with the arguments of `loss` to get a checked `Call`.

    scores: the logits themselves are here, and not only their shape.
    """

    def __init__(self, arguments, scores=True):
        self._arguments, self._backend, self._scores, self._entries = arguments, arguments.backend, scores, {}

    @by_default
    def __call__(
        self, logits, targets, *, label_smoothing, convention, weight, prior, class_mask, sample_weight,
        ignore_index, z_loss, logit_softcap, reduction, normalizer, axis, validate, **own,
    ):  # fmt: skip
        """`own`: the keywords that this backend alone has. Calls with one of them are not remembered."""
        key, given = None, [
            logits, targets, label_smoothing, weight, prior, class_mask, sample_weight, z_loss, logit_softcap,
            normalizer,
        ]  # fmt: skip
        if not (own or self._backend.watched()):
            try:
                key = (
                    type(logits), logits.shape, logits.dtype, logits.device, type(targets), targets.shape,
                    targets.dtype, targets.device, convention, ignore_index, type(ignore_index), reduction, axis,
                    type(axis), validate,
                    label_smoothing if type(label_smoothing) is float else kind_of(label_smoothing),
                    None if weight is None else kind_of(weight), None if prior is None else kind_of(prior),
                    None if class_mask is None else kind_of(class_mask),
                    None if sample_weight is None else kind_of(sample_weight),
                    z_loss if type(z_loss) is float else kind_of(z_loss),
                    None if logit_softcap is None else kind_of(logit_softcap),
                    None if normalizer is None else type(normalizer) if is_number(normalizer) else kind_of(normalizer),
                )  # fmt: skip
                entry = self._entries.get(key)
            except (AttributeError, TypeError, RuntimeError):  # a list, an unhashable convention, a nested tensor
                key = entry = None
            if entry is not None:
                call = entry.call(self._backend, given.copy())
                if call is not None:
                    return call
        given = Problem(*given)
        problem, settings = self._arguments.checked(given, convention, ignore_index, reduction, axis, validate, **own)
        if key is not None and key not in self._entries:
            entry = self._entry(problem, settings, given, validate)
            if entry is not None:
                remember(self._entries, key, entry)
        return Call(problem, settings)

    def _entry(self, problem, settings, given, validate):
        """An Entry for calls like this one, or None if each of them needs all of `arguments`."""
        z, backend, scores, epsilon = problem.logits, self._backend, self._scores, problem.label_smoothing
        seen = backend.views(problem, settings.axis, scores)
        warns = z.shape[settings.axis] < 2 or (type(epsilon) is float and epsilon > 0.5)
        if z is not given.logits or seen is None or warns or not backend.ordinary(problem):
            return None
        visible, expect = seen[1] is not None, None
        if not visible and (validate or any(map(backend.is_array, problem[2:]))):  # is guarded, or waited for
            return None
        if visible and validate is not False:
            expect = expectations(problem, settings)
            if expect is None:
                return None
        like = backend.template(z.shape, z.dtype, z)
        readers = [None, lambda value: backend.take("targets", value, like)]
        readers += self._arguments.readers(like, settings.axis, settings.reduction, validate)
        return Entry(problem, given, readers, settings, expect, scores)


def memos(settings, expect):
    """A Memo for each answer of `quick_check`; for None, where it is not asked."""
    if expect is None:
        return {None: Memo(settings)}
    found = {}
    for ignored in (False, True):
        clean = not ignored and not settings.soft
        found[ignored] = Memo(settings._replace(valid=True, clean=clean, positive=True))
    return found


def is_number(value):
    """Whether this is None, a number of Python's, or one of NumPy's, which `arguments` makes one of Python's."""
    return value is None or type(value) in NUMBERS or (isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0)


def kind_of(value):
    """What of an argument decides how calls with it go: of a number the number, of an array all but its values."""
    if is_number(value):
        return type(value), value if type(value) in NUMBERS else value.item()
    return type(value), value.shape, value.dtype, value.device
