"""The autograd node of a linear head whose classifier has some of the classes here.

    hidden, classifier, bias → (lse, nll, smooth) over all classes, per element

Forward makes the logits a chunk of rows at a time, and exchanges its rows' numbers. Backward makes them again, since
only then the upstream gradient is known; it needs no exchange but the sum of the features' gradient at its end.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from multismooth import linear, spec
from multismooth.plan import COMMON, ROWS, mapped
from multismooth.torch.linear import DEVICE_ROWS, DEVICE_WORKSPACE, SPEC_BYTES, TensorProducts
from multismooth.torch.namespace import XP, float_of, known
from multismooth.torch.sharding import nodes
from multismooth.torch.sharding.exchange import Found, reduced


class HeadStatic(NamedTuple):
    """What of a call is no tensor."""

    node: nodes.Static  # of a chunk, whose class axis is 1
    settings: Any
    rows: int  # of a chunk, the same on every rank
    scale: float = 1.0  # multiplies the gradient of a chunk's logits, which half precision may not hold otherwise
    sums_hidden: bool = True  # whether backward sums the features' gradient over the groups


def chunk_rows(hidden, split, ranks, wanted):
    """Rows of a chunk. It depends on what all ranks have in common, because a chunk is an exchange."""
    rows, classes = hidden.shape[0], -(-split.classes // ranks)
    if not known(rows):
        return rows
    if hidden.is_cpu:
        return linear.chunk_size(rows, classes, wanted)
    return linear.chunk_size(rows, classes, wanted, DEVICE_WORKSPACE // SPEC_BYTES, **DEVICE_ROWS)


def flat(plan, axis, shape):
    """The plan of `nodes.shard_of` for rows (N, K): of elements of this shape, with classes on this axis."""
    changed = {}
    for name in (*nodes.ROWS, *nodes.COEFFICIENTS):
        value = getattr(plan, name)
        if not isinstance(value, torch.Tensor) or name in COMMON:
            continue
        if name not in ROWS:
            value = value.expand(shape).reshape(-1)
        else:
            value = value.movedim(axis, -1)
            alone = value.shape[:-1].numel() == 1
            own = value if alone else value.expand(*shape, value.shape[-1])
            value = own.reshape(1 if alone else shape.numel(), value.shape[-1])
        changed[name] = value
    return plan._replace(**changed)


def chunks(hidden, plan, size):
    """(rows, their part of the plan) of every chunk. There is one even of no rows: other ranks may wait for it."""
    count = hidden.shape[0]
    for start in range(0, max(count, 1), size) if known(count) else (0,):
        rows = slice(start, min(start + size, count) if known(count) else count)
        yield (
            rows,
            mapped(
                plan,
                lambda x, rows=rows: x[rows] if x.ndim and x.shape[0] == count else x,
                lambda x, rows=rows: x[rows] if x.shape[0] == count else x,
            ),
        )


def logits_of(hidden, classifier, bias, plan):
    hidden = linear.masked_rows(hidden, plan, XP)
    return hidden, linear.logits_of(hidden, classifier, bias)


def joined(founds):
    """The Found of all rows, from those of the chunks."""
    first, *_ = founds
    statistics = spec.Statistics(
        *(
            torch.cat(x) if isinstance(x[0], torch.Tensor) else x[0]
            for x in zip(*(f.statistics for f in founds), strict=True)
        )
    )
    classes = None if first.first is None else torch.cat([f.first for f in founds])
    return Found(statistics, classes, tuple(map(torch.cat, zip(*(f.added for f in founds), strict=True))))


class HeadClasses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, classifier, bias, rows, added, static):
        plan, founds = spec.Plan(**rows), []
        for place, part in chunks(hidden, plan, static.rows):
            logits = logits_of(hidden[place], classifier, bias, part)[1]
            founds.append(nodes.whole(logits, part, tuple(x[place] for x in added), static.node))
        statistics, results = nodes.outputs(joined(founds))
        ctx.save_for_backward(hidden, classifier, bias, *statistics, *nodes.tensors(rows))
        ctx.static, ctx.rows = static, nodes.others(rows)
        ctx.mark_non_differentiable(*results[3:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx, *upstream):
        hidden, classifier, bias, *saved = ctx.saved_tensors
        static, needed = ctx.static, ctx.needs_input_grad
        plan, found = nodes.plan_again(ctx.rows, saved[6:]), torch.stack(saved[:6])
        upstream = torch.stack(upstream[:3]) * static.scale
        products = TensorProducts(hidden, classifier, static.settings, static.rows, XP, static.scale, 1.0)
        d_bias = None
        for place, part in chunks(hidden, plan, static.rows):
            features, logits = logits_of(hidden[place], classifier, bias, part)
            here = spec.Statistics(*found[:, place])
            g = nodes.rows_gradient(logits, here, part, 1, upstream[:, place], static.node.one_sum)
            if needed[2]:
                part_of_bias = g.sum(0, dtype=float_of(hidden))
                d_bias = part_of_bias if d_bias is None else d_bias + part_of_bias
            if needed[0]:
                products.add_hidden(g, place)
            if needed[1]:
                products.add_classifier(g, features)
        d_hidden = products.d_hidden() if needed[0] else None
        for group in static.node.split.groups if needed[0] and static.sums_hidden else ():
            d_hidden = reduced(d_hidden, "sum", group)
        d_classifier = products.d_classifier.to(classifier.dtype) if needed[1] else None
        d_bias = None if d_bias is None else (d_bias / static.scale).to(bias.dtype)
        return d_hidden, d_classifier, d_bias, None, None, None
