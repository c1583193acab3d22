"""A vocabulary split over processes: what moves between them, and what a step takes, on this machine's CPU over gloo.

    python benchmarks/scale.py [--rows 512 --classes 32768 --worlds 1 2 4 --repeats 7] [--out results.json]

Beside multismooth (`group=`, with and without the comparison of arguments): gathering the logits for
`F.cross_entropy`, and PyTorch's `loss_parallel`, which refuses label smoothing and is run at ε = 0.
Traffic is counted, not measured: the bytes that a rank puts into its collectives, forward and backward. Times are
medians of loss and backward, the slowest rank's, all contenders in turn. Nothing here was measured on GPUs.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed import _functional_collectives as functional
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel
from traffic import Traffic

import multismooth.torch as ms

SMOOTHING = 0.1


def contenders(part, labels, classes, mesh):
    """{name: a function that makes the loss and calls backward}."""
    group = mesh.get_group()
    z = part.requires_grad_()

    def ours(validate):
        ms.loss(z, labels, label_smoothing=SMOOTHING, group=group, num_classes=classes, validate=validate).backward()

    def gathered():
        whole = functional.all_gather_tensor_autograd if not hasattr(functional, "all_gather_single") else None
        gather = whole or functional.all_gather_single
        F.cross_entropy(gather(z, 1, group), labels, label_smoothing=SMOOTHING).backward()

    def parallel():
        with loss_parallel():
            placed = DTensor.from_local(z, mesh, [Shard(1)], run_check=False)
            F.cross_entropy(placed, labels).backward()

    return {
        "multismooth": lambda: ours(None),
        "multismooth, validate=False": lambda: ours(False),
        "gathered logits": gathered,
        "loss_parallel at ε = 0": parallel,
    }


def main(rank, world, folder, options):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    mesh, generator = DeviceMesh("cpu", torch.arange(world)), torch.Generator().manual_seed(0)
    part = torch.randn(options.rows, options.classes // world, generator=generator)
    labels = torch.randint(options.classes, (options.rows,), generator=generator)
    calls, found = contenders(part, labels, options.classes, mesh), {}
    for name, call in calls.items():
        call()  # warm
        with Traffic() as traffic:
            call()
        found[name] = {"bytes": traffic.bytes, "seconds": []}
    for _ in range(options.repeats):
        for name, call in calls.items():
            dist.barrier()
            start = time.perf_counter()
            call()
            slowest = torch.tensor(time.perf_counter() - start)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            found[name]["seconds"].append(slowest.item())
    if rank == 0:
        (Path(folder) / "found.json").write_text(json.dumps(found))
    dist.barrier()
    os._exit(0)


def measured(options):
    """[{world, contender, collectives, bytes per element, milliseconds}]."""
    rows = []
    for world in options.worlds:
        with tempfile.TemporaryDirectory() as folder:
            arguments = world, folder, options
            torch.multiprocessing.start_processes(main, arguments, nprocs=world, start_method="fork")
            found = json.loads((Path(folder) / "found.json").read_text())
        for name, own in found.items():
            rows.append(
                {
                    "world": world,
                    "contender": name,
                    "collectives": len(own["bytes"]),
                    "bytes per element": sum(own["bytes"]) / options.rows,
                    "milliseconds": 1000 * statistics.median(own["seconds"]),
                }
            )
    return rows


def report(rows, options):
    alone = {row["contender"]: row["milliseconds"] for row in rows if row["world"] == min(options.worlds)}
    yield "| processes | | collectives | bytes per element and rank | step, ms | step / one process |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in rows:
        ratio = row["milliseconds"] / alone[row["contender"]]
        yield (
            f"| {row['world']} | {row['contender']} | {row['collectives']} | {row['bytes per element']:,.0f} "
            f"| {row['milliseconds']:.1f} | {ratio:.2f} |"
        )


# --- a model of GPUs, none of which has been measured ----------------------------------------------------------------

TOKENS, NODE = 8192, 8  # tokens of a step; GPUs of a node
NEAR, FAR = (450e9, 15e-6), (50e9, 30e-6)  # bytes per second and seconds per collective: within a node, and beyond
MEMORY = 3.35e12  # bytes per second of a GPU's memory


def modelled(classes, world):
    """{what: µs} for bf16 logits (8192, classes) over `world` GPUs: the exchanges of forward, and the local passes."""
    bandwidth, latency = NEAR if world <= NODE else FAR
    others, numbers = (world - 1) / world, 4 * TOKENS
    ours = latency + 4 * numbers * (world - 1) / bandwidth
    if world > NODE:  # the largest logit, then three sums
        ours = 2 * latency + 2 * 4 * numbers * others / bandwidth
    return {
        "exchange of four numbers": 1e6 * ours,
        "gather of the logits": 1e6 * (latency + 2 * TOKENS * classes * others / bandwidth),
        "local passes": 1e6 * 3 * 2 * TOKENS * classes / world / MEMORY,  # read, read again, write the gradient
    }


def model():
    yield "| K | GPUs | exchange of four numbers, µs | gather of the logits, µs | local passes over the logits, µs |"
    yield "| --- | --- | --- | --- | --- |"
    for classes in (32768, 131072, 262144):
        for world in (2, 4, 8, 16, 64):
            times = modelled(classes, world).values()
            yield f"| {classes:,} | {world} | " + " | ".join(f"{time:,.0f}" for time in times) + " |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--classes", type=int, default=32768)
    parser.add_argument("--worlds", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out")
    parser.add_argument(
        "--model", action="store_true", help="print the cost model of docs/scale.md, and measure nothing"
    )
    options = parser.parse_args()
    if options.model:
        print("\n".join(model()))
        raise SystemExit
    rows = measured(options)
    print("\n".join(report(rows, options)))
    if options.out:
        machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
        settings = {"rows": options.rows, "classes": options.classes, "repeats": options.repeats}
        Path(options.out).write_text(json.dumps({**machine, **settings, "rows of results": rows}, indent=1) + "\n")
