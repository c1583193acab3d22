"""Loss and gradient on a CPU, side by side: time, error, extra memory, as ratios to `F.cross_entropy`, same dtype.

    python benchmarks/cpu.py [--shapes 256x10,4096x1000] [--dtypes float32] [--rounds 9] [--out cpu.json]
                             [--markdown cpu.md] [--plot cpu.png] [--sweep] [--no-memory] [--only torch,numpy,jax]

Each problem has a process of its own, because memory that malloc keeps from earlier problems changes the time (torch
eager at (4096, 1000): 5 to 22 ms). In each round every contender runs once, in a new random order: in a fixed order,
the contender after a loss that gives three buffers back to the system is slower in every round (1.4 times). Results are
medians over the rounds. Every timing includes freeing the gradient. Memory is the peak of another process, above what
the inputs take.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from datetime import date
from importlib import metadata

import numpy as np
import torch
from contenders import (
    BASE,
    CONTENDERS,
    FLOOR,
    Problem,
    available,
    installed,
    kernels_of,
    make,
    run_once,
    with_kernels,
)
from rich.progress import Progress

SHAPES = {
    "float32": "256x10,1024x1000,4096x1000,65536x10,512x32000,2048x32000,256x128256,8x21x256x256",
    "bfloat16": "1024x1000,2048x32000,256x128256",
    "float64": "1024x1000,512x32000",
}
WARM_HEAP_SHAPES = "1024x1000,4096x1000,65536x10,512x32000,2048x32000"
WARM_HEAP_TUNABLES = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"
MIN_BYTES_FOR_MEMORY = 16 * 2**20  # memory of smaller logits would be that of the allocator's pages


def seconds_per_call(run, calls):
    with kernels_of(run):
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
            del result
        return (time.perf_counter() - start) / calls


def medians(runs, rounds, entries, on_round=lambda: None):
    """{name: median seconds per call}. In each round all contenders run, in random order."""
    calls = max(1, min(200, 2_000_000 // entries))
    times = {name: [] for name in runs}
    for _ in range(rounds):
        for name in random.sample(list(runs), len(runs)):
            times[name].append(seconds_per_call(runs[name], calls))
        on_round()
    return {name: statistics.median(values) for name, values in times.items()}


def exact(problem):
    """(loss, gradient), computed in float64, some rows at a time. The gradient of half precision is kept in float32."""
    keep = np.float64 if problem.dtype == "float64" else np.float32
    z, y = problem.logits.to(getattr(torch, keep.__name__)).numpy(), problem.labels.numpy()
    z, y = np.moveaxis(z, 1, -1).reshape(-1, z.shape[1]), y.reshape(-1)
    gradient, total = np.empty(z.shape, keep), 0.0
    for start in range(0, len(y), 256):
        rows, labels = z[start : start + 256].astype(np.float64), y[start : start + 256]
        rows -= rows.max(1, keepdims=True)
        e = np.exp(rows)
        lse, q = np.log(e.sum(1)), np.full(rows.shape, 0.1 / rows.shape[1])
        q[np.arange(len(labels)), labels] += 0.9
        total += (lse - (q * rows).sum(1)).sum()
        gradient[start : start + 256] = (e / e.sum(1, keepdims=True) - q) / len(y)
    shape = (problem.shape[0], *problem.shape[2:], problem.shape[1])
    return total / len(y), np.moveaxis(gradient.reshape(shape), -1, 1)


def errors(result, reference):
    """(relative error of the loss, largest error of the gradient over the largest gradient)."""
    loss, gradient = result
    if loss is None:
        return None
    if hasattr(gradient, "detach"):
        gradient, loss = gradient.detach().to(getattr(torch, reference[1].dtype.name)).numpy(), loss.detach()
    gap = np.abs(np.asarray(gradient) - reference[1]).max() / np.abs(reference[1]).max()
    return abs(float(loss) - reference[0]) / reference[0], float(gap)


def peak_memory(name, shape, dtype):
    """Peak extra memory of one call in another process, relative to the size of the logits; None where it failed."""
    command = [sys.executable, __file__, "--peak", name, "x".join(map(str, shape)), dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


def print_peak(name, shape, dtype):
    """What the process of `peak_memory` does.

    It runs a part of the problem first, so that the code and the threads of the kernels are not counted.
    """
    part = min(shape[0], max(1, 2**21 // int(np.prod(shape[1:]))))
    make(name, Problem((part, *shape[1:]), dtype))
    problem = Problem(shape, dtype)
    run = CONTENDERS[name][0](problem)
    with open("/proc/self/clear_refs", "w") as file:  # forgets the peak so far
        file.write("5")
    before = _status("VmRSS")
    run_once(run)
    after = _status("VmHWM")
    print((after - before) * 1024 / problem.bytes)


def _status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


def forward_only(problem, rounds):
    """{name: time of the forward pass without a gradient, relative to eager}."""
    import torch.nn.functional as F

    import multismooth.torch

    def run(loss, *names, **options):
        def call():
            with torch.no_grad():
                return loss(problem.logits, problem.labels, label_smoothing=0.1, **options)

        return with_kernels(names, call)

    runs = {BASE: run(F.cross_entropy), "forward alone": run(multismooth.torch.loss, "fused", axis=1)}
    if installed("numba"):
        runs["forward alone, fast"] = run(multismooth.torch.loss, axis=1)
    for call in runs.values():
        run_once(call)
    found = medians(runs, rounds, problem.logits.numel())
    return {name: found[name] / found[BASE] for name in runs if name != BASE}


def measure(shape, dtype, options, on_round=lambda: None):
    """One row of results for each contender of a problem."""
    problem = Problem(shape, dtype)
    entries = problem.logits.numel()
    names = [n for n in available(dtype, options.only) if options.compile or n != "torch.compile"]
    runs = {name: make(name, problem) for name in names}
    runs = {name: run for name, run in runs.items() if run is not None}
    found = medians(runs, options.rounds, entries, on_round)
    reference = exact(problem)  # after the timing, because its buffers make malloc keep more memory
    found_errors = {name: errors(run_once(run), reference) for name, run in runs.items()}
    for name, seconds in found.items():
        row = {"shape": list(shape), "dtype": dtype, "name": name, "seconds": seconds}
        row |= {"ratio": seconds / found[BASE], "floors": seconds / found[FLOOR], "error": found_errors[name]}
        if options.memory and problem.bytes >= MIN_BYTES_FOR_MEMORY and name != FLOOR:
            row["memory"] = peak_memory(name, shape, dtype)
        yield row


def measure_in_process(shape, dtype, options, progress, tunables=None):
    """`measure` in a process of its own, which prints "round" after each round and the rows at its end."""
    task = progress.add_task(f"{shape} {dtype}", total=options.rounds)
    flags = ["--shapes", shape, "--dtypes", dtype, "--rounds", str(options.rounds), "--only", ",".join(options.only)]
    flags += ["--no-compile"] * (not options.compile) + ["--no-memory"] * (not options.memory or tunables is not None)
    command = [sys.executable, __file__, "--one-problem", *flags]
    environment = os.environ | ({"GLIBC_TUNABLES": tunables} if tunables else {})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout:
            if line == "round\n":
                progress.advance(task)
            elif line.startswith("["):
                rows = json.loads(line)
    if process.returncode:
        raise SystemExit(f"{shape} {dtype}: the process that times it failed")
    return rows


def print_rows(options):
    """What the process of `measure_in_process` does."""
    shape = tuple(map(int, options.shapes.split("x")))
    print(json.dumps(list(measure(shape, options.dtypes, options, lambda: print("round", flush=True)))))


def sweep(options, progress):
    """Every small and large (N, K): ours against eager, with and without a gradient."""
    ours = "multismooth.torch"
    shapes = [(n, k) for n in (1, 8, 64, 512, 4096) for k in (2, 10, 100, 1000, 32000)]
    for shape in progress.track(shapes, description="sweep"):
        problem = Problem(shape, "float32")
        names = [BASE, ours] + ["multismooth.torch, fast"] * installed("numba")
        runs = {name: make(name, problem) for name in names}
        found = medians(runs, options.rounds, problem.logits.numel())
        row = {"shape": list(shape)} | {name: found[name] / found[BASE] for name in names[1:]}
        yield row | forward_only(problem, options.rounds)


def machine():
    """The facts on which the figures depend."""
    model = next((x.split(":")[1].strip() for x in _lines("/proc/cpuinfo") if x.startswith("model name")), "?")
    packages = ["multismooth", "torch", "numpy", "numba", "jax", "optax", "scipy"]
    versions = {name: metadata.version(name) for name in packages if installed(name)}
    pages = "".join(_lines("/sys/kernel/mm/transparent_hugepage/enabled")).strip()
    return {
        "date": date.today().isoformat(),
        "processor": model,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": versions,
        "huge pages": pages,
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
    }


def _lines(path):
    try:
        with open(path) as file:
            return file.readlines()
    except OSError:
        return []


def parser():
    one = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    one.add_argument(
        "--shapes", help="such as 256x10,8x21x256x256: classes on axis 1; by default a choice for each dtype"
    )
    one.add_argument("--dtypes", default="float32,bfloat16,float64")
    one.add_argument("--rounds", type=int, default=9)
    one.add_argument("--only", default="torch,numpy,jax", help="frameworks, of torch, numpy, jax")
    one.add_argument("--no-compile", dest="compile", action="store_false", help="leave torch.compile out")
    one.add_argument("--no-memory", dest="memory", action="store_false", help="leave the peak memory out")
    one.add_argument("--sweep", action="store_true", help="also N of 1…4096 by K of 2…32000, with and without gradient")
    one.add_argument(
        "--warm", action="store_true", help="also with a malloc that gives no memory back, which makes eager fastest"
    )
    one.add_argument("--linear", action="store_true", help="also the linear head, against its three products alone")
    one.add_argument("--options", action="store_true", help="also what ignored labels, weights and masks cost")
    one.add_argument("--one-problem", action="store_true", help=argparse.SUPPRESS)
    one.add_argument("--out", help="write JSON here")
    one.add_argument("--markdown", help="write tables here")
    one.add_argument("--plot", help="write a picture here")
    return one


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--peak"]:
        return print_peak(arguments[1], tuple(map(int, arguments[2].split("x"))), arguments[3])
    options = parser().parse_args(arguments)
    options.only = options.only.split(",")
    if options.one_problem:
        return print_rows(options)
    result = {"machine": machine(), "rows": []}
    with Progress() as progress:
        for dtype in options.dtypes.split(","):
            for text in (options.shapes or SHAPES[dtype]).split(","):
                result["rows"] += measure_in_process(text, dtype, options, progress)
        for text in WARM_HEAP_SHAPES.split(",") if options.warm else ():
            rows = measure_in_process(text, "float32", options, progress, WARM_HEAP_TUNABLES)
            result["rows"] += [row | {"dtype": "float32, warm heap"} for row in rows]
        if options.sweep:
            result["sweep"] = list(sweep(options, progress))
    if options.linear or options.options:
        from extras import linear_head, option_costs

        result |= {"linear": linear_head(options.rounds)} if options.linear else {}
        result |= {"options": option_costs(options.rounds)} if options.options else {}
    from report import save

    save(result, options)
    return result


if __name__ == "__main__":
    main()
