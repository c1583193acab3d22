"""The public functions for logits of which each process of a group has some classes, and some elements."""

import torch
import torch.distributed as dist

from multismooth import reduction, spec
from multismooth.api.options import by_default
from multismooth.errors import complain
from multismooth.problem import Problem
from multismooth.torch.namespace import XP
from multismooth.torch.sharding import binding, constants, nodes, placement
from multismooth.torch.sharding.agreement import WHOLE, Agreement, Header, checksum, sampled
from multismooth.torch.sharding.split import Shards


def checks(groups, device, validate):
    """Whether the ranks compare their arguments before they exchange anything."""
    if not groups or torch.compiler.is_compiling() or validate is False:
        return False
    return bool(validate) or device.type == "cpu"


def header_of(name, bound, whole, head=()):
    """What this rank says of its call. whole: the arguments that it has for all elements, not only for those here."""
    problem, settings, split, axis = bound.problem, bound.settings, bound.split, bound.settings.axis
    shape = (*problem.logits.shape[:axis], *problem.logits.shape[axis + 1 :])
    numbers = [problem.z_loss, problem.logit_softcap, problem.normalizer]
    compared = compared_of(bound, whole)
    return Header(
        num_classes=split.classes,
        class_start=split.start,
        classes=split.size,
        dtype=checksum(problem.logits.dtype),
        shape=checksum(tuple(shape)),
        **{name: checksum(compared[name]) for name in WHOLE},
        settings=checksum(
            name, settings.convention.to_json(), settings.ignore_index, settings.reduction, axis, *numbers
        ),
        vectors=checksum(problem.weight, problem.prior, compared["class_mask"]),
        head=checksum(*head),
        whole=sum((name in whole) << k for k, name in enumerate(WHOLE)),
    )


def compared_of(bound, whole):
    """{argument: what of it the ranks compare}: all that a rank has. Of rows of classes it has a part, or a sample."""
    found = {name: getattr(bound.problem, name) for name in (*WHOLE, "class_mask")}
    rows = {name: x for name, x in (("targets", bound.rows), ("class_mask", bound.mask)) if x is not None}
    for name, own in (found | rows).items():
        given = whole.get(name)
        if isinstance(given, torch.Tensor) and isinstance(own, torch.Tensor):
            given = given.to(own.dtype)
            found[name] = sampled(given) if name in rows else given
        elif name in rows:
            found[name] = "rows"
    return found


def agreed(name, bind, layout, device, validate, whole, head=lambda bound: ()):
    """(the Bound that `bind` makes, its Agreement). A rank whose arguments are refused takes part in the exchange."""
    groups = layout.groups()
    if not checks(groups, device, validate):
        return bind(), None
    bound, own, header = None, None, Header()
    try:
        bound = bind()
        header = header_of(name, bound, whole, head(bound))
    except Exception as error:  # whatever it is: the other ranks wait for this one
        own = error
    agreement = Agreement(header, groups, own, device)
    if own is not None or bound.has_rows:  # the plan of rows needs an exchange of its own
        agreement.reached()
        agreement = None
    return bound, agreement


class Reduction:
    """A bound call: from logits here to the result of a public function."""

    def __init__(self, bound, agreement, terms=False):
        self.bound, self.settings = bound, bound.settings
        divides = self.settings.reduction == "mean" and bound.problem.normalizer is None
        planned = binding.planned(bound, shares=terms or divides)
        self.plan, self.parts, self.inputs = planned.plan, planned.parts, planned.inputs
        apart = terms or (divides and self.plan.smooth_denominator_share is not None)
        one_sum = not (apart or any(map(constants.learned, (self.plan.a, self.plan.b))))
        self.static = nodes.Static(self.settings.axis, bound.split, one_sum, terms, planned.met, agreement)
        in_sum = self.parts if one_sum else ()
        self.parts = () if one_sum else self.parts
        shard = nodes.shard_of(self.plan, self.settings.axis, bound.split)
        self.shard = shard._replace(const=in_sum[0] if in_sum else None)

    def numbers(self, logits):
        """(lse, nll, smooth, the class of the largest logit, *parts) per element, over all classes."""
        return nodes.all_classes(logits, self.shard, self.parts, self.static)

    def scaled(self, parts, factors=reduction.factors):
        """The plan whose summed losses are the result, from the parts of the constant, added up."""
        plan = self.plan._replace(const=constants.whole(parts, self.inputs)) if parts else self.plan
        factors = binding.factors_of(plan, self.bound, factors)
        return spec.scaled(plan._replace(a=1.0, b=0.0) if self.static.one_sum else plan, *factors)

    def loss(self, lse, nll, smooth, _, *parts):
        loss = spec.elements(lse, nll, smooth, self.scaled(parts), XP)
        return loss if self.settings.reduction == "none" else loss.sum()

    def terms(self, lse, nll, smooth, predicted, *parts):
        return spec.terms_of(lse, nll, smooth, predicted, self.scaled(parts, reduction.term_factors), XP)


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


def reduction_of(name, backend, logits, targets, layout, options):
    """The Reduction of a call, for local logits. `layout` says what of the call is here: Shards, or Elements."""
    validate = options.get("validate")

    def bind():
        own, others = layout.local(targets, options)
        given, settings = given_of(own, **others)
        z = backend.take("logits", logits)
        if backend.kind(z) != "floating":
            raise complain("logits", "a floating dtype", str(z.dtype), "Cast it; integers have no gradient.")
        size = z.shape[-1 if settings["axis"] is None else settings["axis"]]
        return binding.bind(backend, z, given, settings, layout.split(size))

    bound, agreement = agreed(name, bind, layout, logits.device, validate, layout.uncut(targets, options))
    return Reduction(bound, agreement, name == "terms")


def evaluated(name, call, *inputs):
    """The result of a public function: of logits, or of (hidden, classifier, bias)."""
    if name.endswith("terms"):
        return call.terms(*call.numbers(*inputs))
    if name.endswith("loss"):
        return call.loss(*call.numbers(*inputs))
    with torch.enable_grad():
        inputs = [x if x is None else x.detach().requires_grad_() for x in inputs]
        loss = call.loss(*call.numbers(*inputs))
        gradients = iter(torch.autograd.grad(loss.sum(), [x for x in inputs if x is not None]))
    return loss.detach(), tuple(None if x is None else next(gradients) for x in inputs)


def local(name, backend, logits, targets, *, group, num_classes=None, class_start=None, out=None, **options):
    """`loss`, `terms` or `loss_and_grad` of the logits of this rank's classes."""
    layout = Shards(checked_group(group), num_classes, class_start)
    call = reduction_of(name, backend, logits, targets, layout, options)
    return with_out(evaluated(name, call, logits), name, out)


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
    call = reduction_of(name, backend, z, targets, elements, options)
    found = with_out(evaluated(name, call, z), name, None if out is None else out.to_local())
    if name != "loss_and_grad":
        return elements.placed(found, call.settings.reduction)
    loss, gradient = found
    placed = elements.logits.result(gradient) if out is None else out
    return elements.placed(loss, call.settings.reduction), placed


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
        options["weight"] = place.whole("weight", options["weight"])
    groups = place.groups(*range(targets.ndim))
    if options.get("group") is not None:
        groups = (*groups, options.pop("group"))
    return normalizer(targets.to_local(), num_classes, group=groups, **options)
