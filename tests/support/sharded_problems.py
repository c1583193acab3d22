"""Random problems in parts on 1, 2, 3, 4 and 8 processes, each beside the same call on one process.

`python tests/support/sharded_problems.py COUNT FIRST` prints the errors of COUNT problems from a seed on, as JSON.
References are computed before the processes are forked. Groups of the same size work on different problems at the same
time.
"""

import json
import logging
import random
import sys
import warnings
import zlib
from collections import Counter

import numpy as np
import problems
import ranks
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import multismooth.torch as ms
from multismooth.torch.sharding import exchange, nodes
from multismooth.torch.sharding.split import chunk

WORLD = 8
SHARES = {1: 0.15, 2: 0.3, 3: 0.15, 4: 0.3, 8: 0.1}  # of the problems, by world size
KINDS = ("loss", "placed loss", "loss_and_grad", "terms", "linear_loss", "placed linear_loss", "placed linear_terms")
WIDTH = 3


class Case:
    """A problem, its kind of call, and what one process makes of it: outputs and gradients by the inputs."""

    def __init__(self, seed, world):
        self.seed, self.world, self.kind = seed, world, KINDS[seed % len(KINDS)]
        self.problem = problem = problems.problem(seed, nonfinite="linear" not in self.kind and None)
        settings = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in problem.settings.items()}
        self.settings, axis = settings, settings.get("axis")
        self.logits, self.targets = torch.from_numpy(problem.logits), torch.from_numpy(problem.targets)
        self.axis = (-1 if axis is None else axis) % self.logits.ndim
        self.classes = self.logits.shape[self.axis]
        prior = settings.get("prior")
        if prior is not None and prior.ndim > 1:  # one row per class: refused where classes are split
            settings["prior"] = prior.mean(0)
        if "terms" in self.kind:
            for name in ("reduction", "normalizer"):
                settings.pop(name, None)
        rng = np.random.default_rng(seed)
        shape = list(self.logits.shape)
        shape[self.axis] = WIDTH
        head = [rng.normal(size=shape), rng.normal(size=(self.classes, WIDTH)), rng.normal(size=self.classes)]
        self.inputs = [torch.from_numpy(x) for x in head] if "linear" in self.kind else [self.logits]
        if seed % 2 and len(self.inputs) == 3:
            self.inputs[2] = None
        self.chunk_rows = rng.choice([None, 1, 2])
        self.results = self.call(self.inputs, self.targets, self.settings)

    def call(self, inputs, targets, settings, **own):
        """(outputs, gradients) of the public function, on one process or on all."""
        name = self.kind.removeprefix("placed ")
        inputs = [x if x is None else leaf(x) for x in inputs]
        if "linear" in name:
            own = {**own, "bias": inputs[2], "chunk_rows": self.chunk_rows}
        found = getattr(ms, name)(*inputs[: 2 if "linear" in name else 1], targets, **settings, **own)
        if name == "loss_and_grad":
            return [found[0]], [found[1]]
        outputs = [*found] if name.endswith("terms") else [found]
        given, summed = (
            [x for x in inputs if x is not None],
            [x for x in (*outputs[:2], *outputs[3:4]) if x.requires_grad],
        )
        return outputs, torch.autograd.grad(summed, given, [ones(x) for x in summed])

    # --- in parts ---

    def local(self, group):
        """The call on this rank's classes of a group, and what of the results is here."""
        start, size = chunk(self.classes, dist.get_world_size(group), dist.get_rank(group))

        def cut(x, axis=self.axis):
            return x if x is None else x.narrow(axis, start, size)

        settings, mask = dict(self.settings), self.settings.get("class_mask")
        if mask is not None and mask.ndim > 1:
            settings["class_mask"] = cut(mask.expand(self.logits.shape))
        targets = cut(self.targets) if self.problem.soft else self.targets
        linear, (outputs, gradients) = len(self.inputs) > 1, self.results
        inputs = [self.inputs[0], *(cut(x, 0) for x in self.inputs[1:])] if linear else [cut(self.logits)]
        wanted = [gradients[0], *(cut(x, 0) for x in gradients[1:])] if linear else [cut(gradients[0])]
        validate = None if self.seed % 5 else False
        found = self.call(inputs, targets, settings | {"validate": validate}, group=group, num_classes=self.classes)
        bits = zlib.crc32(b"".join(x.detach().contiguous().numpy().tobytes() for x in found[0]))
        return [*zip(found[0], outputs, strict=True), *zip(found[1], wanted, strict=True)], bits

    def placed(self, mesh):
        """The call on DTensors with placements of this problem's own, and the results as on one process."""
        rng, axis = random.Random(self.seed), self.axis
        others = [k for k in range(self.logits.ndim) if k != axis]
        inputs, places = [], []
        for _ in range(mesh.ndim):
            rows, classes = rng.random() < 0.5 and others, rng.random() < 0.6
            places.append((Shard(rng.choice(others)) if rows else Replicate(), classes))
        if len(self.inputs) == 1:
            placements = [[Shard(axis) if classes else rows for rows, classes in places]]
        else:
            own = [Shard(0) if classes else Replicate() for _, classes in places]
            placements = [[rows for rows, _ in places], own, own]
        for x, own in zip(self.inputs, placements, strict=True):
            inputs.append(None if x is None else distribute_tensor(x, mesh, own, src_data_rank=None))
        found = self.call(inputs, self.targets, self.settings)
        if "loss" in self.kind and len(self.inputs) == 1:
            assert found[1][0].placements == tuple(placements[0])
        pairs = [*zip(found[0], self.results[0], strict=True), *zip(found[1], self.results[1], strict=True)]
        return [(a.full_tensor(), b) for a, b in pairs], None


def leaf(x):
    """A tensor of its own. A DTensor is one already, and each operation on DTensors takes a millisecond."""
    return (x if isinstance(x, DTensor) else x.detach()).requires_grad_()


def ones(output):
    """The derivative of an output's sum by the output."""
    if not isinstance(output, DTensor):
        return torch.ones_like(output)
    placements = [Replicate() if k.is_partial() else k for k in output.placements]
    here = torch.ones_like(output.to_local())
    return DTensor.from_local(
        here, output.device_mesh, placements, run_check=False, shape=output.shape, stride=output.stride()
    )


def distance(pairs):
    """The largest distance from what one process computes, relative where that is above 1."""
    worst = 0.0
    for found, wanted in pairs:
        assert found.shape == wanted.shape, (found.shape, wanted.shape)
        found, wanted = found.detach().double(), wanted.detach().double()
        special = ~wanted.isfinite()
        if not torch.equal(found[special].nan_to_num(7.0), wanted[special].nan_to_num(7.0)):
            return float("inf")
        gap = (found - wanted)[~special].abs() / wanted[~special].abs().clamp(min=1.0)
        worst = max(worst, gap.max().item() if gap.numel() else 0.0)
    return worst


def meshes():
    """{world size: (the meshes of this rank's part, its group, which part it is)}."""
    alone = torch.arange(WORLD)
    one, two = DeviceMesh("cpu", alone.view(8, 1), mesh_dim_names=("part", "x"))["x"], None
    two = DeviceMesh("cpu", alone.view(4, 2), mesh_dim_names=("part", "x"))["x"]
    square = DeviceMesh("cpu", alone.view(2, 2, 2), mesh_dim_names=("part", "x", "y"))["x", "y"]
    four = DeviceMesh("cpu", alone.view(2, 4), mesh_dim_names=("part", "x"))["x"]
    eight, wide = DeviceMesh("cpu", alone), DeviceMesh("cpu", alone.view(2, 4), mesh_dim_names=("x", "y"))
    threes = [dist.new_group([0, 1, 2]), dist.new_group([3, 4, 5])]
    rank, found = dist.get_rank(), {}
    for size, own in ((1, [one]), (2, [two]), (4, [four, square]), (8, [eight, wide])):
        found[size] = own, own[0].get_group(), rank // size
    if rank < 6:
        group = threes[rank // 3]
        found[3] = [DeviceMesh.from_group(group, "cpu")], group, rank // 3
    return found


def main(rank):
    logging.disable(logging.WARNING)
    found = []
    for size, (own, group, part) in meshes().items():
        parts = WORLD // size
        for number, case in enumerate(c for c in CASES if c.world == size):
            if number % parts != part:
                continue
            exchange.MAX_RANKS_GATHERED = 1 if case.seed % 4 == 3 else 8  # two rounds, as above 8 ranks
            nodes.BLOCK = 8 if case.seed % 3 == 1 else 2**18  # as for large problems
            if case.kind.startswith("placed"):
                pairs, bits = case.placed(own[case.seed % len(own)])
            else:
                pairs, bits = case.local(group)
            found.append((case.seed, size, case.kind, distance(pairs), bits))
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    count, seed, CASES = int(sys.argv[1]), int(sys.argv[2]), []
    for size, share in SHARES.items():
        rest = count - len(CASES)
        for _ in range(rest if size == WORLD else round(count * share)):
            CASES.append(Case(seed, size))
            seed += 1
    by_rank = ranks.spawn(main, WORLD)
    failures = [str(result) for result in by_rank if isinstance(result, Exception)]
    rows = [row for result in by_rank if not isinstance(result, Exception) for row in result]
    bits = {}
    for seed, *_, own in rows:
        bits.setdefault(seed, set()).add(own)
    worst = max(rows, key=lambda row: row[3], default=None)
    print(
        json.dumps(
            {
                "failures": failures[:3],
                "cases": len(bits),
                "worlds": Counter(size for seed, size in {(row[0], row[1]) for row in rows}),
                "kinds": Counter(kind for seed, kind in {(row[0], row[2]) for row in rows}),
                "worst": worst,
                "wrong": sorted({(row[0], row[1], row[2], row[3]) for row in rows if not row[3] < 1e-12})[:5],
                "different bits": [seed for seed, own in bits.items() if len(own) > 1][:5],
            }
        )
    )
