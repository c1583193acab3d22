"""Every combination of what a plan takes over classes: what is exchanged, and half of them beside one process.

`python tests/support/sharded_combinations.py logits|head|values` prints it as JSON. Traffic, of calls of logits or of a
head, is counted without other processes: in PyTorch's "fake" process group nothing moves. Values and gradients, also by
ε and by sample weights, are those of two processes.
"""

import json
import logging
import random
import sys
import warnings
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import NamedTuple

import ranks
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.testing._internal.distributed.fake_pg import FakeStore

import multismooth
import multismooth.torch as ms

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from traffic import Traffic

WORLD = 2
N, K, D = 6, 8, 3
NUMBER = 8  # bytes of a float64


def floats(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=GENERATOR)


GENERATOR = torch.Generator().manual_seed(5)
LOGITS, HIDDEN, CLASSIFIER = 4 * floats(N, K), floats(N, D), 4 * floats(K, D)
LABELS = torch.tensor([0, 7, 4, 5, 2, 0])
MASK = torch.rand(N, K, generator=GENERATOR) > 0.4
MASK[torch.arange(N), LABELS] = True
MASKS = {None: None, "(K,)": torch.arange(K) != 3, "rows": MASK}
ROWS, WEIGHT, PRIOR = (3 * floats(N, K)).softmax(1), floats(K) + 0.5, floats(K).softmax(0)
EPSILON, SAMPLE_WEIGHT = torch.linspace(0, 0.6, N).double(), torch.tensor([1.0, 0.5, 0.0, 2.0, 1.0, 3.0]).double()
BASE = multismooth.conventions["torch"]


class Case(NamedTuple):
    soft: bool
    weights: str | None  # `Convention.class_weights`, or None without weights
    prior: bool
    mask: str | None
    kl: bool
    exclude: bool
    z_loss: float

    @property
    def targets(self):
        if not self.soft:
            return LABELS
        rows = ROWS if self.mask is None else ROWS * MASKS[self.mask]
        return rows / rows.sum(1, keepdim=True)

    @property
    def settings(self):
        convention = replace(
            BASE,
            class_weights=self.weights or BASE.class_weights,
            denominator="mixture_weight",
            objective="kl" if self.kl else "cross_entropy",
            exclude=(1, 6) if self.exclude else (),
        )
        return {
            "convention": convention, "class_mask": MASKS[self.mask], "sample_weight": SAMPLE_WEIGHT,
            "weight": WEIGHT if self.weights else None, "prior": PRIOR if self.prior else None, "z_loss": self.z_loss,
        }  # fmt: skip


CASES = [
    Case(*choices)
    for choices in product(
        (False, True), (None, "per_term", "target", "mixture", "nll_only"), (False, True), MASKS, (False, True),
        (False, True), (0.0, 0.1),
    )
]  # fmt: skip


def inputs(head):
    return [HIDDEN, CLASSIFIER] if head else [LOGITS]


def in_group(case, tensors, settings):
    """The loss of this rank's classes: of logits, or of features and a classifier."""

    def here(x, axis=1):
        return x.chunk(WORLD, axis)[dist.get_rank()] if x is not None and x.ndim > 1 else x

    settings = settings | {"class_mask": here(settings["class_mask"]), "group": dist.group.WORLD}
    tensors = [tensors[0], here(tensors[1], 0)] if len(tensors) > 1 else [here(tensors[0])]
    return alone(case, tensors, settings, here(case.targets))


def placed(case, tensors, settings):
    """The same with DTensors."""
    mesh = DeviceMesh("cpu", torch.arange(WORLD))
    placements = [Replicate(), Shard(0)] if len(tensors) > 1 else [Shard(1)]
    pairs = zip(tensors, placements, strict=True)
    return alone(case, [distribute_tensor(x, mesh, [k], src_data_rank=None) for x, k in pairs], settings)


def alone(case, tensors, settings, targets=None):
    targets = case.targets if targets is None else targets
    return (ms.linear_loss if len(tensors) > 1 else ms.loss)(*tensors, targets, **settings)


def traffic(head):
    """How often a call made so many collectives, and sent so many numbers per element."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=WORLD)
    collectives, numbers = Counter(), Counter()
    for case, call in product(CASES, (in_group, placed)):
        settings = case.settings | {"label_smoothing": EPSILON, "validate": False, "normalizer": 5.0}
        with Traffic() as there:
            call(case, inputs(head), settings)
        collectives[len(there.bytes)] += 1
        numbers[sum(there.bytes) / NUMBER / N] += 1
    dist.destroy_process_group()
    return {"collectives": collectives, "numbers": numbers}


def answer(call, case, head, learned):
    """(the loss and its gradients, the number of collectives of forward, of backward)."""
    epsilon, sample_weight = (x.clone().requires_grad_(learned) for x in (EPSILON, SAMPLE_WEIGHT))
    settings = case.settings | {"label_smoothing": epsilon, "sample_weight": sample_weight, "validate": False}
    tensors = [x.clone().requires_grad_() for x in inputs(head)]
    with Traffic() as there:
        loss = call(case, tensors, settings)
    with Traffic() as back:
        gradients = torch.autograd.grad(loss, [*tensors, *((epsilon, sample_weight) if learned else ())])
    return [loss.detach(), *gradients], len(there.bytes), len(back.bytes)


def values(rank):
    """[the case, head or not, learned or not, distance from one process, collectives] of every sampled case."""
    found = []
    for (case, head, learned), wanted in zip(SAMPLED, EXPECTED, strict=True):
        own, there, back = answer(in_group, case, head, learned)
        split = 2 if head else 1, 0 if head else 1  # which gradient is of this rank's classes alone, along which axis
        pairs = [
            [x.chunk(WORLD, split[1])[rank] if place == split[0] else x for x in pair]
            for place, pair in enumerate(zip(own, wanted, strict=True))
        ]
        distance = max((a - b).abs().max().item() for a, b in pairs)
        found.append([repr(case), head, learned, distance, there, back])
    return found


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    if sys.argv[1] == "values":
        rng = random.Random(0)
        SAMPLED = [(case, rng.random() < 0.4, rng.random() < 0.5) for case in CASES if not case.z_loss]
        EXPECTED = [answer(alone, *case)[0] for case in SAMPLED]
        results = ranks.spawn(values, WORLD)
        for result in results:
            if isinstance(result, Exception):
                raise result
        print(json.dumps([row for result in results for row in result]))
    else:
        print(json.dumps(traffic(sys.argv[1] == "head")))
