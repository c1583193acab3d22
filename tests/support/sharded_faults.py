"""Calls on which the processes of a group disagree: what each raises, how soon, and whether the group works after.

`python tests/support/sharded_faults.py` prints it as JSON: {fault: [[error, text, seconds] of every rank]}. The last
one, a rank that dies, is followed by nothing.
"""

import json
import logging
import os
import time
import warnings

import ranks
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor
from torch.distributed.tensor.placement_types import _StridedShard

import multismooth.torch as ms

WORLD, TIMEOUT = 3, 8
LOGITS, LABELS = torch.arange(60.0, dtype=torch.float64).sin().view(5, 12), torch.tensor([0, 11, 4, -100, 7])
HIDDEN, CLASSIFIER = LOGITS[:, :4].contiguous(), LOGITS.T.contiguous()[:, :4].contiguous()


def call(rank, logits=LOGITS, labels=LABELS, start=None, size=4, **options):
    """The loss of this rank's four of twelve classes."""
    begin = 4 * rank if start is None else start
    options = {"num_classes": 12, "class_start": start, **options}
    return ms.loss(logits[:, begin : begin + size], labels, group=dist.group.WORLD, **options)


def changed(labels, place, value):
    labels = labels.clone()
    labels[place] = value
    return labels


def only(rank, value, otherwise=None):
    """The value on rank 1."""
    return value if rank == 1 else otherwise


def head(rank, **options):
    classifier = CLASSIFIER[4 * rank : 4 * rank + 4]
    return ms.linear_loss(HIDDEN, classifier, LABELS, group=dist.group.WORLD, num_classes=12, **options)


def placed(placements, tensor=LOGITS):
    mesh = DeviceMesh("cpu", torch.arange(WORLD))
    if placements == [Partial()]:
        return DTensor.from_local(tensor, mesh, placements, run_check=False)
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


def by_rows(rank, labels=LABELS, **options):
    """The loss of DTensors with elements split."""
    return ms.loss(placed([Shard(0)]), labels, **options)


def strided():
    mesh = DeviceMesh("cpu", torch.arange(WORLD))
    part = LOGITS[:, :4].contiguous()
    return DTensor.from_local(
        part, mesh, [_StridedShard(1, split_factor=2)], run_check=False, shape=LOGITS.shape, stride=(12, 1)
    )


def uneven(rank):
    """from_local without shape= takes every part for one of equal parts, so the ranks see different K."""
    part = LOGITS[:, [slice(0, 6), slice(6, 9), slice(9, 12)][rank]].contiguous()
    mesh = DeviceMesh("cpu", torch.arange(WORLD))
    return ms.loss(DTensor.from_local(part, mesh, [Shard(1)], run_check=False), LABELS)


EXISTING = torch.ones(5, 12, dtype=torch.bool)
WEIGHT = torch.linspace(0.5, 1.5, 12, dtype=torch.float64)
FAULTS = {
    "labels outside": lambda rank: call(rank, labels=changed(LABELS, 1, 12)),
    "a label outside on one rank": lambda rank: call(rank, labels=changed(LABELS, 1, only(rank, 12, 11))),
    "labels differ": lambda rank: call(rank, labels=changed(LABELS, 0, rank)),
    "ε differs": lambda rank: call(rank, label_smoothing=only(rank, 0.2, 0.1)),
    "ε per element differs": lambda rank: call(rank, label_smoothing=torch.full((5,), only(rank, 0.2, 0.1))),
    "ε refused on one rank": lambda rank: call(rank, label_smoothing=only(rank, 1.5, 0.1)),
    "K differs": lambda rank: call(rank, num_classes=only(rank, 13, 12), class_start=4 * rank),
    "rows differ": lambda rank: call(rank, LOGITS[: 5 - (rank == 1)], LABELS[: 5 - (rank == 1)]),
    "dtypes differ": lambda rank: call(rank, LOGITS.to(only(rank, torch.float32, torch.float64))),
    "conventions differ": lambda rank: call(rank, convention=only(rank, "fairseq", "torch")),
    "reductions differ": lambda rank: call(rank, reduction=only(rank, "sum", "mean")),
    "z_loss differs": lambda rank: call(rank, z_loss=only(rank, 1e-4, 0.0)),
    "weights differ": lambda rank: call(rank, weight=WEIGHT * only(rank, 2, 1)),
    "weights on one rank": lambda rank: call(rank, weight=only(rank, WEIGHT)),
    "functions differ": lambda rank: head(rank) if rank == 1 else call(rank),
    "a gap": lambda rank: call(rank, start=4 * rank + (rank == 1), size=4 - (rank == 1)),
    "an overlap": lambda rank: call(rank, start=4 * rank - (rank == 1), size=4 + (rank == 1)),
    "too few": lambda rank: call(rank, start=4 * rank, size=4 - (rank == 2)),
    "soft rows that sum to 2": lambda rank: call(rank, labels=torch.full((5, 4), 1 / 6, dtype=torch.float64)),
    "chunks differ": lambda rank: head(rank, chunk_rows=only(rank, 2, 3)),
    "partial logits": lambda rank: ms.loss(placed([Partial()]), LABELS),
    "strided logits": lambda rank: ms.loss(strided(), LABELS),
    "split features": lambda rank: ms.linear_loss(placed([Shard(1)], HIDDEN), placed([Shard(1)], CLASSIFIER), LABELS),
    "parts of unequal size": uneven,
    "a plain part": lambda rank: ms.loss(placed([Shard(0)]), LABELS[2 * rank : 2 * rank + 2]),
    "plain labels differ": lambda rank: by_rows(rank, changed(LABELS, 4, only(rank, 5, 7))),
    "plain rows differ": lambda rank: by_rows(rank, LOGITS.roll(int(rank == 1), 0).softmax(1)),
    "plain ε differs": lambda rank: by_rows(rank, label_smoothing=only(rank, 0.2, 0.1)),
    "plain ε per element differs": lambda rank: by_rows(rank, label_smoothing=torch.full((5,), only(rank, 0.2, 0.1))),
    "plain sample weights differ": lambda rank: by_rows(rank, sample_weight=torch.arange(5) > only(rank, 0, 1)),
    "sample weights on one rank": lambda rank: by_rows(rank, sample_weight=only(rank, torch.ones(5))),
    "plain rows of a mask differ": lambda rank: by_rows(rank, class_mask=changed(EXISTING, (4, 3), rank != 1)),
    "labels placed on one rank": lambda rank: by_rows(rank, only(rank, placed([Shard(0)], LABELS), LABELS)),
    "a plain label outside": lambda rank: ms.loss(placed([Shard(0)]), changed(LABELS, 4, 12)),
    "rows per class": lambda rank: call(rank, prior=torch.eye(12, dtype=torch.float64)),
    "a rank is dead": lambda rank: os._exit(0) if rank == 1 else call(rank),
}


def main(rank):
    logging.disable(logging.WARNING)
    found = {}
    for name, fault in FAULTS.items():
        start = time.monotonic()
        try:
            fault(rank)
            error = ["none", ""]
        except Exception as raised:
            error = [type(raised).__name__, str(raised)]
        found[name] = [*error, time.monotonic() - start]
        if name != "a rank is dead":
            right = ms.loss(LOGITS, LABELS)
            assert torch.allclose(call(rank), right, rtol=1e-12), f"the group no longer works after: {name}"
    return found


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    results = ranks.spawn(main, WORLD, TIMEOUT)
    alive = [0, 2]  # rank 1 has died
    for rank in alive:
        if isinstance(results[rank], Exception):
            raise results[rank]
    print(json.dumps({name: [results[rank][name] for rank in alive] for name in FAULTS}))
