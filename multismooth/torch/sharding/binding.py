"""From arguments to a plan of this process's classes.

Arguments are checked against logits of all K classes, which exist as a shape only. So K, ε′, priors and denominators
are global from the start, and labels and (K,) arguments need no exchange. Soft targets and masks with a row for each
element exist in parts: their sums over the classes are exchanged.
"""

from typing import Any, NamedTuple

import torch

from multismooth import reduction, spec
from multismooth.api import argument_checks
from multismooth.api.arguments import Arguments
from multismooth.errors import TargetError, complain
from multismooth.plan import plan_of
from multismooth.problem import Problem
from multismooth.torch.namespace import XP
from multismooth.torch.sharding import constants
from multismooth.torch.sharding.exchange import summed
from multismooth.torch.sharding.split import SplitClasses


class Bound(NamedTuple):
    """A checked call. rows: soft targets, if the targets are; mask: a class mask with rows for each element."""

    logits: Any
    problem: Problem  # its logits have the shape of all classes, and no values
    settings: Any
    split: Any
    rows: Any = None
    mask: Any = None
    validate: Any = None

    @property
    def has_rows(self):
        return self.rows is not None or self.mask is not None


class ShapeArguments(Arguments):
    """The checks of arguments where the soft targets exist in parts, so that no rows can be read."""

    unread = None

    def _values(self, array, validate):
        return None if array is self.unread else super()._values(array, validate)


def bind(backend, logits, given, settings, split):
    """The Bound of the local logits and the arguments as the caller passed them.

    `given` is a Problem without logits, `settings` the other keywords of `loss`.
    """
    arguments = ShapeArguments(backend)
    axis, validate = settings["axis"], settings["validate"]
    class_axis = argument_checks.axis_index(-1 if axis is None else axis, logits.ndim, "the logits")
    shape = [*logits.shape]
    shape[class_axis] = split.classes
    template = backend.template(tuple(shape), logits.dtype, logits)
    targets = backend.take("targets", given.targets, logits)
    rows, mask = None, given.class_mask
    if backend.kind(targets) in ("floating", "boolean"):
        rows = targets
        if tuple(rows.shape) != tuple(logits.shape):
            expected, got = f"this rank's part of the rows, {tuple(logits.shape)}", f"shape {tuple(rows.shape)}"
            raise complain("targets", expected, got, "Soft targets are split as the logits are.", TargetError)
        arguments.unread = targets = backend.template(tuple(shape), rows.dtype, logits)
    mask = None if mask is None else backend.take("class_mask", mask, logits)
    mask = mask if spec.rank(mask) > 1 else None
    if mask is not None:
        mask = _mask(mask, logits, backend)
        given = given._replace(class_mask=None)
    given = given._replace(logits=template, targets=targets)
    problem, settings = arguments.checked(
        given, settings["convention"], settings["ignore_index"], settings["reduction"], axis, validate
    )
    bound = Bound(logits, problem, settings, split, rows, mask, validate)
    _refuse(bound, backend)
    return bound


def _mask(mask, logits, backend):
    if backend.kind(mask) != "boolean":
        expected = "booleans, False for a class that does not exist"
        raise complain("class_mask", expected, f"dtype {mask.dtype}", "Pass class_mask != 0.")
    shape = argument_checks.broadcasts("class_mask", mask.shape, logits.shape, "this rank's logits")
    return mask.reshape(shape).expand(logits.shape)


def _refuse(bound, backend):
    """Refuse what a shard cannot compute."""
    problem = bound.problem
    if problem.prior is not None and problem.prior.ndim > 1 and bound.split.groups:
        remedy = "Gather the logits, or split the elements."
        raise complain("prior", "a (K,) vector with split classes", f"shape {tuple(problem.prior.shape)}", remedy)
    differentiable = {
        "targets": bound.rows, "weight": problem.weight, "prior": problem.prior, "logit_softcap": problem.logit_softcap
    }  # fmt: skip
    for name, value in differentiable.items():
        if constants.learned(value):
            remedy = f"Pass {name}.detach(), or gather the logits."
            raise complain(name, "a constant where classes are split", "a tensor that requires a gradient", remedy)


class Planned(NamedTuple):
    """The plan of a call, with rows of the classes of this process and numbers of all classes."""

    plan: Any  # without the constant, if the following have it
    parts: tuple[Any, ...] = ()  # of the constant, see `constants`: numbers per element of the classes here
    inputs: tuple[Any, ...] = ()  # per element, by which the constant is differentiated
    met: bool = False  # whether the processes have met for it


def planned(bound, shares):
    """The Planned of a bound call. shares: whether the shares of a mean's denominators are asked for."""
    problem, settings, split = bound.problem, bound.settings._replace(shares=shares), bound.split
    if not bound.has_rows:
        return Planned(plan_of(problem, settings, XP))
    z = problem.logits.narrow(settings.axis, 0, split.size)
    problem = problem._replace(logits=z, targets=problem.targets if bound.rows is None else bound.rows)
    problem = problem if bound.mask is None else problem._replace(class_mask=bound.mask)
    shape = (*z.shape[: settings.axis], *z.shape[settings.axis + 1 :])
    problem, inputs = constants.spread(problem, shape)
    unchecked = bound.validate is False and bound.rows is not None  # as on one process
    classes = SplitClasses(z, settings.axis, split)
    plan = plan_of(problem, settings._replace(valid=unchecked, clean=False), XP, classes)
    if bound.validate is not False and not torch.compiler.is_compiling() and (z.is_cpu or bound.validate):
        _check_rows(plan, bound)
    parts = () if plan.const is None else constants.numbers_of(plan.const, inputs, shape)
    return Planned(plan._replace(const=None), parts, inputs, classes.met)


def _check_rows(plan, bound):
    """Refuse rows that are no distributions over all classes, and labels of absent ones. All ranks see the same."""
    wrong = torch.as_tensor(plan.a).isnan()
    if not wrong.any():
        return
    index = tuple(map(int, wrong.nonzero()[0])) if wrong.ndim else ()
    remedy = "A row sums to 1 over the parts of all ranks; mark what does not count with sample_weight 0."
    expected = "distributions over all classes, or labels of classes that exist"
    raise complain("targets", expected, f"none at {index}, {int(wrong.sum())} in all", remedy, TargetError)


def across(split, z):
    """The function that adds up the parts of a mean's denominator of all processes that split the elements."""
    if not split.element_groups:
        return reduction.here

    return lambda total: summed(XP.constant(total, z), split.element_groups)


def factors_of(plan, bound, factors=reduction.factors):
    """The factors with which the summed losses of a plan are the result, or, with `term_factors`, those of terms."""
    z = bound.problem.logits
    return factors([(plan, z)], bound.problem, bound.settings, XP, across(bound.split, z))
