"""What a call in parts exchanges, in collectives and bytes, and some single calls beside the same on one process.

`python tests/support/sharded_traffic.py` prints it as JSON.
"""

import json
import logging
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import ranks
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import multismooth
import multismooth.torch as ms
from multismooth.torch.sharding import exchange

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from traffic import Traffic

WORLD = 4
N, K, D = 24, 20, 6
torch.manual_seed(3)
LOGITS, LABELS = torch.randn(N, K, dtype=torch.float64) * 3, torch.randint(0, K, (N,))
HIDDEN, CLASSIFIER = torch.randn(N, D, dtype=torch.float64), torch.randn(K, D, dtype=torch.float64)
MIXED = replace(multismooth.conventions["torch"], class_weights="mixture")
APART = replace(multismooth.conventions["torch"], smooth_denominator="all")
ROWS, WEIGHT = torch.rand(N, K, dtype=torch.float64).softmax(1), torch.rand(K, dtype=torch.float64) + 0.5


def counted(forward):
    """[bytes of the collectives of forward, of backward]."""
    with Traffic() as there:
        loss = forward()
        loss = loss[0] if isinstance(loss, tuple) else loss
    with Traffic() as back:
        loss.sum().backward()
    return [there.bytes, back.bytes]


def mine(x, axis):
    return x.chunk(WORLD, axis)[dist.get_rank()].contiguous()


def traffic():
    group = dist.group.WORLD
    line, square = DeviceMesh("cpu", torch.arange(4)), DeviceMesh("cpu", torch.arange(4).view(2, 2))
    z = mine(LOGITS, 1).requires_grad_()
    silent, mixed = {"validate": False, "normalizer": 24.0}, {"convention": MIXED, "weight": WEIGHT}
    learned = torch.full((N,), 0.1, dtype=torch.float64, requires_grad=True)

    def placed(tensor, mesh, *placements):
        return distribute_tensor(tensor, mesh, placements, src_data_rank=None).requires_grad_()

    on_line, on_square = placed(LOGITS, line, Shard(1)), placed(LOGITS, square, Shard(0), Shard(1))
    rows = placed(LOGITS, line, Shard(0))
    h, w = HIDDEN.clone().requires_grad_(), mine(CLASSIFIER, 0).requires_grad_()
    h_placed, w_placed = placed(HIDDEN, line, Replicate()), placed(CLASSIFIER, line, Shard(0))
    found = {
        "group": counted(lambda: ms.loss(z, LABELS, group=group, **silent)),
        "group, checked": counted(lambda: ms.loss(z, LABELS, group=group)),
        "terms": counted(lambda: ms.terms(z, LABELS, group=group, validate=False)),
        "weights": counted(lambda: ms.loss(z, LABELS, group=group, weight=WEIGHT, **silent)),
        "learned ε": counted(lambda: ms.loss(z, LABELS, group=group, label_smoothing=learned, **silent)),
        "learned ε, kl": counted(
            lambda: ms.loss(z, mine(ROWS, 1), group=group, label_smoothing=learned, convention="torch-kl-div", **silent)
        ),
        "two denominators": counted(lambda: ms.loss(z, LABELS, group=group, validate=False, convention=APART)),
        "mixed, checked": counted(lambda: ms.loss(z, mine(ROWS, 1), group=group, **mixed)),
        "mixed terms": counted(lambda: ms.terms(z, mine(ROWS, 1), group=group, **mixed, validate=False)),
        "mixed head": counted(
            lambda: ms.linear_loss(h, w, mine(ROWS, 1), group=group, chunk_rows=8, **mixed, **silent)
        ),
        "soft": counted(lambda: ms.loss(z, mine(ROWS, 1), group=group, **silent)),
        "soft, checked": counted(lambda: ms.loss(z, mine(ROWS, 1), group=group)),
        "classes": counted(lambda: ms.loss(on_line, LABELS, **silent)),
        "classes, mean": counted(lambda: ms.loss(on_line, LABELS, validate=False)),
        "elements": counted(lambda: ms.loss(rows, LABELS, **silent)),
        "elements, mean": counted(lambda: ms.loss(rows, LABELS, validate=False)),
        "elements, sum": counted(lambda: ms.loss(rows, LABELS, validate=False, reduction="sum")),
        "both": counted(lambda: ms.loss(on_square, LABELS, **silent)),
        "both, mean": counted(lambda: ms.loss(on_square, LABELS, validate=False)),
        "both, checked": counted(lambda: ms.loss(on_square, LABELS, normalizer=24.0)),
        "head": counted(lambda: ms.linear_loss(h, w, LABELS, group=group, chunk_rows=8, **silent)),
        "placed head": counted(lambda: ms.linear_loss(h_placed, w_placed, LABELS, chunk_rows=8, **silent)),
    }
    before, exchange.MAX_RANKS_GATHERED = exchange.MAX_RANKS_GATHERED, 1
    found["two rounds"] = counted(lambda: ms.loss(z, LABELS, group=group, **silent))
    found["two rounds, terms"] = counted(lambda: ms.terms(z, LABELS, group=group, validate=False))
    found["two rounds, mixed"] = counted(lambda: ms.loss(z, mine(ROWS, 1), group=group, **mixed, **silent))
    exchange.MAX_RANKS_GATHERED = before
    return found


def errors(rank):
    """Distances from one process, of calls that the random problems do not make."""
    group, found = dist.group.WORLD, {}

    def distance(a, b):
        return (a.double() - b.double()).abs().max().item()

    for offset in (0.0, 1e5):  # float32: a common offset costs what it costs one process
        z = LOGITS.float() + offset
        exact, exact_gradient = ms.loss_and_grad(z.double(), LABELS)
        alone, alone_gradient = ms.loss_and_grad(z, LABELS)
        parts, gradient = ms.loss_and_grad(mine(z, 1), LABELS, group=group)
        found[f"float32 + {offset:g}"] = [distance(parts, exact), distance(alone, exact)]
        found[f"gradient, float32 + {offset:g}"] = [
            distance(gradient, mine(exact_gradient, 1)), distance(alone_gradient, exact_gradient)
        ]  # fmt: skip
    half = LOGITS.bfloat16()
    alone, parts = ms.loss_and_grad(half, LABELS), ms.loss_and_grad(mine(half, 1), LABELS, group=group)
    found["bfloat16"] = [distance(parts[0], alone[0]), 1e-6]
    found["gradient, bfloat16"] = [distance(parts[1], mine(alone[1], 1)), 0.0]
    for dtype in (torch.float16, torch.bfloat16):
        h, w = HIDDEN.to(dtype), CLASSIFIER.to(dtype)
        exact = ms.linear_loss_and_grad(h.double(), w.double(), LABELS, chunk_rows=8)
        parts = ms.linear_loss_and_grad(h, mine(w, 0), LABELS, chunk_rows=8, group=group)
        digit = 4 * torch.finfo(dtype).eps
        found[f"head, {dtype}"] = [distance(parts[0], exact[0]), digit]
        scale = exact[1][0].abs().max().item()
        found[f"∂hidden, {dtype}"] = [distance(parts[1][0], exact[1][0]) / scale, digit]
        scale = exact[1][1].abs().max().item()
        found[f"∂classifier, {dtype}"] = [distance(parts[1][1], mine(exact[1][1], 0)) / scale, digit]
    z = mine(LOGITS, 1).requires_grad_()
    loss = ms.loss(z, LABELS, group=group)
    once = torch.autograd.grad(loss, z, retain_graph=True)[0]
    found["a second backward"] = [distance(once, torch.autograd.grad(loss, z)[0]), 0.0]
    epsilon = torch.full((N,), 0.1, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(ms.loss(LOGITS, LABELS, label_smoothing=epsilon), epsilon)
    (own,) = torch.autograd.grad(ms.loss(z, LABELS, label_smoothing=epsilon, group=group), epsilon)
    found["the gradient of ε"] = [distance(own, wanted), 1e-14]
    square = DeviceMesh("cpu", torch.arange(WORLD).view(2, 2))
    sample_weight = torch.linspace(0.5, 2, N, dtype=torch.float64)
    for name, value in (("label_smoothing", torch.tensor(0.2, dtype=torch.float64)), ("sample_weight", sample_weight)):
        learned = value.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(ms.loss(LOGITS, LABELS, **{name: learned}), learned)
        logits, learned = (
            distribute_tensor(x, square, kinds, src_data_rank=None)
            for x, kinds in ((LOGITS, [Shard(0), Shard(1)]), (value, [Replicate(), Replicate()]))
        )
        loss = ms.loss(logits, LABELS, **{name: learned.requires_grad_()})
        (own,) = torch.autograd.grad(loss.full_tensor(), learned)
        found[f"the gradient of {name}, placed"] = [distance(own.full_tensor(), wanted), 1e-14]
    cap = torch.tensor(5.0, dtype=torch.float64, requires_grad=True)
    with torch.no_grad():  # so that nobody asks for its gradient
        capped = ms.loss(z, LABELS, logit_softcap=cap, group=group)
        found["a learned soft cap"] = [distance(capped, ms.loss(LOGITS, LABELS, logit_softcap=cap)), 1e-14]
    out = torch.empty_like(z)
    ms.loss_and_grad(z.detach(), LABELS, group=group, out=out)
    found["out="] = [distance(out, once), 0.0]
    label = torch.where(torch.arange(N) == 2, K + 5, LABELS)  # in no part: NaN where no check looks
    bad = ms.loss(z, label, group=group, validate=False, reduction="none")
    found["an unchecked label outside"] = [0.0 if bad[2].isnan() and bad[[0, 1]].isfinite().all() else 1.0, 0.0]
    mesh = DeviceMesh("cpu", torch.arange(WORLD))
    own = LABELS[: 6 * rank]  # each rank has others
    count = ms.normalizer(own, K, weight=WEIGHT, group=group)
    found["normalizer"] = [distance(count, sum(WEIGHT[LABELS[: 6 * k]].sum() for k in range(WORLD))), 1e-13]
    placed = distribute_tensor(LABELS, mesh, [Shard(0)], src_data_rank=None)
    found["normalizer, placed"] = [distance(ms.normalizer(placed, K, weight=WEIGHT), WEIGHT[LABELS].sum()), 1e-13]
    return found


def main(rank):
    logging.disable(logging.WARNING)
    return traffic(), errors(rank)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    results = ranks.spawn(main, WORLD)
    for result in results:
        if isinstance(result, Exception):
            raise result
    print(json.dumps({"traffic": [result[0] for result in results], "errors": [result[1] for result in results]}))
