"""Calls like an earlier one: what types, shapes, dtypes and settings decide is worked out once for each kind of call.

The first call of a kind goes through all of `arguments` and leaves a `Kind`: the settings, how each array becomes one
of the backend's, and what `quick_check` expects of their values. Every later call has its values checked and nothing
else. If a value is unexpected (a label that names no class, a class weight of 0), the call goes through `arguments`
again, which says what is wrong with it, if anything is.
"""

from copy import copy

import numpy as np

from multismooth.api.kinds import Kind, expectations, views_of, visible
from multismooth.api.options import by_default
from multismooth.problem import Call, Problem

MAX_KINDS = 1024  # of calls, which are kept. A model that sees sequences of many lengths makes many.
NUMBERS = (float, int)


def remember(kinds, key, kind):
    """Keep a kind of call. When there are too many, all go: which of them are still in use is not known."""
    if len(kinds) >= MAX_KINDS:
        kinds.clear()
    kinds[key] = kind


class CallCache:
    """Call an instance with the arguments of `loss` to get a checked `Call`.

    scores: the logits themselves are here, and not only their shape.
    """

    def __init__(self, arguments, scores=True):
        self._arguments, self._backend, self._scores, self._kinds = arguments, arguments.backend, scores, {}
        self._again, self._answer = Kind.call, lambda call: call

    def answering(self, answer, again):
        """A cache of the same kinds which returns answer(Call), or for a known kind again(Kind, arguments)."""
        other = copy(self)
        other._again, other._answer = again, answer
        return other

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
                kind = self._kinds.get(key)
            except (AttributeError, TypeError, RuntimeError):  # a list, an unhashable convention, a nested tensor
                key = kind = None
            if kind is not None:
                found = self._again(kind, given)
                if found is not None:
                    return found
        given = Problem(*given)
        problem, settings = self._arguments.checked(given, convention, ignore_index, reduction, axis, validate, **own)
        if key is not None and key not in self._kinds:
            kind = self._kind(problem, settings, given, validate)
            if kind is not None:
                remember(self._kinds, key, kind)
        return self._answer(Call(problem, settings))

    def _kind(self, problem, settings, given, validate):
        """The Kind of calls like this one, or None if each of them needs all of `arguments`."""
        z, backend, epsilon, expect = problem.logits, self._backend, problem.label_smoothing, None
        warns = z.shape[settings.axis] < 2 or (type(epsilon) is float and epsilon > 0.5)
        views = views_of(backend, problem, settings.axis)
        if z is not given.logits or views is None or warns or not backend.ordinary(problem):
            return None
        seen = visible(views, problem)
        if not seen and (validate or any(map(backend.is_array, problem[2:]))):  # is guarded, or waited for
            return None
        if seen and validate is not False:
            expect = expectations(problem, settings, self._scores)
            if expect is None:
                return None
        like = backend.template(z.shape, z.dtype, z)
        readers = [None, lambda value: backend.take("targets", value, like)]
        readers += self._arguments.readers(like, settings.axis, settings.reduction, validate)
        return Kind(problem, given, readers, views, settings, expect)


def is_number(value):
    """Whether this is None, a number of Python's, or one of NumPy's, which `arguments` makes one of Python's."""
    return value is None or type(value) in NUMBERS or (isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0)


def kind_of(value):
    """What of an argument decides how calls with it go: of a number the number, of an array all but its values."""
    if type(value) in NUMBERS:
        return type(value), value
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        return type(value), value.item()
    return type(value), value.shape, value.dtype, value.device
