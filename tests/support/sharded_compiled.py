"""Calls in parts under `torch.compile(fullgraph=True)`: distances from the same calls without it, as JSON.

`python tests/support/sharded_compiled.py NAME…` makes these calls.
"""

import json
import logging
import sys
import warnings
from dataclasses import replace

import ranks
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import multismooth
import multismooth.torch as ms

WORLD = 2
torch.manual_seed(0)
LOGITS, LABELS = torch.randn(6, 8, dtype=torch.float64), torch.tensor([0, 3, -100, 7, 2, 5])
HIDDEN, CLASSIFIER = torch.randn(6, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64)
ROWS = LOGITS.softmax(1)
MIXED = {"convention": replace(multismooth.conventions["torch-kl-div"], class_weights="mixture")}
WEIGHT = torch.linspace(0.5, 1.5, 8, dtype=torch.float64)


def distance(function, *inputs):
    """The largest distance of loss and gradients, with and without a compiler."""
    both = []
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        given = [x.detach().clone().requires_grad_() for x in inputs]
        loss = call(*given)
        found = [loss, *torch.autograd.grad(loss, given)]
        both.append([x.full_tensor() if isinstance(x, DTensor) else x for x in found])
    return max((a - b).abs().max().item() for a, b in zip(*both, strict=True))


def main(rank):
    logging.disable(logging.WARNING)
    group, mesh = dist.group.WORLD, DeviceMesh("cpu", torch.arange(WORLD))

    def placed(axis):
        return distribute_tensor(LOGITS, mesh, [Shard(axis)], src_data_rank=None)

    classes = slice(4 * rank, 4 * rank + 4)
    calls = {
        "group": lambda: distance(lambda z: ms.loss(z, LABELS, group=group, weight=WEIGHT), LOGITS[:, classes]),
        "head": lambda: distance(lambda h, w: ms.linear_loss(h, w, LABELS, group=group), HIDDEN, CLASSIFIER[classes]),
        "classes": lambda: distance(lambda z: ms.loss(z, LABELS).full_tensor(), placed(1)),
        "rows": lambda: distance(
            lambda z: ms.loss(z, ROWS[:, classes], group=group, weight=WEIGHT, **MIXED), LOGITS[:, classes]
        ),
        "elements": lambda: distance(lambda z: ms.loss(z, LABELS).full_tensor(), placed(0)),
    }
    return {name: calls[name]() for name in sys.argv[1:]}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    results = ranks.spawn(main, WORLD, timeout=120)
    for result in results:
        if isinstance(result, Exception):
            raise result
    print(json.dumps(results))
