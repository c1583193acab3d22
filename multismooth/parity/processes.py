"""The conformance cases on several processes of this machine, which talk by gloo.

Classes are split over them, or elements, or both. Every process makes all calls, on its part of the tensors. All see
the same results, so the first one reports.
"""

import os
import pickle
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from multismooth.errors import complain, require
from multismooth.parity.doctor import Survey, checked, versions_of

TIMEOUT = 60  # seconds that a process waits for the others


def survey(world: int, on_step: Callable[[str, int, int], Any] = lambda text, done, total: None, *, quick=False):
    """The Survey of PyTorch on `world` processes. They need not have a device each: gloo runs on CPUs."""
    require("torch", "torch")
    if world < 2:
        raise complain("world", "at least 2 processes", str(world), "Without it, one process checks all backends.")
    import torch

    on_step(f"{world} processes on gloo", 0, 1)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_rank, (world, folder, quick), nprocs=world)
        found = pickle.loads((Path(folder) / "found").read_bytes())
    return replace(found, versions=versions_of(["torch"]))


def _rank(rank, world, folder, quick):
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store, timeout = f"file://{folder}/store", timedelta(seconds=TIMEOUT)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world, timeout=timeout)
    rows: list = []
    failures: list = []
    for kind in ("classes", "elements", "both") if world % 2 == 0 and world > 2 else ("classes", "elements"):
        fn = partial(loss, kind)
        own, wrong = checked("torch", f"{world} processes", fn, partial(nullcontext, [f"{kind} split"]), quick)
        rows, failures = rows + own, failures + wrong
    if rank == 0:
        (Path(folder) / "found").write_bytes(pickle.dumps(Survey({}, tuple(rows), tuple(failures))))
    dist.barrier()
    os._exit(0)


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
