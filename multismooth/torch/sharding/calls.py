"""The public functions for logits of which each process of a group has some classes, and some elements."""

import torch
import torch.distributed as dist

from multismooth import spec
from multismooth.api.options import by_default
from multismooth.errors import complain
from multismooth.problem import Problem
from multismooth.reduction import term_factors
from multismooth.torch.namespace import XP
from multismooth.torch.sharding import binding, nodes, placement
from multismooth.torch.sharding.agreement import PARTS, Agreement, Header, checksum
from multismooth.torch.sharding.split import split_of


def checks(groups, device, validate):
    """Whether the ranks compare their arguments before they exchange anything."""
    if not groups or torch.compiler.is_compiling() or validate is False:
        return False
    return bool(validate) or device.type == "cpu"


def header_of(name, bound, head=()):
    """What this rank says of its call."""
    problem, settings, split, axis = bound.problem, bound.settings, bound.split, bound.settings.axis
    shape = (*problem.logits.shape[:axis], *problem.logits.shape[axis + 1 :])
    numbers = [problem.z_loss, problem.logit_softcap, problem.normalizer]
    own = None if not isinstance(problem.class_mask, torch.Tensor) else problem.class_mask
    targets = ("rows",) if bound.rows is not None else (problem.targets,)
    return Header(
        num_classes=split.classes,
        class_start=split.start,
        classes=split.size,
        dtype=checksum(problem.logits.dtype),
        shape=checksum(tuple(shape)),
        targets=checksum(*targets),
        sample_weight=checksum(problem.sample_weight),
        label_smoothing=checksum(problem.label_smoothing),
        settings=checksum(
            name, settings.convention.to_json(), settings.ignore_index, settings.reduction, axis, *numbers
        ),
        vectors=checksum(problem.weight, problem.prior, own, bound.mask is None),
        head=checksum(*head),
    )


def agreed(name, bind, groups, device, validate, head=lambda bound: ()):
    """(the Bound that `bind` makes, its Agreement). A rank whose arguments are refused takes part in the exchange."""
    if not checks(groups, device, validate):
        return bind(), None
    bound, own, header = None, None, Header()
    try:
        bound = bind()
        header = header_of(name, bound, head(bound))
    except Exception as error:  # whatever it is: the other ranks wait for this one
        own = error
    agreement = Agreement(header, groups, own, device)
    if own is not None or bound.has_rows:  # the plan of rows needs an exchange of its own
        agreement.reached()
        agreement = None
    return bound, agreement


class Reduction:
    """A bound call: from logits here to the result of a public function."""

    def __init__(self, bound, agreement, predicts=False):
        self.bound, self.settings = bound, bound.settings
        self.plan = binding.planned(bound)
        if isinstance(self.plan.softcap, torch.Tensor) and self.plan.softcap.requires_grad:
            expected = "a number, or a tensor without a gradient, where the logits are split"
            raise complain("logit_softcap", expected, "a tensor that requires a gradient", "Pass its detach().")
        self.static = nodes.Static(self.settings.axis, bound.split, predicts, agreement)
        self.shard = nodes.shard_of(self.plan, self.settings.axis, bound.split)

    def numbers(self, logits):
        """(lse, nll, smooth, the class of the largest logit) per element, over all classes."""
        return nodes.all_classes(logits, self.shard, self.static)

    def loss(self, lse, nll, smooth, _):
        plan = binding.scaled(self.plan, self.bound)
        loss = spec.elements(lse, nll, smooth, plan, XP)
        return loss if self.settings.reduction == "none" else loss.sum()

    def terms(self, lse, nll, smooth, predicted):
        plan = binding.scaled(self.plan, self.bound, term_factors)
        return spec.terms_of(lse, nll, smooth, predicted, plan, XP)


# --- local shards ---------------------------------------------------------------------------------------------------


@by_default
def given_of(
    targets, *, label_smoothing, weight, prior, class_mask, sample_weight, z_loss, logit_softcap, normalizer, **settings
):
    """(a Problem without logits, the other keywords of `loss`)."""
    given = Problem(
        None, targets, label_smoothing, weight=weight, prior=prior, class_mask=class_mask, sample_weight=sample_weight,
        z_loss=z_loss, logit_softcap=logit_softcap, normalizer=normalizer,
    )  # fmt: skip
    return given, settings_of(**settings)


@by_default
def settings_of(*, convention, ignore_index, reduction, axis, validate):
    return {
        "convention": convention, "ignore_index": ignore_index, "reduction": reduction, "axis": axis,
        "validate": validate,
    }  # fmt: skip


def reduction_of(name, backend, logits, arguments, split, groups, validate):
    """The Reduction of a call, for local logits.

    arguments(): (targets, options) of this process. split(): which classes are here. They raise for bad arguments.
    """

    def bind():
        targets, options = arguments()
        given, settings = given_of(targets, **options)
        z = backend.take("logits", logits)
        if backend.kind(z) != "floating":
            raise complain("logits", "a floating dtype", str(z.dtype), "Cast it; integers have no gradient.")
        return binding.bind(
            backend, z, given, settings, split(z.shape[-1 if settings["axis"] is None else settings["axis"]])
        )

    bound, agreement = agreed(name, bind, groups, logits.device, validate)
    return Reduction(bound, agreement, name == "terms")


def evaluated(name, reduction, *inputs):
    """The result of a public function: of logits, or of (hidden, classifier, bias)."""
    if name.endswith("terms"):
        return reduction.terms(*reduction.numbers(*inputs))
    if name.endswith("loss"):
        return reduction.loss(*reduction.numbers(*inputs))
    with torch.enable_grad():
        inputs = [x if x is None else x.detach().requires_grad_() for x in inputs]
        loss = reduction.loss(*reduction.numbers(*inputs))
        gradients = iter(torch.autograd.grad(loss.sum(), [x for x in inputs if x is not None]))
    return loss.detach(), tuple(None if x is None else next(gradients) for x in inputs)


def local(name, backend, logits, targets, *, group, num_classes=None, class_start=None, out=None, **options):
    """`loss`, `terms` or `loss_and_grad` of the logits of this rank's classes."""

    def split(size):
        return split_of(group, size, num_classes, class_start)

    groups, validate = [(checked_group(group), PARTS)], options.get("validate")
    reduction = reduction_of(name, backend, logits, lambda: (targets, options), split, groups, validate)
    return with_out(evaluated(name, reduction, logits), name, out)


def checked_group(group):
    """The process group of `group=`."""
    if not torch.compiler.is_compiling() and not isinstance(group, dist.ProcessGroup):
        remedy = "Pass mesh.get_group(name), or what torch.distributed.new_group returns."
        raise complain("group", "a torch.distributed.ProcessGroup", type(group).__name__, remedy, TypeError)
    return group


def with_out(found, name, out):
    """(loss, gradient), in the caller's tensor if there is one, where `name` is that of `loss_and_grad`."""
    if name != "loss_and_grad":
        return found
    loss, (gradient,) = found
    return loss, gradient if out is None else out.copy_(gradient)


# --- DTensors --------------------------------------------------------------------------------------------------------


def placed(name, backend, logits, targets, *, out=None, **options):
    """`loss`, `terms` or `loss_and_grad` of a DTensor of logits. The results are DTensors."""
    own = placement.checked_placements("logits", logits)
    elements = placement.Elements.of(tuple(logits.shape), logits.device_mesh, own, options.get("axis"))
    z = logits.to_local(grad_placements=own)
    reduction = reduction_of(
        name, backend, z, lambda: elements.local(targets, options), lambda size: elements.split, elements.groups(),
        options.get("validate"),
    )  # fmt: skip
    found = with_out(evaluated(name, reduction, z), name, None if out is None else out.to_local())
    if name != "loss_and_grad":
        return elements.placed(found, reduction.settings.reduction)
    loss, gradient = found
    placed = elements.logits.result(gradient) if out is None else out
    return elements.placed(loss, reduction.settings.reduction), placed


def placed_normalizer(normalizer, targets, num_classes, **options):
    """`normalizer` of a DTensor of targets, which all ranks of its mesh call: a plain number, the same on all."""
    own = placement.checked_placements("targets", targets)
    place = placement.Place.of(tuple(targets.shape), targets.device_mesh, own)
    soft, axis = targets.is_floating_point() or targets.dtype is torch.bool, options.get("axis", -1)
    if soft and place.groups(axis % targets.ndim):
        remedy = "Pass targets.redistribute(placements=…), with the elements split or nothing."
        raise complain("targets", "rows of all classes", f"placements {own}", remedy)
    elements = place.without(axis % targets.ndim) if soft else place
    for name in ("label_smoothing", "sample_weight"):
        if name in options:
            options[name] = elements.part(name, options[name])
    if "weight" in options:
        options["weight"] = placement.whole(options["weight"])
    groups = place.groups(*range(targets.ndim))
    if options.get("group") is not None:
        groups = (*groups, options.pop("group"))
    return normalizer(targets.to_local(), num_classes, group=groups, **options)
