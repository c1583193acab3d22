"""Half-precision logits on a CPU: the error of the gradient, the time, and the memory.

    python benchmarks/half.py [--shapes 512x1000,2048x8000,8192x32000] [--rounds 5]

The loss is a mean with ε = 0.1, and backward starts with `upstream`: 65,536 is GradScaler's first scale. Per kernel:
    zeros     the share of entries that are 0 where those of PyTorch's loss under autocast are not
    error     ‖gradient − exact‖ / ‖exact‖
    rounded   the share of entries that are correctly rounded
    time      forward and backward, relative to PyTorch's loss under autocast; medians of interleaved rounds
    memory    the peak of a call above its logits, relative to their size, in a process of its own
"""

import argparse
import random
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F

import multismooth
import multismooth.torch as ms

CASES = ((torch.float16, 65_536.0), (torch.float16, 1.0), (torch.bfloat16, 1.0), (torch.bfloat16, 0.3))
KERNELS = {"PyTorch, autocast": None, "multismooth": (), "without Numba": ("fused",)}
ROWS_AT_A_TIME = 256  # of the exact gradient


def make(rows, classes, dtype):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, classes, generator=generator).mul_(2).to(dtype)
    return logits.requires_grad_(), torch.randint(classes, (rows,), generator=generator)


def run(kernels, logits, labels, upstream):
    """The gradient of one step, as autograd returns it. kernels None: PyTorch's own loss under autocast."""
    logits.grad, start = None, torch.tensor(upstream)
    if kernels is None:
        with torch.autocast("cpu", logits.dtype):
            loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        loss.backward(start)
    else:
        with multismooth.implementation(*kernels):
            ms.loss(logits, labels, label_smoothing=0.1).backward(start)
    return logits.grad


def exact(logits, labels, upstream):
    """(rows, their gradient in float64), some rows at a time."""
    count, classes = logits.shape
    for start in range(0, count, ROWS_AT_A_TIME):
        z, y = logits.detach()[start : start + ROWS_AT_A_TIME].double(), labels[start : start + ROWS_AT_A_TIME, None]
        q = torch.full_like(z, 0.1 / classes).scatter_add_(1, y, z.new_full(y.shape, 0.9))
        yield slice(start, start + ROWS_AT_A_TIME), (z.softmax(1) - q) * (upstream / count)


def accuracy(gradient, of_pytorch, logits, labels, upstream):
    """(share of zeros where PyTorch's gradient has none, relative error, share of correctly rounded entries)."""
    wrong = size = right = zeros = 0.0
    for rows, true in exact(logits, labels, upstream):
        part = gradient[rows]
        wrong, size = wrong + (part.double() - true).square().sum().item(), size + true.square().sum().item()
        right += (part == true.to(part.dtype)).sum().item()
        zeros += ((part == 0) & (of_pytorch[rows] != 0)).sum().item()
    return zeros / gradient.numel(), (wrong / size) ** 0.5, right / gradient.numel()


def times(logits, labels, upstream, rounds):
    """{name: median seconds}. In each round all kernels run, in random order."""
    found = {name: [] for name in KERNELS}
    calls = max(1, min(100, 2_000_000 // logits.numel()))
    for _ in range(rounds):
        for name in random.sample(list(KERNELS), len(KERNELS)):
            start = time.perf_counter()
            for _ in range(calls):
                run(KERNELS[name], logits, labels, upstream)
            found[name].append((time.perf_counter() - start) / calls)
    return {name: statistics.median(values) for name, values in found.items()}


def peak_memory(name, shape, dtype, upstream):
    command = [sys.executable, __file__, "--peak", name, shape, str(dtype).removeprefix("torch."), str(upstream)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(name, shape, dtype, upstream):
    """What the process of `peak_memory` does. Smaller calls run first, so that code and threads are not counted."""
    rows, classes = map(int, shape.split("x"))
    for _ in range(2):
        run(KERNELS[name], *make(max(rows // 16, 64), classes, getattr(torch, dtype)), float(upstream))
    logits, labels = make(rows, classes, getattr(torch, dtype))
    with open("/proc/self/clear_refs", "w") as file:  # forgets the peak so far
        file.write("5")
    before = status("VmRSS")
    run(KERNELS[name], logits, labels, float(upstream))
    print((status("VmHWM") - before) * 1024 / (logits.numel() * logits.itemsize))


def status(field):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="512x1000,2048x8000,8192x32000")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(*options.peak)
        return
    print(f"{'shape':12} {'dtype':9} {'upstream':>8}  {'':18}   zeros    error  rounded   time  memory")
    for shape in options.shapes.split(","):
        for dtype, upstream in CASES:
            logits, labels = make(*map(int, shape.split("x")), dtype)
            of_pytorch, seconds = run(None, logits, labels, upstream), times(logits, labels, upstream, options.rounds)
            for name, kernels in KERNELS.items():
                zeros, error, rounded = accuracy(
                    run(kernels, logits, labels, upstream), of_pytorch, logits, labels, upstream
                )
                ratio, extra = seconds[name] / seconds["PyTorch, autocast"], peak_memory(name, shape, dtype, upstream)
                print(
                    f"{shape:12} {str(dtype)[6:]:9} {upstream:8g}  {name:18} {zeros:7.2%} {error:8.1e} {rounded:8.2%}"
                    f" {ratio:6.2f} {extra:7.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
