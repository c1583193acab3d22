"""One argument of a call at a time: what it may be, and the array or number that is made of it."""

from numbers import Real

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.errors import SmoothingError, complain

FLOATING = {
    "logits": "Cast it; integers have no gradient. The order is logits, targets.",
    "hidden": "Cast it; integers have no gradient. The order is hidden, classifier, targets.",
    "classifier": "Cast it; integers have no gradient. The order is hidden, classifier, targets.",
    "bias": "Cast it; integers have no gradient.",
}


class Conversions:
    """What a caller's arguments are to a backend."""

    def __init__(self, backend):
        self.backend = backend

    def _values(self, array, validate):
        return None if array is None or validate is False else self.backend.values(array, validate)

    def _plain(self, value):
        """A number of any kind as Python's; None for what is none."""
        if type(value) is np.ndarray and value.ndim == 0 and not self.backend.tracing():
            value = value.item()
        return value if isinstance(value, Real) and not isinstance(value, bool) else None

    def _floating(self, name, value, like=None):
        array = self.backend.take(name, value, like)
        if self.backend.kind(array) != "floating":
            raise complain(name, "a floating dtype", str(array.dtype), FLOATING[name])
        return array

    def _numbers(self, name, value, z):
        """Real numbers, or booleans; a framework's own integers are too narrow for some of NumPy's."""
        if type(value) is np.ndarray and value.dtype.kind in "iu" and not self.backend.tracing():
            value = value.astype(np.float64)
        array = self.backend.take(name, value, z)
        if self.backend.kind(array) == "other":
            raise complain(name, "real numbers", f"dtype {array.dtype}", "Convert it to floats.")
        return array

    def _smoothing(self, value, z, shape, validate):
        """ε as a plain float, or an array of the elements' rank; NaN outside [0, 1] where nobody can look at it."""
        number = self._plain(value)
        if number is not None:
            if not 0.0 <= number <= 0.5:
                argument_checks.smoothing_range(float(number))
                if not self.backend.tracing():
                    argument_checks.smoothing(float(number))
            return float(number)
        if not (self.backend.is_array(value) or hasattr(value, "__array__") or isinstance(value, (list, tuple))):
            raise complain(
                "label_smoothing", "a number in [0, 1] or an array", repr(value), "Pass 0.1, say.", SmoothingError
            )
        value = self._numbers("label_smoothing", value, z)
        if self.backend.kind(value) == "boolean":
            expected, remedy = "numbers in [0, 1]", "Pass 0.1, say: the amount, not whether to smooth."
            raise complain("label_smoothing", expected, f"dtype {value.dtype}", remedy, SmoothingError)
        value = self._elementwise("label_smoothing", value, z, shape)
        return self._inside(value, 0.0, z) if validate is not False and self._values(value, validate) is None else value

    def _inside(self, value, slack, z):
        """NaN for what is outside [0, 1]."""
        xp = self.backend.xp
        return xp.where((value >= -slack) & (value <= 1 + slack), value, xp.constant(float("nan"), z))

    def _elementwise(self, name, value, z, shape):
        xp = self.backend.xp
        padded = argument_checks.broadcasts(name, value.shape, shape, "the elements") if value.ndim else ()
        if value.dtype == xp.float_of(z) and argument_checks.same_shape(value.shape, padded):
            return value  # itself: calls like this one need no conversion
        return xp.reshape(xp.astype(value, xp.float_of(z)), padded)

    def _per_element(self, name, value, z, shape):
        return None if value is None else self._elementwise(name, self._numbers(name, value, z), z, shape)

    def _classes(self, name, value, z, num_classes, square=False):
        if value is None:
            return None
        value = self._floating(name, value, z) if name == "bias" else self._numbers(name, value, z)
        argument_checks.per_class(name, value.shape, num_classes, square)
        return value

    def _mask(self, mask, z, num_classes, axis):
        if mask is None:
            return None
        mask = self.backend.take("class_mask", mask, z)
        if self.backend.kind(mask) != "boolean":
            expected = "booleans, False for a class that does not exist"
            raise complain("class_mask", expected, f"dtype {mask.dtype}", "Pass class_mask != 0.")
        if argument_checks.same_shape(mask.shape, (num_classes,)):
            return mask
        shape = argument_checks.broadcasts("class_mask", mask.shape, z.shape, "the logits")
        mask = self.backend.xp.reshape(mask, shape)
        return mask if shape[axis] == num_classes else self.backend.xp.broadcast_to(mask, z.shape)

    def _number(self, name, value, z, validate, zero=0.0):
        """A finite number ≥ 0, as a float or a 0-d array; `zero` is what a plain 0 becomes."""
        number = self._plain(value)
        if number is not None:
            if not 0 <= number < float("inf"):
                argument_checks.not_negative(name, float(number))
            return float(number) or zero
        value = self._numbers(name, value, z)
        if value.ndim or self.backend.kind(value) == "boolean":
            got = f"shape {tuple(value.shape)}, {value.dtype}"
            raise complain(name, "a number or a 0-d array", got, argument_checks.NOT_NEGATIVE[name])
        if (seen := self._values(value, validate)) is not None:
            argument_checks.not_negative(name, seen)
        return self.backend.xp.astype(value, self.backend.xp.float_of(z))

    def _unseen(self, problem, validate):
        """The Problem with NaN for what `values` would refuse, had it been in sight: no wrong number without a word."""
        changed = {}
        for name in ("weight", "prior", "sample_weight", "z_loss", "normalizer"):
            value = getattr(problem, name)
            if value is None or isinstance(value, float) or self._values(value, validate) is not None:
                continue
            right = self._right(name, value)
            changed[name] = self.backend.xp.where(
                right,
                self.backend.xp.constant(value, problem.logits),
                self.backend.xp.constant(np.nan, problem.logits),
            )
        return problem._replace(**changed) if changed else problem

    def _right(self, name, value):
        """Where an array of numbers is what it ought to be."""
        xp = self.backend.xp
        if name != "prior":
            return (value >= 0) & (value < float("inf"))
        slack, rows = target_checks.tolerance(value.dtype), xp.astype(value, xp.float_of(value))
        total, lowest = xp.sum(rows, axis=-1, keepdims=True), xp.min(rows, axis=-1, keepdims=True)
        return (lowest >= -slack) & (xp.abs(total - 1) <= slack)

    def _normalizer(self, value, reduction, z, validate):
        if value is None:
            return None
        if reduction != "mean":
            remedy = "Leave one of the two out: a sum is divided by nothing."
            raise complain(
                "normalizer", 'reduction="mean", whose divisor it replaces', f"reduction={reduction!r}", remedy
            )
        return self._number("normalizer", value, z, validate)
