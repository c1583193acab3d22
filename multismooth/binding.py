"""From a caller's arguments to a checked Problem: what the public functions have in common, for every backend."""

from numbers import Real

import numpy as np

from multismooth import checks, target_checks
from multismooth.errors import SmoothingError, TargetError, complain
from multismooth.problem import Problem, Settings
from multismooth.registry import resolve


class Binding:
    """Call an instance with the arguments of `loss`, in its order, to get (Problem, Settings)."""

    def __init__(self, backend):
        self._backend = backend

    def __call__(
        self, logits, targets, label_smoothing, convention, weight, prior, class_mask, sample_weight,
        ignore_index, z_loss, reduction, normalizer, axis, validate,
    ):  # fmt: skip
        backend = self._backend
        z = self._floating("logits", logits)
        if z.ndim == 0:
            raise complain("logits", "at least one axis, the classes", "a single number", "")
        if validate not in (None, True, False):
            raise complain("validate", "None, True or False", repr(validate), "")
        if ignore_index is not None and (
            isinstance(ignore_index, bool) or not isinstance(ignore_index, (int, np.integer))
        ):
            raise complain(
                "ignore_index", "an integer or None", repr(ignore_index), "For soft targets use sample_weight."
            )
        convention = resolve(convention)
        targets = backend.array(targets, z)
        kind = backend.kind(targets)
        seen = self._values(targets, validate)
        axis = target_checks.class_axis(z.shape, targets.shape, kind != "integer", axis, seen)
        target_checks.target_shape(kind, targets.shape, z.shape, axis)
        num_classes, shape = z.shape[axis], checks.elements_shape(z.shape, axis)
        if num_classes == 0:
            raise complain("logits", "at least one class", f"shape {tuple(z.shape)} with classes on axis {axis}", "")

        problem = Problem(
            logits=z,
            targets=targets,
            label_smoothing=self._smoothing(label_smoothing, z, shape, validate),
            weight=self._classes("weight", weight, z, num_classes),
            prior=self._classes("prior", prior, z, num_classes, square=True),
            class_mask=self._mask(class_mask, z, num_classes, axis),
            sample_weight=self._per_element("sample_weight", sample_weight, z, shape, validate),
            z_loss=self._number("z_loss", z_loss, z, validate, zero=None),
            normalizer=self._normalizer(normalizer, reduction, z, validate),
        )
        soft = kind != "integer"
        _combinations(convention, problem, soft, reduction)
        valid, clean = soft, False  # rows that nobody is to look at are taken as they are
        if validate is not False:
            valid, clean = self._check_values(problem, convention, axis, soft, ignore_index, seen, validate)
        ignore_index = None if ignore_index is None else int(ignore_index)
        tolerance = target_checks.tolerance(targets.dtype)
        return problem, Settings(convention, axis, soft, ignore_index, reduction, valid, clean, tolerance)

    def template(self, targets, num_classes, axis, dtype):
        """(logits in shape and dtype only, targets): what `smooth_targets` binds in place of logits."""
        backend = self._backend
        size = backend.size(num_classes)
        if size is None or size < 1:
            raise complain("num_classes", "an integer ≥ 1", repr(num_classes), "")
        targets = backend.array(targets)
        shape = tuple(targets.shape)
        if backend.kind(targets) == "integer":
            place = axis % (len(shape) + 1)
            shape = (*shape[:place], size, *shape[place:])
        elif not shape or shape[axis] != size:
            raise complain("targets", f"{num_classes} classes on axis {axis}", f"shape {shape}", "", TargetError)
        if dtype is None and backend.kind(targets) == "floating":
            dtype = targets.dtype
        return backend.template(shape, dtype, targets), targets

    def linear(self, hidden, classifier, bias, chunk_rows, accumulate, targets, *rest):
        """(hidden, classifier, bias, chunk_rows, Problem, Settings); the Problem's logits are a shape only."""
        *rest, axis, validate = rest
        hidden = self._floating("hidden", hidden)
        classifier = self._floating("classifier", self._backend.array(classifier, hidden))
        if hidden.ndim == 0 or classifier.ndim != 2:
            expected = "hidden (N…, D) and classifier (K, D)"
            raise complain("classifier", expected, f"{tuple(hidden.shape)} and {tuple(classifier.shape)}", "")
        place = (hidden.ndim - 1 if axis is None else axis) % hidden.ndim
        if hidden.shape[place] != classifier.shape[1]:
            raise complain(
                "classifier",
                f"(K, {hidden.shape[place]}) for hidden {tuple(hidden.shape)} with features on axis {place}",
                f"{tuple(classifier.shape)}",
                "Transpose it, or name the feature axis with axis=.",
            )
        if bias is not None:
            bias = self._classes("bias", bias, hidden, classifier.shape[0])
        if chunk_rows is not None and (
            isinstance(chunk_rows, bool) or not isinstance(chunk_rows, int) or chunk_rows < 1
        ):
            raise complain("chunk_rows", "an integer ≥ 1 or None", repr(chunk_rows), "")
        if accumulate not in ("float32", "input"):
            raise complain("accumulate", '"float32" or "input", the dtype of the classifier', repr(accumulate), "")
        shape = list(hidden.shape)
        shape[place] = classifier.shape[0]
        logits = self._backend.template(tuple(shape), hidden.dtype, hidden)
        problem, settings = self(logits, targets, *rest, axis, validate)
        return hidden, classifier, bias, chunk_rows, problem, settings._replace(accumulate=accumulate)

    def binary(self, logits, targets, label_smoothing, pos_weight, sample_weight, reduction, normalizer, validate):
        """The Problem of `binary_loss`; `weight` holds pos_weight."""
        z = self._floating("logits", logits)
        targets = self._backend.array(targets, z)
        if not checks.same_shape(targets.shape, z.shape):
            raise complain("targets", f"the logits' shape {tuple(z.shape)}", f"{tuple(targets.shape)}", "", TargetError)
        checks.reduction(reduction)
        t = self._values(targets, validate)
        if t is not None and (bad := ~((t >= 0) & (t <= 1))).any():
            number, index = checks.first(bad)
            raise complain("targets", "values in [0, 1]", f"{t[index]} at {index}, {number} in all", "", TargetError)
        return Problem(
            z,
            self._backend.xp.astype(targets, self._backend.xp.float_of(z)),
            self._smoothing(label_smoothing, z, z.shape, validate),
            weight=self._per_element("pos_weight", pos_weight, z, z.shape, validate),
            sample_weight=self._per_element("sample_weight", sample_weight, z, z.shape, validate),
            normalizer=self._normalizer(normalizer, reduction, z, validate),
        )

    # --- one argument at a time -----------------------------------------------------------------------------------

    def _values(self, array, validate):
        return None if array is None or validate is False else self._backend.values(array, validate)

    def _floating(self, name, array):
        array = self._backend.array(array)
        if self._backend.kind(array) != "floating":
            raise complain(name, "a floating dtype", str(array.dtype), "Cast it; integers have no gradient.")
        return array

    def _smoothing(self, value, z, shape, validate):
        """ε as a plain float, or an array of the elements' rank."""
        if isinstance(value, Real) and not isinstance(value, bool):
            if not 0.0 <= value <= 0.5 and not self._backend.tracing():
                checks.smoothing(np.asarray(float(value)))
            return float(value)
        if not (self._backend.is_array(value) or isinstance(value, (list, tuple, np.ndarray, np.generic))):
            raise complain(
                "label_smoothing", "a number in [0, 1] or an array", repr(value), "Pass 0.1, say.", SmoothingError
            )
        value = self._backend.array(value, z)
        if self._backend.kind(value) not in ("floating", "integer"):
            raise complain("label_smoothing", "numbers in [0, 1]", f"dtype {value.dtype}", "", SmoothingError)
        if (seen := self._values(value, validate)) is not None:
            checks.smoothing(seen)
        return self._elementwise("label_smoothing", value, z, shape)

    def _highest(self, label_smoothing, validate):
        """The largest ε, as far as it can be seen."""
        if isinstance(label_smoothing, float):
            return label_smoothing
        seen = self._values(label_smoothing, validate)
        return 0.0 if seen is None or seen.size == 0 else float(seen.max())

    def _elementwise(self, name, value, z, shape):
        xp = self._backend.xp
        padded = checks.broadcasts(name, value.shape, shape, "the elements") if value.ndim else ()
        return xp.reshape(xp.astype(value, xp.float_of(z)), padded)

    def _per_element(self, name, value, z, shape, validate):
        if value is None:
            return None
        value = self._backend.array(value, z)
        if (seen := self._values(value, validate)) is not None:
            checks.not_negative(name, seen)
        return self._elementwise(name, value, z, shape)

    def _classes(self, name, value, z, num_classes, square=False):
        if value is None:
            return None
        value = self._backend.array(value, z)
        checks.per_class(name, value.shape, num_classes, square)
        return value

    def _mask(self, mask, z, num_classes, axis):
        if mask is None:
            return None
        mask = self._backend.array(mask, z)
        if self._backend.kind(mask) != "boolean":
            raise complain("class_mask", "booleans, False for a class that does not exist", f"dtype {mask.dtype}", "")
        if checks.same_shape(mask.shape, (num_classes,)):
            return mask
        shape = checks.broadcasts("class_mask", mask.shape, z.shape, "the logits")
        mask = self._backend.xp.reshape(mask, shape)
        return mask if shape[axis] == num_classes else self._backend.xp.broadcast_to(mask, z.shape)

    def _number(self, name, value, z, validate, zero=0.0):
        """A finite number ≥ 0, as a float or a 0-d array; `zero` is what a plain 0 becomes."""
        if isinstance(value, Real) and not isinstance(value, bool):
            if not 0 <= value < float("inf"):
                raise complain(name, "a finite number ≥ 0", repr(value), "")
            return float(value) or zero
        value = self._backend.array(value, z)
        if value.ndim or self._backend.kind(value) not in ("floating", "integer"):
            raise complain(name, "a number or a 0-d array", f"shape {tuple(value.shape)}, {value.dtype}", "")
        if (seen := self._values(value, validate)) is not None:
            checks.not_negative(name, seen)
        return self._backend.xp.astype(value, self._backend.xp.float_of(z))

    def _normalizer(self, value, reduction, z, validate):
        if value is None:
            return None
        if reduction != "mean":
            raise complain("normalizer", 'reduction="mean", whose divisor it replaces', f"reduction={reduction!r}", "")
        return self._number("normalizer", value, z, validate)

    # --- values together ------------------------------------------------------------------------------------------

    def _check_values(self, problem, convention, axis, soft, ignore_index, seen, validate):
        """Look at what can be looked at; (valid, clean) of the labels: see `Settings`."""
        z, num_classes, valid, clean = problem.logits, problem.logits.shape[axis], False, False
        arrays = (problem.class_mask, problem.sample_weight, problem.prior, problem.weight)
        mask, s, prior, weight = (self._values(array, validate) for array in arrays)
        something = None if s is None else np.broadcast_to(s != 0, checks.elements_shape(z.shape, axis))
        if mask is not None:
            mask = mask if mask.ndim == 1 else np.broadcast_to(mask, tuple(z.shape))
            labelled = True if seen is None or soft or ignore_index is None else seen != ignore_index
            checks.some_class(mask, axis, labelled if something is None else labelled & something)
        if seen is not None and not soft:
            clean = target_checks.labels(seen, num_classes, ignore_index, mask, axis, convention.exclude, something)
            valid = problem.sample_weight is None and (mask is not None or problem.class_mask is None)
        elif seen is not None:
            target_checks.distributions("targets", seen, axis, something)
            target_checks.soft_mass(seen, axis, mask, something)
            valid = (problem.sample_weight is None or s is not None) and (
                mask is not None or problem.class_mask is None
            )
        epsilon = self._highest(problem.label_smoothing, validate)
        if prior is not None:
            target_checks.distributions("prior", prior, -1, error=ValueError)
            checks.prior_left(prior, axis, mask, convention.exclude)
        if weight is not None or prior is not None or epsilon > 0.5:
            mass = convention.mass(epsilon, convention.receivers(num_classes))
            if weight is not None:
                per_term = convention.class_weights == "per_term"
                checks.weights(weight, mass if per_term else 0.0, mask, convention.exclude)
            if not soft and not self._backend.tracing():
                target_checks.largest_entry(mass, prior, seen, num_classes)
        row = self._backend.first_row(z, axis, validate)
        if row is not None:
            target_checks.probabilities(row, lambda: (self._values(z, True), axis))
        return valid, valid and clean


def _combinations(convention, problem, soft, reduction):
    """What cannot be meant together is refused, with what to do instead."""
    if problem.prior is not None and convention.spread == "others":
        raise complain("prior", 'none under spread "others"', "a prior", 'Use a convention with spread "all".')
    if convention.ignore_scope == "nll_only" and problem.prior is not None and problem.prior.ndim == 2 and not soft:
        raise complain("prior", 'shape (K,) under ignore_scope "nll_only"', "(K, K)", "An ignored label has no row.")
    if reduction is not None:
        checks.reduction(reduction)
    needs = (convention.denominator, convention.smooth_denominator)
    if reduction == "mean" and "caller" in needs and problem.normalizer is None:
        raise complain(
            "normalizer",
            f"the number that {convention.name or 'this convention'} divides by, which only the caller has",
            "None",
            "Pass normalizer= (sentences, tokens), or use another reduction.",
        )
