"""The public functions of a linear head whose classifier, or whose rows of features, are split over processes."""

import torch.distributed as dist

from multismooth.api.options import by_default
from multismooth.errors import ShardError, complain
from multismooth.torch import linear
from multismooth.torch.sharding import binding, nodes
from multismooth.torch.sharding.agreement import PARTS
from multismooth.torch.sharding.calls import Reduction, agreed, checked_group, evaluated, given_of
from multismooth.torch.sharding.head import HeadClasses, HeadStatic, chunk_rows, flat
from multismooth.torch.sharding.split import split_of


class HeadReduction(Reduction):
    """A bound call: from features, classifier and bias here to the result of a public function."""

    def __init__(self, bound, agreement, predicts, head, sums_hidden):
        super().__init__(bound, agreement, predicts)
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
            self.static._replace(axis=1),
            self.settings._replace(accumulate=self.head["accumulate"]),
            chunk_rows(features, split, ranks, self.head["chunk_rows"]),
            linear._scale(hidden, features.shape[0], problem, self.settings),
            self.sums_hidden,
        )
        rows = nodes.rows_of(flat(self.shard, axis, shape))
        *numbers, predicted = HeadClasses.apply(features, classifier, bias, rows, static)
        return *(x.reshape(shape) for x in numbers), predicted.reshape(shape) if static.node.predicts else predicted


@by_default
def head_options(*, chunk_rows, accumulate, **options):
    """(the keywords that only a head has, those of `loss`)."""
    return {"chunk_rows": chunk_rows, "accumulate": accumulate}, options


def head_of(name, backend, inputs, options, arguments, split, groups, sums_hidden):
    """The HeadReduction of a call, for local tensors. `arguments` and `split` as in `calls.reduction_of`."""
    (hidden, classifier, bias), (own, others) = inputs, head_options(**options)

    def bind():
        targets, options = arguments(others)
        given, settings = given_of(targets, **options)
        checks = binding.ShapeArguments(backend)
        *_, logits = checks.head(hidden, classifier, bias, own["chunk_rows"], own["accumulate"], settings["axis"])
        return binding.bind(backend, logits, given, settings, split(classifier.shape[0]))

    def head(bound):
        axis = bound.settings.axis
        return hidden.shape[axis], hidden.dtype, own["chunk_rows"]

    bound, agreement = agreed(name, bind, groups, hidden.device, options.get("validate"), head)
    return HeadReduction(bound, agreement, name.endswith("terms"), own, sums_hidden)


def local_head(
    name, backend, hidden, classifier, targets, *, bias=None, group, num_classes=None, class_start=None, **options
):
    """`linear_loss` or a sibling: features of the whole group, the classifier's rows of this rank's classes."""

    def split(size):
        return split_of(group, size, num_classes, class_start)

    inputs, groups = (hidden, classifier, bias), [(checked_group(group), PARTS)]
    reduction = head_of(name, backend, inputs, options, lambda others: (targets, others), split, groups, True)
    return evaluated(name, reduction, *inputs)


def placed_head(name, backend, hidden, classifier, targets, *, bias=None, **options):
    """`linear_loss` or a sibling of DTensors: rows of features split, or classes of the classifier, or both."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    from multismooth.torch.sharding import placement

    tensors = {"hidden": hidden, "classifier": classifier, "bias": bias}
    for argument, value in tensors.items():
        if value is not None and not isinstance(value, DTensor):
            remedy = "distribute_tensor(value, mesh, [Replicate()] * mesh.ndim) makes it one without a copy."
            raise complain(argument, "a DTensor, as the others", type(value).__name__, remedy)
        if value is not None:
            placement.checked_placements(argument, value)
    mesh, axis = hidden.device_mesh, options.get("axis")
    axis = (-1 if axis is None else axis) % hidden.ndim
    for argument, value, feature in (("hidden", hidden, axis), ("classifier", classifier, 1)):
        if any(isinstance(p, Shard) and p.dim % value.ndim == feature for p in value.placements):
            remedy = f"Pass {argument}.redistribute(placements=…): the logits of split features are partial sums."
            got = str(tuple(value.placements))
            raise complain(argument, "a feature axis that is not split", got, remedy, ShardError)
    split_classes = [isinstance(p, Shard) for p in classifier.placements]
    # Where a mesh axis splits both, the features are gathered: they are smaller than the logits of either.
    rows = [Replicate() if c else p for c, p in zip(split_classes, hidden.placements, strict=True)]
    if tuple(rows) != tuple(hidden.placements):  # else its gradient would be summed, and no longer be Partial
        hidden = hidden.redistribute(mesh, rows)
    logits = [Shard(axis) if c else p for c, p in zip(split_classes, rows, strict=True)]
    shape = list(hidden.shape)
    shape[axis] = classifier.shape[0]
    elements = placement.Elements.of(tuple(shape), mesh, logits, axis)
    kept = [Partial("sum") if c else p for c, p in zip(split_classes, rows, strict=True)]
    summed = [Partial("sum") if isinstance(p, Shard) else c for c, p in zip(classifier.placements, rows, strict=True)]
    placements = {"hidden": kept, "classifier": summed, "bias": summed}
    if bias is not None and tuple(bias.placements) != tuple(classifier.placements):
        bias = bias.redistribute(mesh, classifier.placements)
    local = [
        None if value is None else value.to_local(grad_placements=placements[argument])
        for argument, value in (("hidden", hidden), ("classifier", classifier), ("bias", bias))
    ]
    reduction = head_of(
        name, backend, local, options, lambda others: elements.local(targets, others), lambda size: elements.split,
        elements.groups(), False,
    )  # fmt: skip
    found = evaluated(name, reduction, *local)
    if name != "linear_loss_and_grad":
        return elements.placed(found, reduction.settings.reduction)
    loss, gradients = found
    return elements.placed(loss, reduction.settings.reduction), tuple(
        None
        if g is None
        else DTensor.from_local(g, mesh, placements[k], run_check=False, shape=x.shape, stride=x.stride())
        for g, k, x in zip(gradients, placements, (hidden, classifier, bias), strict=True)
    )
