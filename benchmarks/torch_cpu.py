"""Time of forward and backward on the CPU as a ratio to `F.cross_entropy(label_smoothing=0.1)`, eager, interleaved.

    python benchmarks/torch_cpu.py [--rounds 30] [--out results.json]

One process, every implementation in turn within a round, medians over the rounds; a ratio below 1 is faster.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

import multismooth.torch

SHAPES = [(256, 10), (1024, 1000), (4096, 1000), (65536, 10)]


def once(function, logits, labels, calls):
    start = time.perf_counter()
    for _ in range(calls):
        logits.grad = None
        function(logits, labels, label_smoothing=0.1).backward()
    return (time.perf_counter() - start) / calls


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", help="write the results here as JSON")
    options = parser.parse_args()
    functions = {
        "F.cross_entropy": F.cross_entropy,
        "multismooth.torch.loss": multismooth.torch.loss,
        "multismooth.torch.cross_entropy": multismooth.torch.cross_entropy,
    }
    results = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    print("| N × K | " + " | ".join(functions) + " | ms |\n" + "|---" * (len(functions) + 2) + "|")
    for rows, classes in SHAPES:
        torch.manual_seed(0)
        logits, labels = torch.randn(rows, classes, requires_grad=True), torch.randint(0, classes, (rows,))
        calls = max(1, 200_000 // (rows * classes)) * (20 if rows * classes < 10_000 else 1)
        times = {name: [] for name in functions}
        for function in functions.values():
            once(function, logits, labels, 3)
        for _ in range(options.rounds):
            for name, function in functions.items():
                times[name].append(once(function, logits, labels, calls))
        middle = {name: statistics.median(values) for name, values in times.items()}
        base = middle["F.cross_entropy"]
        ratios = {name: value / base for name, value in middle.items()}
        results.append({"shape": [rows, classes], "seconds": middle, "ratios": ratios})
        print(f"| {rows} × {classes} | " + " | ".join(f"{x:.2f}" for x in ratios.values()) + f" | {1e3 * base:.3f} |")
    if options.out:
        with open(options.out, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
