"""The calls that people make, at the sizes that they make them: each beside `F.cross_entropy`, as a ratio of times.

    python benchmarks/everyday.py [--shapes 256x10,64x100,512x1000] [--threads 1,2] [--rounds 41] [--numba]
                                  [--out everyday.json] [--markdown everyday.md] [--calls plain,ignored]

A call is the loss and its backward; "forward" has no gradient. The base of a ratio is `F.cross_entropy` with
label_smoothing=0.1 and the same labels and class weights. It has no sample weights, ε per element or mask, so those are
beside its plain call. "ε = 0, of 0.0" is our own time with the integer over that with the float. One process for each
number of threads. In each round every call and every base runs once, in a new random order; a ratio is that of two
medians. The processes run as if Numba were not installed; with --numba others run with it, too.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

import multismooth.torch as ms

SHAPES, THREADS = "256x10,64x100,512x1000", "1,2"


def calls(n, k):
    """{name: (call, its base)} for (n, k) logits; a call is (loss function, labels, options, with backward)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, k, (n,), generator=generator)
    some = torch.rand(n, generator=generator)
    ignored = labels.masked_fill(some < 0.2, -100)
    weight = torch.rand(k, generator=generator) + 0.5
    mask = torch.arange(k) < k - 2
    existing = labels.clamp(max=k - 3)
    soft = torch.rand(n, k, generator=generator).softmax(1)
    eager, drop_in = F.cross_entropy, ms.cross_entropy
    plain = (eager, labels, {}, True)
    table = {
        "plain": ((ms.loss, labels, {}, True), plain),
        "ignored labels": ((ms.loss, ignored, {}, True), (eager, ignored, {}, True)),
        "class weights": ((ms.loss, labels, {"weight": weight}, True), (eager, labels, {"weight": weight}, True)),
        "both": ((ms.loss, ignored, {"weight": weight}, True), (eager, ignored, {"weight": weight}, True)),
        "sample weights": ((ms.loss, labels, {"sample_weight": some}, True), plain),
        "ε per element": ((ms.loss, labels, {"label_smoothing": some / 4}, True), plain),
        "class mask": ((ms.loss, existing, {"class_mask": mask}, True), plain),
        "prior": ((ms.loss, labels, {"prior": weight / weight.sum()}, True), plain),
        "soft targets": ((ms.loss, soft, {}, True), (eager, soft, {}, True)),
        "drop-in": ((drop_in, labels, {}, True), plain),
        "drop-in, both": ((drop_in, ignored, {"weight": weight}, True), (eager, ignored, {"weight": weight}, True)),
        "ε = 0, of 0.0": (
            (ms.loss, labels, {"label_smoothing": 0}, True),
            (ms.loss, labels, {"label_smoothing": 0.0}, True),
        ),
        "forward": ((ms.loss, labels, {}, False), (eager, labels, {}, False)),
        "forward, ignored labels": ((ms.loss, ignored, {}, False), (eager, ignored, {}, False)),
    }
    return table


def runner(logits, call):
    """One call as a function without arguments."""
    function, labels, options, backward = call
    options = {"label_smoothing": 0.1} | options

    def forward():
        with torch.no_grad():
            return function(logits, labels, **options)

    def step():
        function(logits, labels, **options).backward()
        logits.grad = None

    return step if backward else forward


def medians(runs, rounds, size):
    """{name: median seconds of a call}, all in turn within a round."""
    repeats, times = max(3, min(60, 1_000_000 // size)), {name: [] for name in runs}
    for _ in range(rounds):
        for name in random.sample(list(runs), len(runs)):
            start = time.perf_counter()
            for _ in range(repeats):
                runs[name]()
            times[name].append((time.perf_counter() - start) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def measured(shape, rounds, only):
    """{call: (ratio, microseconds, microseconds of the base)} of one shape, in this process."""
    n, k = map(int, shape.split("x"))
    logits = torch.randn(n, k, generator=torch.Generator().manual_seed(1)).requires_grad_()
    table = {name: pair for name, pair in calls(n, k).items() if not only or name in only}
    bases = {id(base): base for _, base in table.values()}
    runs = {name: runner(logits, call) for name, (call, _) in table.items()}
    runs |= {key: runner(logits, base) for key, base in bases.items()}
    for run in runs.values():
        for _ in range(5):
            run()
    found = medians(runs, rounds, n * k)
    return {
        name: (found[name] / found[id(base)], found[name] * 1e6, found[id(base)] * 1e6)
        for name, (_, base) in table.items()
    }


def in_a_process(options, threads, numba):
    """`measured` for every shape, in a process of its own with so many threads."""
    command = [sys.executable, __file__, "--worker", str(threads), "--shapes", options.shapes]
    command += ["--rounds", str(options.rounds), "--calls", options.calls, *(["--numba"] if numba else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(found, threads):
    """The ratios with so many threads, calls down, shapes across: without Numba, then with it where it was measured."""
    kinds = [kind[threads] for kind in (found["results"], found.get("with_numba")) if kind]
    shapes = list(kinds[0])
    across = " | ".join(f"({shape.replace('x', ', ')})" for shape in shapes)
    lines = [f"**Time / `F.cross_entropy`, {threads} thread{'s' if threads != '1' else ''}**", "", f"| | {across} |"]
    lines.append("|---|" + "---|" * len(shapes))
    for name in kinds[0][shapes[0]]:
        cells = [" / ".join(f"{kind[shape][name][0]:.2f}" for kind in kinds) for shape in shapes]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES, help="rows x classes, separated by commas")
    parser.add_argument("--threads", default=THREADS, help="of PyTorch, separated by commas")
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", default="", help="only these, separated by commas")
    parser.add_argument("--numba", action="store_true", help="measure with Numba's kernels, too")
    parser.add_argument("--out", help="a JSON file for ratios and microseconds")
    parser.add_argument("--markdown", help="a file for the table")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    only = [name for name in options.calls.split(",") if name]
    if options.worker:
        torch.set_num_threads(options.worker)
        if not options.numba:
            sys.modules["numba"] = None  # as if it were not installed
        random.seed(0)
        print(json.dumps({s: measured(s, options.rounds, only) for s in options.shapes.split(",")}))
        return
    numbers = options.threads.split(",")
    found = {"torch": torch.__version__, "results": {n: in_a_process(options, n, numba=False) for n in numbers}}
    if options.numba:
        found["with_numba"] = {n: in_a_process(options, n, numba=True) for n in numbers}
    table = "\n".join(markdown(found, threads) for threads in numbers)
    print(table)
    if options.out:
        with open(options.out, "w") as file:
            json.dump(found, file, indent=1)
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(table)


if __name__ == "__main__":
    main()
