"""Turns the arguments of the public functions into a checked Problem and its Settings, for every backend."""

from multismooth.api import argument_checks, target_checks, value_checks
from multismooth.api.conversions import Conversions
from multismooth.binary import BinaryCall, BinarySettings
from multismooth.errors import TargetError, complain
from multismooth.problem import Problem, Settings
from multismooth.registry import resolve
from multismooth.spec import along

# Of a Problem's fields after the targets, those for which None is a wrong argument. For others it means: not passed.
NEEDED = [name in ("label_smoothing", "z_loss") for name in Problem._fields[2:]]


class Arguments(Conversions):
    """Converts and checks the arguments of the public functions."""

    def checked(self, given, convention, ignore_index, reduction, axis, validate, axis_name=None):
        """(Problem, Settings) of the arguments of `loss`. `given`: a Problem of arrays as the caller passed them."""
        backend = self.backend
        z = self._floating("logits", given.logits)
        if z.ndim == 0:
            raise complain("logits", "at least one axis, the classes", "a single number", "Pass logits.reshape(1, -1).")
        argument_checks.validation(validate)
        argument_checks.reduction(reduction)
        convention = resolve(convention)
        targets = backend.take("targets", given.targets, z)
        kind = backend.kind(targets)
        target_checks.kind(kind, targets.dtype)
        if kind == "floating" and not backend.tracing():
            argument_checks.refuse_keras_order()
        ignore_index = argument_checks.ignored_label(ignore_index, backend.widest(targets))
        target_values = self._values(targets, validate)
        soft, slack = kind != "integer", target_checks.tolerance(targets.dtype)
        axis = target_checks.class_axis(z.shape, targets.shape, soft, axis, target_values, slack)
        target_checks.target_shape(kind, targets.shape, z.shape, axis)
        if z.shape[axis] == 0:
            got = f"shape {tuple(z.shape)} with classes on axis {axis}"
            raise complain("logits", "at least one class", got, "axis= names another class axis.")
        names, shards = ((), 1) if axis_name is None else backend.class_axes(axis_name)
        num_classes = z.shape[axis] * shards
        if not backend.traced(z) and num_classes == 1:
            argument_checks.single_class(z.shape, axis)

        readers = self.readers(z, axis, reduction, validate, num_classes)
        problem = Problem(z, targets, *[
            read(value) if needed or value is not None else None
            for read, value, needed in zip(readers, [*given][2:], NEEDED, strict=True)
        ])  # fmt: skip
        unchecked = soft and validate is False
        settings = Settings(convention, axis, soft, ignore_index, reduction, valid=unchecked, row_tolerance=slack)
        _check_combinations(convention, problem, soft, reduction)
        if names:
            backend.check_split(names, problem, soft)
            settings = settings._replace(axis_name=names, valid=False)
        if convention.exclude and convention.receivers(num_classes) == 0:
            expected, got = "one that lets a class take smoothed mass", f"exclude={convention.exclude} of {num_classes}"
            raise complain("convention", expected, got, "Exclude the padding class alone.")
        if validate is False:  # all values are used unchecked
            return problem, settings
        problem = self._nan_if_invalid(problem, validate)
        if backend.blind() and not isinstance(problem.normalizer, float):
            return problem, settings
        valid, clean = value_checks.check(
            self._of_all_classes(problem, axis, num_classes) if names else problem,
            settings,
            None if names and soft else target_values,
            lambda array: self._values(array, validate),
            backend.tracing(),
        )
        self._check_scores(z, axis, validate)
        return problem, settings._replace(valid=valid, clean=clean)

    def _of_all_classes(self, problem, axis, num_classes):
        """What can be checked of a problem with a part of the classes: all but its rows of classes."""
        shape = [num_classes if k == axis else n for k, n in enumerate(problem.logits.shape)]
        mask = problem.class_mask
        return problem._replace(
            logits=self.backend.template(shape, problem.logits.dtype, problem.logits),
            class_mask=None if mask is None or mask.ndim > 1 else mask,
        )

    def readers(self, z, axis, reduction, validate, num_classes=None):
        """One conversion for each field of a Problem after the targets. They use the shape, dtype and device of `z`.

        num_classes: those of all devices; None for z's.
        """
        num_classes = z.shape[axis] if num_classes is None else num_classes
        shape = argument_checks.elements_shape(z.shape, axis)
        return (
            lambda value: self._smoothing(value, z, shape),
            lambda value: self._classes("weight", value, z, num_classes),
            lambda value: self._classes("prior", value, z, num_classes, square=True),
            lambda value: self._mask(value, z, num_classes, axis),
            lambda value: self._per_element("sample_weight", value, z, shape),
            lambda value: self._number("z_loss", value, z, validate, zero=None),
            lambda value: self._softcap(value, z, validate),
            lambda value: self._normalizer(value, reduction, z, validate),
        )

    def template(self, targets, num_classes, axis, dtype):
        """(an array with the shape and dtype of logits, targets), for `smooth_targets`, which has no logits."""
        backend = self.backend
        num_classes = argument_checks.positive(
            "num_classes", num_classes, "It is the length of the rows to make.", backend.size
        )
        targets = backend.take("targets", targets)
        shape, kind = tuple(targets.shape), backend.kind(targets)
        target_checks.kind(kind, targets.dtype)
        class_axis = argument_checks.axis_index(axis, len(shape) + (kind == "integer") or 1, "the rows")
        if kind == "integer":
            shape = (*shape[:class_axis], num_classes, *shape[class_axis:])
        elif not shape or shape[class_axis] != num_classes:
            remedy = "Pass their number of classes as num_classes, or their class axis with axis=."
            raise complain("targets", f"{num_classes} classes on axis {axis}", f"shape {shape}", remedy, TargetError)
        if dtype is None and kind == "floating":
            dtype = targets.dtype
        return backend.template(shape, dtype, targets), targets

    def head(self, hidden, classifier, bias, chunk_rows, accumulate, axis):
        """(hidden, classifier, bias, chunk_rows, logits) of a linear head. The logits have a shape but no values."""
        hidden = self._floating("hidden", hidden)
        classifier = self._floating("classifier", classifier, hidden)
        if hidden.ndim == 0 or classifier.ndim != 2:
            expected, got = (
                "hidden (N…, D) and classifier (K, D)",
                f"{tuple(hidden.shape)} and {tuple(classifier.shape)}",
            )
            raise complain("classifier", expected, got, "It is the weight of a linear layer, a row for each class.")
        feature_axis = argument_checks.axis_index(
            -1 if axis is None else axis, hidden.ndim, "the logits, here the feature axis of hidden"
        )
        if hidden.shape[feature_axis] != classifier.shape[1]:
            expected = f"(K, {hidden.shape[feature_axis]}) for hidden {tuple(hidden.shape)} "
            raise complain(
                "classifier",
                f"{expected}with features on axis {feature_axis}",
                f"{tuple(classifier.shape)}",
                "Transpose it, or name the feature axis with axis=.",
            )
        bias = self._classes("bias", bias, hidden, classifier.shape[0])
        if chunk_rows is not None:
            chunk_rows = argument_checks.positive("chunk_rows", chunk_rows, "None chooses it.")
        if accumulate not in ("float32", "input"):
            expected = '"float32" or "input", the dtype of the classifier'
            raise complain("accumulate", expected, repr(accumulate), '"float32" is the exact one.')
        shape = list(hidden.shape)
        shape[feature_axis] = classifier.shape[0]
        logits = self.backend.template(tuple(shape), hidden.dtype, hidden)
        return hidden, classifier, bias, chunk_rows, logits

    def binary(
        self, logits, targets, label_smoothing, spread, weight, pos_weight, sample_weight,
        ignore_index, reduction, label_mean, normalizer, axis, validate,
    ):  # fmt: skip
        """The checked BinaryCall of the arguments of `binary_loss`."""
        xp = self.backend.xp
        argument_checks.validation(validate)
        argument_checks.reduction(reduction)
        _check_binary_settings(spread, label_mean)
        z = self._floating("logits", logits)
        targets = self.backend.take("targets", targets, z)
        target_checks.kind(self.backend.kind(targets), targets.dtype)
        if not self.backend.tracing():
            argument_checks.refuse_keras_order()
        if not argument_checks.same_shape(targets.shape, z.shape):
            expected, got = f"the logits' shape {tuple(z.shape)}", f"{tuple(targets.shape)}"
            raise complain("targets", expected, got, target_checks.binary_fitting(targets.shape, z.shape), TargetError)
        if spread == "all" or weight is not None or label_mean or axis is not None:
            axis = _label_axis(axis, z.ndim)
        target_values, slack = self._values(targets, validate), target_checks.tolerance(targets.dtype)
        t, sample_weight = (
            xp.astype(targets, xp.float_of(z)),
            self._per_element("sample_weight", sample_weight, z, z.shape),
        )
        if ignore_index is not None:
            ignored = targets == _ignored_target(ignore_index, self.backend.widest(targets))
            zero, one = xp.constant(0.0, z), xp.constant(1.0, z)
            t, sample_weight = (
                xp.where(ignored, zero, t),
                xp.where(ignored, zero, one if sample_weight is None else sample_weight),
            )
        problem = Problem(
            z,
            self._nan_outside(t, slack, z) if target_values is None and validate is not False else t,
            self._smoothing(label_smoothing, z, z.shape),
            weight=self._classes("weight", weight, z, None if axis is None else z.shape[axis]),
            sample_weight=sample_weight,
            normalizer=self._normalizer(normalizer, reduction, z, validate),
        )
        pos_weight = self._per_element("pos_weight", pos_weight, z, z.shape)
        if validate is not False:
            problem = self._nan_if_invalid(problem, validate)
            values = self._values(pos_weight, validate)
            if pos_weight is not None and values is None:
                pos_weight = self.backend.nan_outside({"pos_weight": (pos_weight, None)}, z)["pos_weight"]
            value_checks.check_binary(
                problem, values, target_values, slack, lambda array: self._values(array, validate)
            )
        if problem.weight is not None:
            problem = problem._replace(weight=along(xp.astype(problem.weight, xp.float_of(z)), z, axis, xp))
        return BinaryCall(problem, pos_weight, BinarySettings(reduction, axis, spread, label_mean))

    def _check_scores(self, z, axis, validate):
        """Refuse logits that are probabilities. All logits are read only if the first row looks like probabilities."""
        row = self.backend.first_row(z, axis, validate)
        if row is not None:
            target_checks.probabilities(row, target_checks.tolerance(z.dtype), lambda: (self._values(z, True), axis))


def _check_combinations(convention, problem, soft, reduction):
    """Refuse arguments that contradict each other or the convention."""
    if problem.prior is not None and convention.spread == "others":
        raise complain("prior", 'none under spread "others"', "a prior", 'Use a convention with spread "all".')
    if convention.ignore_scope == "nll_only" and problem.prior is not None and problem.prior.ndim == 2 and not soft:
        raise complain("prior", 'shape (K,) under ignore_scope "nll_only"', "(K, K)", "An ignored label has no row.")
    needs = [convention.denominator, convention.smooth_denominator]
    if problem.z_loss is not None:
        needs.append(convention.z_loss_denominator)
    if reduction == "mean" and "caller" in needs and problem.normalizer is None:
        raise complain(
            "normalizer",
            f"the number that {convention.name or 'this convention'} divides by, which only the caller has",
            "None",
            "Pass normalizer= (sentences, tokens), or use another reduction.",
        )


def _check_binary_settings(spread, label_mean):
    if not isinstance(spread, str) or spread not in ("half", "all"):
        remedy = '"half" gives ε/2 to each class of an entry, "all" ε/K to each label.'
        raise complain("spread", '"half" or "all"', repr(spread), remedy)
    if not isinstance(label_mean, bool):
        raise complain("label_mean", "True or False", repr(label_mean), "Weights of labels are weight=.")


def _label_axis(axis, ndim):
    """The axis of the labels as a number ≥ 0, in a call that needs one."""
    if axis is None and ndim < 2:
        remedy = "Name it with axis=0, or leave out spread, weight and label_mean."
        raise complain("axis", "the axis of the labels, for logits with fewer than two axes", "None", remedy)
    return argument_checks.axis_index(-1 if axis is None else axis, ndim, "the logits, here that of the labels")


def _ignored_target(value, dtype):
    """The ignored target of `binary_loss` as an integer."""
    number = argument_checks.ignored_label(value, dtype)
    if 0 <= number <= 1:
        remedy = "Mark absent entries with another number, or give them sample_weight 0."
        raise complain("ignore_index", "a number outside [0, 1], which is no target", repr(value), remedy)
    return number
