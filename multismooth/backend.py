"""The base class of the backends: what a framework must implement for the functions of this library.

To add a framework, subclass `Backend`: implement how its arrays are made and read, set `xp`, and make
`Functions(MyBackend())`. The default `loss`, `terms`, … run the formulas of `spec`; override them only where a faster
kernel exists. Add the backend to the table of `tests/support/adapters.py`, whose tests prove that it is right.
"""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from multismooth import alternatives, binary, correction, linear, spec
from multismooth.api import argument_checks, containers
from multismooth.errors import complain
from multismooth.plan import plan_of
from multismooth.reduction import denominators, here, reduced_plan, term_factors
from multismooth.target import smooth_targets


class Backend:
    """The interface between the public functions (`api.functions`) and a framework.

    `xp` is the framework's array-API namespace plus
        float_of(z)                      the computing dtype: float64 for float64, else float32
        number(size, z)                  a size to compute with: a tensor where a compiler treats it as a symbol
        constant(value, z)               a value as an array of that dtype on z's device (arrays pass through)
        stop_gradient(x)                 x as a constant to autodiff
        pick(z, index, axis)             z at one index per element; the class axis goes
        highest(z, axis)                 (the largest entry per element, its index: the first of equals)
        deposit(z, index, values, axis)  z with per-element values added at one index per element
        add_rows(table, index, rows)     the table with rows added at indices of its first axis
        softplus(z)                      log(1 + e^z)

    `options`: for a TypedDict of `api.options`, the wider one whose further keywords this backend alone has. They reach
    `Arguments.checked`.

    `types`: what `Scores`, `Labels`, `Result`, `Arrays` and `Loss` of `api.options` are here, for signatures.
    """

    name: str
    xp: object
    count_dtype: object = None  # the dtype of a normalizer; None: the framework's default float
    options: Mapping[type, type] = MappingProxyType({})
    types: Mapping[str, str] = MappingProxyType({})

    def is_array(self, value):
        raise NotImplementedError

    def array(self, value, like=None):
        """A number, list, NumPy array or framework array as an array of the framework, on `like`'s device."""
        raise NotImplementedError

    def take(self, argument, value, like=None):
        """A caller's argument as an array of the framework.

        It refuses containers that hold more than values, values that are not arrays, and arrays on another device.
        """
        containers.refuse(argument, value)
        try:
            array = self.array(value, like)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise containers.unreadable(argument, value, error) from error
        self.check_device(argument, array, like)
        return array

    def check_device(self, argument, array, like):
        """Refuse an array that is on another device than `like`."""

    def nan_outside(self, limited, z):
        """{name: numbers} of {name: (numbers, high)}, in the dtype that is computed in.

        NaN is put in place of those outside [0, high], or of those below 0 and the infinite ones for None.
        """
        xp, found = self.xp, {}
        for name, (value, high) in limited.items():
            allowed = (value >= 0) & (value < float("inf") if high is None else value <= high)
            found[name] = xp.where(allowed, xp.constant(value, z), xp.constant(np.nan, z))
        return found

    def traced(self, array):
        """Whether this array is a tracer, whose values are not known yet."""
        return self.tracing()

    def widest(self, array):
        """The widest integer dtype of labels."""
        return np.int64

    def size(self, value):
        """A size as a Python integer, or as a compiler's symbol. None for anything else."""
        return argument_checks.integer(value)

    def kind(self, array):
        """ "integer", "floating", "boolean" or "other"."""
        raise NotImplementedError

    def values(self, array, validate):
        """The values as a NumPy array, or None. With validate=None only where no synchronisation is needed."""
        raise NotImplementedError

    def moved(self, array, like):
        """An array of a state, as one of the framework's on `like`'s device."""
        return self.array(array, like)

    def tracing(self):
        """Whether a compiler is tracing this call. Then warnings and caches are not possible."""
        return False

    def blind(self):
        """Whether the values of no array can be read now. Then only plain numbers are checked."""
        return False

    def first_row(self, z, axis, validate):
        """The first element's logits as a NumPy array, or None where they cannot be read."""
        raise NotImplementedError

    def watched(self):
        """Whether a compiler, a tracer or a function transform follows this call. Then it must not be cached."""
        return self.tracing()

    def ordinary(self, problem):
        """Whether all arrays are plain ones, without subclasses that may change how the call is computed.

        Otherwise each call like it goes through `arguments`.
        """
        return True

    def view(self, array):
        """The functions that show NumPy the values of arrays like this one, one after another, in each call of a kind.

        They return None where the values are on a device, and raise TypeError or RuntimeError for an array that NumPy
        cannot read. Then, as without this method, the call goes through `arguments`.
        """
        raise NotImplementedError

    def row_view(self, z, axis):
        """The same for the first element's logits. Where they cannot be read now, they return None."""
        raise NotImplementedError

    def template(self, shape, dtype, like):
        """Zeros of this shape that take no memory, on `like`'s device. dtype None: the framework's default float."""
        raise NotImplementedError

    # --- evaluation ---

    def class_axes(self, axis_name):
        """(the axes that split the classes, into how many parts), of the argument `axis_name` that is not None."""
        raise NotImplementedError

    def check_split(self, names, problem, soft):
        """Refuse arguments that do not lie as these axes say."""
        raise NotImplementedError

    def loss(self, call):
        return total(call.problem, call.settings, self.xp)

    def loss_again(self, kind, given):
        """The loss of a call of an `api.kinds.Kind`, from its Problem's arguments as the caller passed them.

        None if one of their values is unexpected, so that the call must go through `arguments`.
        """
        call = kind.call(given)
        return None if call is None else self.loss(call)

    def terms(self, call):
        return terms(call.problem, call.settings, self.xp)

    def linear_terms(self, hidden, classifier, bias, chunk_rows, call):
        return linear.terms(hidden, classifier, bias, chunk_rows, call.problem, call.settings, self.xp)

    def smooth_targets(self, call):
        problem, settings = call.problem, call.settings
        return self.xp.astype(smooth_targets(problem, settings, self.xp), problem.logits.dtype, copy=False)

    def sum_over(self, group, axis_name):
        """The function that sums a 0-d array over the processes of a group, or over the mesh axes of this name."""
        return summing(self.name, group, axis_name)

    def normalizer(self, call, summed):
        return normalizer(call.problem, call.settings, self.xp, summed)

    def binary_loss(self, call):
        return binary.loss(call, self.xp)

    def alternative(self, call, alternative):
        return alternatives.total(call.problem, call.settings, alternative, self.xp)

    def smoothing_correction(self, hidden, classifier, bias, call):
        return correction.correction(hidden, classifier, bias, call.problem, call.settings, self.xp)


def total(problem, settings, xp, elements=None):
    """The loss of a call, by the formulas of `spec` or by a backend's `elements(axis, logits, plan)`."""
    plan = reduced_plan(problem, settings, xp)
    if elements is None:
        loss = spec.losses(problem.logits, plan, settings.axis, xp)
    else:
        loss = elements(settings.axis, problem.logits, plan)
    return loss if settings.reduction == "none" else xp.sum(loss)


def terms(problem, settings, xp):
    """The Terms of a call, by the formulas of `spec`."""
    plan = plan_of(problem, settings, xp)
    plan = spec.scaled(plan, *term_factors([(plan, problem.logits)], problem, settings, xp))
    return spec.terms(problem.logits, plan, settings.axis, xp)


def normalizer(problem, settings, xp, summed):
    """The denominator of the loss, of which `summed` adds the parts of several processes."""
    convention = settings.convention
    others = None if convention.smooth_denominator == convention.denominator else convention.smooth_denominator
    if others is not None or convention.denominator == "caller":
        got = "a number that only the caller has" if others is None else f"also by another one, {others!r}"
        remedy = "Add up Σ loss and Σ weight of `terms` over the parts, and divide."
        raise complain("convention", "one whose mean divides by one known number", got, remedy)
    total = denominators([(plan_of(problem, settings, xp), problem.logits)], settings, xp, summed)[0]
    return xp.constant(total, problem.logits)


def summing(name, group, axis_name, sum_over_group=None, sum_over_axes=None):
    """The function for `Backend.sum_over`: one of these two, or none where all is here."""
    given = {"group": (group, sum_over_group, "torch"), "axis_name": (axis_name, sum_over_axes, "jax")}
    for argument, (value, function, framework) in given.items():
        if value is not None and function is None:
            expected = f"None in multismooth.{name}"
            raise complain(argument, expected, type(value).__name__, f"It belongs to multismooth.{framework}.")
    if group is not None:
        return lambda total: sum_over_group(total, group)
    return here if axis_name is None else lambda total: sum_over_axes(total, axis_name)
