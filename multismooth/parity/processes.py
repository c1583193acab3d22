"""The conformance cases on processes of this machine, which talk by gloo: classes split over them, elements, or both.

`doctor` runs it in a process of its own, so that the others are forks of one that has done nothing yet: `python -m
multismooth.parity.processes WORLD CONVENTION…` prints rows and failures as JSON. Every process makes all calls, on its
part of the tensors. All see the same results, so the first one reports.
"""

import json
import os
import sys
import tempfile
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path

TIMEOUT = 60  # seconds that a process waits for the others


def main(world, conventions):
    """Rows and failures of `doctor.check_place`."""
    import torch._dynamo  # DTensors need it
    import torch.distributed.tensor

    import multismooth.torch  # noqa: F401 all before the forks, each of which would import them (3 s)

    with tempfile.TemporaryDirectory() as folder:
        arguments = world, conventions, folder
        torch.multiprocessing.start_processes(_rank, arguments, nprocs=world, start_method="fork")
        print((Path(folder) / "found.json").read_text(encoding="utf-8"))


def _rank(rank, world, conventions, folder):
    import torch
    import torch.distributed as dist

    from multismooth.parity.doctor import check_place

    torch.set_num_threads(1)
    store, timeout = f"file://{folder}/store", timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timeout)
    rows: list = []
    failures: list = []
    for kind in ("classes", "elements", "both") if world % 2 == 0 and world > 2 else ("classes", "elements"):
        place = f"{world} processes, {kind}"
        found = check_place("torch", place, partial(loss, kind), nullcontext, conventions)
        rows += [row.to_dict() for row in found[0]]
        failures += found[1]
    if rank == 0:
        found = json.dumps({"rows": rows, "failures": failures})
        (Path(folder) / "found.json").write_text(found, encoding="utf-8")
    dist.barrier()
    os._exit(0)  # the clean-up at exit is for the parent


def loss(kind, logits, targets, **settings):
    """The loss of one process, computed by all."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import DTensor, Replicate, Shard

    import multismooth

    world = dist.get_world_size()
    axis = settings.get("axis")
    axis = (-1 if axis is None else axis) % logits.ndim
    others = [Shard(k) for k in range(logits.ndim) if k != axis] or [Replicate()]
    placements = {"classes": [Shard(axis)], "elements": others[:1], "both": [others[0], Shard(axis)]}[kind]
    ranks = torch.arange(world)
    mesh = DeviceMesh("cpu", ranks.view(2, world // 2) if kind == "both" else ranks)
    whole = DTensor.from_local(logits, mesh, [Replicate()] * mesh.ndim, run_check=False)
    found = multismooth.torch.loss(whole.redistribute(mesh, placements), targets, **settings)
    return found.full_tensor()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
