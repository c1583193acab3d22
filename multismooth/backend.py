"""Backend: what a framework must bring to have every function of this library.

To add one: subclass, say how its arrays are made and looked at, give `xp`, and bind `Functions(MyBackend())`. The
default `loss`, `terms`, … run the text of `spec`; override them only where a faster kernel exists, and add the
backend to the table of `tests/adapters.py`, which is what proves it.
"""

import numpy as np

from multismooth import binary, correction, spec
from multismooth.api import argument_checks, containers
from multismooth.plan import plan_of, smooth_targets
from multismooth.problem import Terms
from multismooth.reduction import denominators, reciprocal, reduced_plan


class Backend:
    """The seam between the front door (`functions`) and a framework.

    `xp` is the framework's array-API namespace plus
        float_of(z)                      the dtype that is computed in: float64 for float64, else float32
        number(size, z)                  a size, to compute with: itself where it is known to be this number for ever
        constant(value, z)               a value as an array of that dtype on z's device (arrays pass through)
        stop_gradient(x)                 x as a constant to autodiff
        pick(z, index, axis)             z at one index per element; the class axis goes
        deposit(z, index, values, axis)  z with per-element values added at one index per element
        softplus(z)                      log(1 + e^z)
    """

    name: str
    xp: object

    def is_array(self, value):
        raise NotImplementedError

    def array(self, value, like=None):
        """A number, list, NumPy array or own array as an own array, on `like`'s device."""
        raise NotImplementedError

    def take(self, argument, value, like=None):
        """A caller's argument as an own array. Refused: a container of more than values, no array, another device."""
        containers.refuse(argument, value)
        try:
            array = self.array(value, like)
        except (TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise containers.unreadable(argument, value, error) from error
        self.meets(argument, array, like)
        return array

    def meets(self, argument, array, like):
        """Refuse an array that cannot be computed with where `like` is."""

    def traced(self, array):
        """Whether this array stands for values of another time."""
        return self.tracing()

    def widest(self, array):
        """The widest integers that labels are told apart in."""
        return np.int64

    def size(self, value):
        """A size as Python's integer, or as the symbol that a compiler knows it by; None for what is no integer."""
        return argument_checks.integer(value)

    def kind(self, array):
        """ "integer", "floating", "boolean" or "other"."""
        raise NotImplementedError

    def values(self, array, validate):
        """NumPy values where they can be seen (`validate`: None without synchronisation, True always), else None."""
        raise NotImplementedError

    def tracing(self):
        """Whether a compiler is reading this call, so that nothing may be said."""
        return False

    def first_row(self, z, axis, validate):
        """The first element's logits as NumPy values, where they can be seen."""
        raise NotImplementedError

    def watched(self):
        """Whether a compiler, a tracer or a transform of functions follows this call. Then nothing of it is kept."""
        return self.tracing()

    def ordinary(self, problem):
        """Whether a call like this one is computed like every other call of its kind, whoever makes it."""
        return True

    def views(self, problem, axis, scores):
        """(the first element's logits or None, the Problem's fields behind the logits as NumPy sees them).

        None for the fields where NumPy sees no memory of this device, None for all where one of the arrays is out of
        the ordinary. `scores`: the logits are more than a shape.
        """
        return None

    def template(self, shape, dtype, like):
        """Zeros of a shape that take no memory, on `like`'s device; dtype None is the framework's default float."""
        raise NotImplementedError

    # --- evaluation ---

    def loss(self, call):
        return total(call.problem, call.settings, self.xp)

    def terms(self, call):
        return terms(call.problem, call.settings, self.xp)

    def smooth_targets(self, call):
        problem, settings = call.problem, call.settings
        return self.xp.astype(smooth_targets(problem, settings, self.xp), problem.logits.dtype, copy=False)

    def binary_loss(self, problem, reduction):
        return binary.loss(problem, reduction, self.xp)

    def smoothing_correction(self, hidden, classifier, bias, call):
        return correction.correction(hidden, classifier, bias, call.problem, call.settings, self.xp)


def total(problem, settings, xp, elements=None):
    """The loss of a call, by the text of `spec` or by a backend's own `elements(axis, logits, plan)`."""
    plan = reduced_plan(problem, settings, xp)
    if elements is None:
        loss = spec.losses(problem.logits, plan, settings.axis, xp)
    else:
        loss = elements(settings.axis, problem.logits, plan)
    return loss if settings.reduction == "none" else xp.sum(loss)


def terms(problem, settings, xp):
    """Per-element loss, unsmoothed loss and weight, by the text of `spec`.

    A term with a denominator of its own is multiplied by their ratio, so that Σ loss / Σ weight is the mean.
    """
    z, axis = problem.logits, settings.axis
    plan = plan_of(problem, settings, xp)
    if plan.smooth_denominator_share is not None or plan.z_loss_denominator_share is not None:
        own, *others = denominators([(plan, z)], settings, xp)
        plan = spec.scaled(plan, 1.0, *(None if other is None else own * reciprocal(other, z, xp) for other in others))
    lse, nll, smooth = spec.finished(spec.statistics(z, plan, axis, xp), xp)
    share = xp.broadcast_to(xp.constant(plan.denominator_share, z), lse.shape)
    return Terms(spec.elements(lse, nll, smooth, plan, xp), spec.product(plan.label_weight, nll, xp), share)
