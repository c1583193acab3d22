"""Loss and gradient on a GPU, side by side: time, error, extra memory, as ratios to copying the same bytes.

    python benchmarks/gpu.py --out gpu.json --markdown gpu.md --plot gpu.png    everything, some minutes
    python benchmarks/gpu.py --quick                                               a few problems, a few rounds
    python benchmarks/gpu.py --parts logits --shapes 8192x32000 --dtypes bfloat16,float32 --without quack
    python benchmarks/gpu.py --device cpu --quick --no-compile                     the harness itself, without a GPU
    python benchmarks/regress.py old.json new.json                                  what became slower

Parts. `logits`: loss and gradient of logits. `soft`: the same with soft targets. `small`: the first part for small
problems in float32, whose time is that of the launches; the wall clock of a call is measured too. `head`: a linear head
N×D×K, forward and backward. `jax`: the first part in JAX, in a process of its own. It decides whether JAX needs a
kernel of its own (above 1.3 times our time).

Two floors are measured in the same rounds. A gradient needs at least one read and one write of each logit, as a copy
does (4 bytes in bfloat16). Where only backward knows the upstream gradient, or with soft targets, it needs two reads (6
bytes). The floor of the head is its three matrix products. `ratio` in the JSON is time / copy, for the head time /
products.

In each round every contender runs once, in a new random order, on the random numbers of that round. They are made anew
for each contender, because some write over them. Then the L2 cache is filled with clean lines of another buffer. So no
contender finds its data in the cache, and none writes back what another one left there. Time is that between two CUDA
events. Results are medians over the rounds, after three that do not count. A contender that fails is left out, with the
reason.

Do not name this file cuda.py: PyTorch imports `cuda.bindings`, and Python searches a script's own directory first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
from contenders import FLOOR
from cpu import machine
from gpu_contenders import IN_JAX, OF_HEADS, OF_LOGITS, OF_SOFT, jax_ours
from gpu_problems import Head, Logits, Soft
from gpu_race import WARM_UP_ROUNDS, DeadDevice, Device, measure, wall_seconds
from gpu_report import markdown, picture
from report import save
from rich.progress import Progress

SHAPES = {
    "logits": "8192x32000,8192x50257,8192x50304,8192x128256,8192x262144",
    "soft": "256x1000,8192x32000,8192x50257,8192x128256",
    "small": "256x10,4096x1000,65536x10,8x21x512x512",
    "head": "4096x4096x128256",
}
QUICK_SHAPES = {"logits": "8192x32000,8192x50257", "soft": "8192x32000", "small": "256x10", "head": "2048x2048x32000"}
CPU_SHAPES = {"logits": "9x33,70x50", "soft": "9x33", "small": "6x4x2x2", "head": "6x16x33"}
KINDS = {"logits": (Logits, OF_LOGITS), "soft": (Soft, OF_SOFT), "small": (Logits, OF_LOGITS), "head": (Head, OF_HEADS)}
CPU_WARNING = "MEASURED ON A CPU, TO TRY THE HARNESS: THESE FIGURES MEAN NOTHING"


# --- JAX, in a process of its own -----------------------------------------------------------------------------------


def print_jax_row(options):
    """What the process of `measure_jax` does: print the seconds and errors of one problem as JSON."""
    import jax

    if options.device == "cuda" and jax.default_backend() != "gpu":
        raise SystemExit(f"JAX sees no GPU, only {jax.devices()}")
    problem = Logits(shape_of(options.shapes), options.dtypes, options.device)
    problem.fill(0)
    run = jax_ours(problem)
    times = [wall_seconds(run, jax.block_until_ready, 10) for _ in range(WARM_UP_ROUNDS + options.rounds)]
    errors = problem.error(run(), problem.exact(IN_JAX), IN_JAX)
    print(json.dumps({"seconds": statistics.median(times[WARM_UP_ROUNDS:]), "error": errors}))


def measure_jax(floor, options):
    """(rows, left out) with one entry, for the problem of a row of the floor."""
    about = {key: floor[key] for key in ("shape", "dtype")} | {"name": IN_JAX.name}
    flags = ["--shapes", "x".join(map(str, floor["shape"])), "--dtypes", floor["dtype"], "--device", options.device]
    command = [sys.executable, __file__, "--jax-problem", "--parts", "logits", *flags, "--rounds", str(options.rounds)]
    shared = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # PyTorch has its tensors on the same device
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=shared)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        return [], [about | {"reason": lines[-1]}]
    row = about | json.loads(done.stdout.splitlines()[-1]) | {"memory": None, "remark": IN_JAX.remark, "ran": []}
    return [row | {"ratio": row["seconds"] / floor["seconds"]}], []


# --- the run --------------------------------------------------------------------------------------------------------


def shape_of(text):
    """(8192, 32000) of "8192x32000"."""
    return tuple(map(int, text.split("x")))


def problems(options):
    """(contenders, function that makes the problem, its name) for every problem of this run."""
    shapes = CPU_SHAPES if options.device == "cpu" else QUICK_SHAPES if options.quick else SHAPES
    for part in (part for part in shapes if part in options.parts):
        dtypes = {"small": "float32", "head": "bfloat16"}.get(part, options.dtypes).split(",")
        kind, contenders = KINDS[part]
        for dtype in dtypes:
            for shape in (options.shapes or shapes[part]).split(","):
                settings = {"small": True} if part == "small" else {}
                yield contenders, partial(kind, shape_of(shape), dtype, options.device, **settings), f"{shape} {dtype}"


def run(options, result, progress, keep=lambda: None):
    """Measure every problem. `keep` is called after each: what is measured stays, whatever happens to the next one."""
    device = Device(options.device)
    for contenders, make, name in problems(options):
        if options.compile:
            torch.compiler.reset()  # else the second shape would be compiled for all shapes
        task = progress.add_task(name, total=WARM_UP_ROUNDS + options.rounds)
        try:
            found = measure(make(), contenders, device, options, partial(progress.advance, task))
        except RuntimeError as error:  # the problem itself, or its floor, does not fit into memory
            about = {"shape": list(make.args[0]), "dtype": make.args[1], "name": "everyone"}
            found = [], [about | {"reason": str(error).splitlines()[0]}]
        result["rows"] += found[0]
        result["left out"] += found[1]
        keep()
        device.free()
    if "jax" in options.parts:
        floors = [row for row in result["rows"] if row["name"] == FLOOR and row["dtype"] in options.dtypes.split(",")]
        for floor in progress.track(floors, description="JAX"):
            rows, left_out = measure_jax(floor, options)
            result["rows"] += rows
            result["left out"] += left_out
            keep()


def about_gpu():
    """The facts in addition to `cpu.machine`: the card, its driver, and its clocks right after the work."""
    card = torch.cuda.get_device_properties(0)
    fields = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem,power.limit"
    command = ["nvidia-smi", "-i", f"GPU-{card.uuid}", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        values = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(", ")
    except (OSError, subprocess.CalledProcessError):
        values = ["not visible"] * len(fields.split(","))
    about = {
        "processor": card.name,
        "memory GiB": round(card.total_memory / 2**30),
        "L2 MiB": card.L2_cache_size / 2**20,
    }
    about |= {"multiprocessors": card.multi_processor_count, "capability": f"{card.major}.{card.minor}"}
    return about | {"CUDA": torch.version.cuda} | dict(zip(fields.split(","), values, strict=True))


def about_machine(device):
    peers = ("triton", "liger-kernel", "flash-attn", "quack-kernels", "cut-cross-entropy")
    base = machine()
    for name in peers:
        with suppress(metadata.PackageNotFoundError):
            base["versions"][name] = metadata.version(name)
    return base | {"host": base["processor"]} | (about_gpu() if device == "cuda" else {"warning": CPU_WARNING})


def parser():
    one = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one.add_argument("--parts", default="logits,soft,small,head,jax", help="some of these five")
    one.add_argument("--shapes", help="of one part, such as 8192x32000 (classes on axis 1)")
    one.add_argument("--dtypes", default="bfloat16", help="of logits, soft and jax: bfloat16, float16, float32")
    one.add_argument("--rounds", type=int, help="timed rounds; by default 25, with --quick 5")
    one.add_argument("--without", default="", help="contenders to leave out, by the beginnings of their names")
    one.add_argument("--no-compile", dest="compile", action="store_false", help="the same as --without torch.compile")
    one.add_argument("--quick", action="store_true", help="fewer problems and rounds")
    one.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the harness, on tiny shapes")
    one.add_argument("--jax-problem", action="store_true", help=argparse.SUPPRESS)
    one.add_argument("--out", help="write JSON here")
    one.add_argument("--markdown", help="write tables here")
    one.add_argument("--plot", help="write a picture here")
    return one


def read(arguments):
    one = parser()
    options = one.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        one.error("no GPU that PyTorch can use; --device cpu tries the harness without one")
    options.parts = options.parts.split(",")
    unknown = set(options.parts) - {*SHAPES, "jax"}
    if unknown:
        one.error(f"--parts: {', '.join(sorted(unknown))} is none of {', '.join(SHAPES)}, jax")
    if options.shapes and len({*options.parts} - {"jax"}) > 1:
        one.error("--shapes: name the one part that they are for, such as --parts logits")
    options.rounds = options.rounds or (5 if options.quick else 25)
    options.without = [name for name in options.without.split(",") if name] + ["torch.compile"] * (not options.compile)
    return options


def main(arguments=None):
    options = read(arguments)
    if options.jax_problem:
        return print_jax_row(options)
    result = {"machine": {}, "rows": [], "left out": []}
    broken = None

    def keep():
        result["machine"] = about_machine(options.device)
        if options.out:
            Path(options.out).write_text(json.dumps(result, indent=1) + "\n")

    try:
        with Progress() as progress:
            run(options, result, progress, keep)
    except DeadDevice as error:
        broken = str(error)
    result["machine"] = about_machine(options.device)
    save(result, options, markdown, picture)
    if broken:
        raise SystemExit(broken)
    return result


if __name__ == "__main__":
    main()
