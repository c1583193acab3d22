"""The public functions of a linear head whose classifier, or whose rows of features, are split over processes."""

import torch.distributed as dist
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

from multismooth.api import argument_checks
from multismooth.api.options import by_default
from multismooth.errors import ShardError, complain
from multismooth.torch import linear
from multismooth.torch.sharding import binding, nodes, placement
from multismooth.torch.sharding.calls import Reduction, agreed, checked_group, evaluated, given_of
from multismooth.torch.sharding.head import HeadClasses, HeadStatic, chunk_rows, flat
from multismooth.torch.sharding.split import Shards


class HeadReduction(Reduction):
    """A bound call: from features, classifier and bias here to the result of a public function."""

    def __init__(self, bound, agreement, terms, head, sums_hidden):
        super().__init__(bound, agreement, terms)
        self.head, self.sums_hidden = head, sums_hidden

    def numbers(self, hidden, classifier, bias):
        hidden, classifier, bias = linear.cast(hidden, classifier, bias)
        axis, split, problem = self.settings.axis, self.bound.split, self.bound.problem
        last = hidden.movedim(axis, -1)
        features, shape = last.reshape(-1, last.shape[-1]), last.shape[:-1]
        ranks = 1
        for group in split.groups:
            ranks *= dist.get_world_size(group)
        static = HeadStatic(
            self.static._replace(axis=1, at_once=False),  # a chunk may meet twice
            self.settings._replace(accumulate=self.head["accumulate"]),
            chunk_rows(features, split, ranks, self.head["chunk_rows"]),
            linear.float16_scale(hidden, features.shape[0], problem, self.settings),
            self.sums_hidden,
        )
        rows, parts = nodes.rows_of(flat(self.shard, axis, shape), static.node.one_sum), self.parts
        parts = tuple(x.reshape(-1) for x in parts)
        lse, nll, smooth, predicted, *parts = HeadClasses.apply(features, classifier, bias, rows, parts, static)
        predicted = predicted.reshape(shape) if static.node.predicts else predicted
        return *(x.reshape(shape) for x in (lse, nll, smooth)), predicted, *(x.reshape(shape) for x in parts)


@by_default
def head_options(*, chunk_rows, accumulate, **options):
    """(the keywords that only a head has, those of `loss`)."""
    return {"chunk_rows": chunk_rows, "accumulate": accumulate}, options


def head_of(name, backend, inputs, targets, layout, options, sums_hidden):
    """The HeadReduction of a call, for local tensors. `layout` as in `calls.reduction_of`."""
    (hidden, classifier, bias), (own, options) = inputs, head_options(**options)

    def bind():
        part, others = layout.local(targets, options)
        given, settings = given_of(part, **others)
        checks = binding.ShapeArguments(backend)
        *_, logits = checks.head(hidden, classifier, bias, own["chunk_rows"], own["accumulate"], settings["axis"])
        return binding.bind(backend, logits, given, settings, layout.split(classifier.shape[0]))

    def head(bound):
        axis = bound.settings.axis
        return hidden.shape[axis], hidden.dtype, own["chunk_rows"]

    validate, whole = options.get("validate"), layout.uncut(targets, options)
    bound, agreement = agreed(name, bind, layout, hidden.device, validate, whole, head)
    return HeadReduction(bound, agreement, name.endswith("terms"), own, sums_hidden)


def local_head(
    name, backend, hidden, classifier, targets, *, bias=None, group, num_classes=None, class_start=None, **options
):
    """`linear_loss` or a sibling: features of the whole group, the classifier's rows of this rank's classes."""
    inputs, layout = (hidden, classifier, bias), Shards(checked_group(group), num_classes, class_start)
    return evaluated(name, head_of(name, backend, inputs, targets, layout, options, True), *inputs)


def placed_head(name, backend, hidden, classifier, targets, *, bias=None, **options):
    """`linear_loss` or a sibling of DTensors: rows of features split, or classes of the classifier, or both."""
    axis = options.get("axis")
    axis = argument_checks.axis_index(-1 if axis is None else axis, hidden.ndim, "the logits")
    check_placements({"hidden": hidden, "classifier": classifier, "bias": bias}, axis)
    mesh, split = hidden.device_mesh, classifier.placements
    # Where a mesh axis splits both, the features are gathered: they are smaller than the logits of either.
    rows = tuple(Replicate() if k.is_shard() else p for k, p in zip(split, hidden.placements, strict=True))
    if rows != tuple(hidden.placements):  # else its gradient would be summed, and no longer be Partial
        hidden = hidden.redistribute(mesh, rows)
    if bias is not None and tuple(bias.placements) != tuple(split):
        bias = bias.redistribute(mesh, split)
    shape = (*hidden.shape[:axis], classifier.shape[0], *hidden.shape[axis + 1 :])
    logits = [Shard(axis) if k.is_shard() else p for k, p in zip(split, rows, strict=True)]
    elements = placement.Elements.of(shape, mesh, logits, axis)
    # What a gradient is on each mesh axis: a part, or a sum over the axis that is still to be made.
    of_rows = [Partial("sum") if k.is_shard() else p for k, p in zip(split, rows, strict=True)]
    of_classes = [Partial("sum") if p.is_shard() else k for k, p in zip(split, rows, strict=True)]
    tensors, gradients = (hidden, classifier, bias), (of_rows, of_classes, of_classes)
    inputs = [None if x is None else x.to_local(grad_placements=own) for x, own in zip(tensors, gradients, strict=True)]
    call = head_of(name, backend, inputs, targets, elements, options, False)
    found = evaluated(name, call, *inputs)
    if name != "linear_loss_and_grad":
        return elements.placed(found, call.settings.reduction)
    placed = [
        None if g is None else DTensor.from_local(g, mesh, own, run_check=False, shape=x.shape, stride=x.stride())
        for g, own, x in zip(found[1], gradients, tensors, strict=True)
    ]
    return elements.placed(found[0], call.settings.reduction), tuple(placed)


def check_placements(tensors, axis):
    """Refuse a head that is not all DTensors, or whose features are split: `axis` is that of hidden."""
    for argument, value in tensors.items():
        if value is None:
            continue
        if not isinstance(value, DTensor):
            remedy = "distribute_tensor(value, mesh, [Replicate()] * mesh.ndim) makes it one without a copy."
            raise complain(argument, "a DTensor, as the others", type(value).__name__, remedy)
        placement.checked_placements(argument, value)
        feature = {"hidden": axis, "classifier": 1}.get(argument)
        if any(p.is_shard() and p.dim % value.ndim == feature for p in value.placements):
            remedy = f"Pass {argument}.redistribute(placements=…): the logits of split features are partial sums."
            raise complain(
                argument, "a feature axis that is not split", str(tuple(value.placements)), remedy, ShardError
            )
