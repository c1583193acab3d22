"""Which tile is the fastest for loss and gradient: the one that the library chooses, beside others, on a CUDA machine.

    python benchmarks/gpu_tiles.py                                    8,192 rows of 32,000, 50,257 and 128,256 classes
    python benchmarks/gpu_tiles.py --shapes 8192x32000 --rounds 50 --out tiles.json
    python benchmarks/gpu_tiles.py --soft                             the same with soft targets
    python benchmarks/gpu_tiles.py --dry                              tiny shapes in Triton's interpreter, without a GPU

A contender is the kernel `both` with one tile, or the kernel `forward` and then the kernel `backward`. All of them
start from the same plan, in which each element has coefficients of its own, as in most calls on a GPU. The plan is made
before the clock starts. Rounds, clock and cold L2 cache are those of `gpu.py`. The copy reads and writes each logit
once; `ratio` in the JSON is time / copy. The error is that of loss and gradient against float64. A tile that does not
compile or run is listed with the reason.

Times of --dry mean nothing. It shows that the script works and that every tile computes the right numbers.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from contenders import SMOOTHING
from gpu import about_machine, shape_of
from gpu_contenders import OF_LOGITS, Contender
from gpu_problems import Logits, Soft
from gpu_race import WARM_UP_ROUNDS, DeadDevice, Device, measure
from report import errors_text, number, table
from rich.progress import Progress

from multismooth.spec import Plan
from multismooth.torch.gpu import choice, launch, tiles

SHAPES = "8192x32000,8192x50257,8192x128256"
DRY_SHAPES = "2x5000,3x9001"
FLOORS = OF_LOGITS[:2]  # the copy, and an addition that reads twice
FORWARD_BACKWARD = "forward, then backward"

CLUSTERS = (1, 2, 4, 8, 16)  # blocks that hold a row together
MIN_BLOCK = 2**12  # logits of a row in each of them
LOOPING_SIZES = (2**12, 2**13, 2**14, 2**15)
LOGITS_PER_THREAD = (16, 32, 64)  # of a looping tile


# --- contenders -------------------------------------------------------------------------------------------------------


def call_of(problem):
    """The arguments of the kernels for a problem's memory, which is filled anew for each run."""
    each = torch.ones_like(problem.weights)
    targets = {"u" if isinstance(problem, Soft) else "labels": problem.targets}
    plan = Plan(a=(1 - SMOOTHING) * each, b=SMOOTHING * each, active=each > 0, **targets)
    return launch.Call(problem.logits, plan, 1, out=problem.out)


def run_both(problem, tile):
    call = call_of(problem)
    return lambda: (call.losses("both", tile)[0], call.gradient)


def run_forward_backward(problem):
    call = call_of(problem)
    forward, backward = (
        choose(call.layout, call.logits.itemsize) for choose in (tiles.forward_tile, tiles.backward_tile)
    )

    def run():
        losses, *found = call.losses("forward", forward)
        call.backward(backward, *found)
        return losses, call.gradient

    return run


def candidates(layout, itemsize, max_blocks):
    """Tiles to try: whole rows in one block or a cluster, and loops over parts of several sizes."""
    cols = tiles.next_power_of_two(layout.classes)
    largest = tiles.MAX_TILE_ONE_BLOCK * 4 // max(itemsize, 4)
    for blocks in CLUSTERS:
        if blocks <= max_blocks and MIN_BLOCK <= cols // blocks <= largest:
            yield tiles.tile_of(1, cols // blocks)._replace(cols=cols, ctas=blocks)
    for size in LOOPING_SIZES:
        tile = tiles.looping_tile(layout, itemsize, size)
        for logits in LOGITS_PER_THREAD:
            warps = tile.rows * tile.cols // (tiles.WARP * logits)
            if 1 <= warps <= tiles.MAX_WARPS:
                yield tile._replace(warps=warps)


def named(tile):
    """What a tile is called in the table; None is `forward`, then `backward`."""
    if tile is None:
        return FORWARD_BACKWARD
    blocks = f"{tile.ctas} blocks of {tile.warps} warps" if tile.ctas > 1 else f"{tile.warps} warps"
    return f"{'resident' if tile.group == 0 else 'looping'}, {tile.rows * tile.cols:,} logits, {blocks}"


def racing(problem, max_blocks):
    """(the floors, the library's choice, and every other tile; the name of the choice)."""
    call, itemsize = call_of(problem), problem.logits.itemsize
    layout, chosen = call.layout, tiles.both_tile(call.layout, *call.itemsizes, max_blocks)
    entries = dict.fromkeys((chosen, *candidates(layout, itemsize, max_blocks), None))
    made = [
        Contender(named(tile), run_forward_backward if tile is None else partial(run_both, tile=tile), upstream="sum")
        for tile in entries
    ]
    return (*FLOORS, *made), named(chosen)


# --- the run ---------------------------------------------------------------------------------------------------------


def text(rows, left_out, chosen):
    """The table of one shape as Markdown."""
    title = f"{'×'.join(map(str, rows[0]['shape']))}, {rows[0]['dtype']}"
    lines = []
    for row in rows:
        name = f"{row['name']} (chosen)" if row["name"] == chosen else row["name"]
        lines.append((name, [number(row["seconds"] * 1e3, 4), number(row["ratio"], 3), errors_text(row)]))
    lines += [(one["name"], ["–", "–", one["reason"].replace("|", "\\|")]) for one in left_out]
    return table(title, ["ms", "time / copy", "error of loss / gradient"], lines)


def run(options):
    kind = "cpu" if options.dry else "cuda"
    device, result = Device(kind), {"machine": {}, "rows": [], "left out": []}
    blocks = choice.MAX_CLUSTER_BLOCKS if options.dry else choice.max_cluster_blocks(torch.device(kind, 0))
    for shape in options.shapes.split(","):
        problem = (Soft if options.soft else Logits)(shape_of(shape), options.dtype, kind)
        entries, chosen = racing(problem, blocks)
        with Progress() as progress:
            task = progress.add_task(shape, total=WARM_UP_ROUNDS + options.rounds)
            settings = SimpleNamespace(rounds=options.rounds, without=())
            rows, left_out = measure(problem, entries, device, settings, partial(progress.advance, task))
        for one in (*rows, *left_out):
            one["chosen"] = one["name"] == chosen
        result["rows"] += rows
        result["left out"] += left_out
        result["machine"] = about_machine(kind)
        print(text(rows, left_out, chosen))
        if options.out:  # after each shape: what is measured is kept, whatever happens to the next one
            Path(options.out).write_text(json.dumps(result, indent=1) + "\n")
        del problem, entries
        device.free()
    print(result["machine"].get("warning", f"Measured on {result['machine']['processor']}."))


def read(arguments):
    one = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one.add_argument("--shapes", help=f"rows x classes; by default {SHAPES}, with --dry {DRY_SHAPES}")
    one.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), help="by default bfloat16, with --dry float32"
    )
    one.add_argument("--soft", action="store_true", help="soft targets, in the dtype of the logits")
    one.add_argument("--rounds", type=int, help="timed rounds; by default 25, with --dry 1")
    one.add_argument("--dry", action="store_true", help="run in Triton's interpreter, on a CPU")
    one.add_argument("--out", help="write JSON here")
    options = one.parse_args(arguments)
    if not (options.dry or torch.cuda.is_available()):
        one.error("no GPU that PyTorch can use; --dry runs without one")
    options.shapes = options.shapes or (DRY_SHAPES if options.dry else SHAPES)
    options.dtype = options.dtype or ("float32" if options.dry else "bfloat16")
    options.rounds = options.rounds or (1 if options.dry else 25)
    return options


def main(arguments=None):
    options = read(arguments)
    if choice.compiled() is None:
        raise SystemExit("Triton is not installed: pip install triton")
    if options.dry and not choice.interpreted():  # Triton read the variable when it was imported: start again with it
        command = [sys.executable, __file__, *(sys.argv[1:] if arguments is None else arguments)]
        raise SystemExit(subprocess.run(command, check=False, env=os.environ | {"TRITON_INTERPRET": "1"}).returncode)
    try:
        with np.errstate(all="ignore" if options.dry else None):  # the interpreter computes in NumPy, which complains
            run(options)
    except DeadDevice as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
