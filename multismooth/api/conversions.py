"""Converts each argument of a call to an array of the backend or a number, and refuses wrong types and shapes."""

from numbers import Real

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.errors import SmoothingError, complain

FLOATING = {
    "logits": "Cast it; integers have no gradient. The order is logits, targets.",
    "hidden": "Cast it; integers have no gradient. The order is hidden, classifier, targets.",
    "classifier": "Cast it; integers have no gradient. The order is hidden, classifier, targets.",
    "bias": "Cast it; integers have no gradient.",
    "teacher_logits": "Cast it. The order is logits, teacher_logits, targets.",
}
SOFTCAP = "None caps nothing; 30 and 50 are usual: z becomes c·tanh(z/c)."
HIGHEST = {"label_smoothing": 1.0, "weight": None, "sample_weight": None, "z_loss": None, "normalizer": None}


class Conversions:
    """The conversions of the arguments, one method for each kind of argument."""

    def __init__(self, backend):
        self.backend = backend

    def _values(self, array, validate):
        """The values as a NumPy array, or None where they cannot or must not be read."""
        return None if array is None or validate is False else self.backend.values(array, validate)

    def _as_number(self, value):
        """A real number, or the entry of a NumPy array without axes. None for anything else."""
        if type(value) is np.ndarray and value.ndim == 0 and not self.backend.tracing():
            value = value.item()
        return value if isinstance(value, Real) and not isinstance(value, bool) else None

    def _floating(self, name, value, like=None):
        array = self.backend.take(name, value, like)
        if self.backend.kind(array) != "floating":
            raise complain(name, "a floating dtype", str(array.dtype), FLOATING[name])
        return array

    def _numbers(self, name, value, z):
        """An array of real numbers or booleans.

        NumPy integers become floats first, because a framework's integers may be too narrow for them.
        """
        if type(value) is np.ndarray and value.dtype.kind in "iu" and not self.backend.tracing():
            value = value.astype(np.float64)
        array = self.backend.take(name, value, z)
        if self.backend.kind(array) == "other":
            raise complain(name, "real numbers", f"dtype {array.dtype}", "Convert it to floats.")
        return array

    def _smoothing(self, value, z, shape):
        """ε as a float, or as an array of the elements' rank."""
        number = self._as_number(value)
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
        return self._elementwise("label_smoothing", value, z, shape)

    def _nan_outside(self, value, slack, z):
        """The value, with NaN in place of entries outside [0, 1] (by more than `slack`)."""
        xp = self.backend.xp
        return xp.where((value >= -slack) & (value <= 1 + slack), value, xp.constant(float("nan"), z))

    def _elementwise(self, name, value, z, shape):
        xp = self.backend.xp
        padded = argument_checks.broadcasts(name, value.shape, shape, "the elements") if value.ndim else ()
        if value.dtype == xp.float_of(z) and argument_checks.same_shape(value.shape, padded):
            return value  # unchanged, so that the call cache knows that repeated calls need no conversion
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
        return mask if shape[axis] == z.shape[axis] else self.backend.xp.broadcast_to(mask, z.shape)

    def _number(self, name, value, z, validate, zero=0.0):
        """A finite number ≥ 0, as a float or a 0-d array; `zero` is what a plain 0 becomes."""
        number = self._as_number(value)
        if number is not None:
            if not 0 <= number < float("inf"):
                argument_checks.not_negative(name, float(number))
            return float(number) or zero
        value = self._numbers(name, value, z)
        if value.ndim or self.backend.kind(value) == "boolean":
            got = f"shape {tuple(value.shape)}, {value.dtype}"
            raise complain(name, "a number or a 0-d array", got, argument_checks.NOT_NEGATIVE[name])
        if (values := self._values(value, validate)) is not None:
            argument_checks.not_negative(name, values)
        return self.backend.xp.astype(value, self.backend.xp.float_of(z), copy=False)

    def _softcap(self, value, z, validate):
        """A finite number > 0, as a float or a 0-d array; None for None."""
        if value is None:
            return None
        known = number = self._as_number(value)
        if number is None:
            value = self._numbers("logit_softcap", value, z)
            if value.ndim or self.backend.kind(value) == "boolean":
                got = f"shape {tuple(value.shape)}, {value.dtype}"
                raise complain("logit_softcap", "a number or a 0-d array", got, SOFTCAP)
            known = self._values(value, validate)
        if known is not None and not 0 < known < float("inf"):
            raise complain("logit_softcap", "a finite number > 0", f"{float(known):g}", SOFTCAP)
        if number is not None:
            return float(number)
        return self.backend.xp.astype(value, self.backend.xp.float_of(z), copy=False)

    def _nan_if_invalid(self, problem, validate):
        """The Problem with NaN in place of invalid numbers that no check can read.

        `value_checks` raises for them where it can read them. NaN keeps the others from giving a wrong loss silently.
        """
        unseen = {}
        for name in ("prior", "logit_softcap", *HIGHEST):
            value = getattr(problem, name)
            if not (value is None or isinstance(value, float) or self._values(value, validate) is not None):
                unseen[name] = value
        if not unseen:
            return problem
        z, xp = problem.logits, self.backend.xp
        prior, cap = unseen.pop("prior", None), unseen.pop("logit_softcap", None)
        changed = self.backend.nan_outside({name: (value, HIGHEST[name]) for name, value in unseen.items()}, z)
        if prior is not None:
            changed["prior"] = xp.where(self._valid_rows(prior), xp.constant(prior, z), xp.constant(np.nan, z))
        if cap is not None:
            changed["logit_softcap"] = xp.where((cap > 0) & (cap < float("inf")), cap, xp.constant(np.nan, z))
        return problem._replace(**changed)

    def _valid_rows(self, value):
        """Where the rows of a prior are distributions."""
        xp = self.backend.xp
        slack, rows = target_checks.tolerance(value.dtype), xp.astype(value, xp.float_of(value))
        total, lowest = xp.sum(rows, axis=-1, keepdims=True), xp.min(rows, axis=-1, keepdims=True)
        return (lowest >= -slack) & (xp.abs(total - 1) <= slack)

    def _normalizer(self, value, reduction, z, validate):
        if value is None:
            return None
        if reduction != "mean":
            remedy = "Leave one of the two out: a sum is divided by nothing."
            raise complain(
                "normalizer", 'reduction="mean", whose denominator it replaces', f"reduction={reduction!r}", remedy
            )
        return self._number("normalizer", value, z, validate)
