"""The losses beside smoothing: forward and backward of each, relative to `loss`.

    python benchmarks/alternatives.py [--shape 4096x1000] [--rounds 21] [--threads 1] [--frameworks torch,jax] [--fused]

In each round every call runs once, in a new random order. A ratio is that of two medians. Times are those of the
processor, all threads together, so that other programs on the machine disturb them least; --wall measures the clock's.
--fused: PyTorch as it is without Numba. JAX runs under `jax.jit`.
"""

import argparse
import random
import statistics
import sys
import time

CALLS = {
    "loss": ("loss", {}),
    "loss, ε = 0": ("loss", {"label_smoothing": 0.0}),
    "focal": ("focal_loss", {}),
    "focal, ε = 0.1": ("focal_loss", {"label_smoothing": 0.1}),
    "focal, ε = 0.1, label": ("focal_loss", {"label_smoothing": 0.1, "modulation": "label"}),
    "penalty": ("confidence_penalty", {}),
    "margin": ("margin_smoothing", {}),
    "distillation": ("distillation_loss", {"temperature": 2.0}),
    "distillation and labels": ("distillation_loss", {"temperature": 2.0, "hard_weight": 0.5}),
}


def torch_calls(rows, classes, threads, fused):
    """{name: a function that computes a gradient}."""
    import torch

    import multismooth.torch as ms
    from multismooth import implementation

    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    z, teacher = (torch.randn(rows, classes, generator=generator) * 3 for _ in range(2))
    labels = torch.randint(classes, (rows,), generator=generator)
    z.requires_grad_()

    def step(name, options):
        arrays = (z, teacher, labels) if name == "distillation_loss" else (z, labels)
        with implementation(*(("fused",) if fused else ())):
            return torch.autograd.grad(getattr(ms, name)(*arrays, **options), z)

    return {call: (lambda own=own: step(*own)) for call, own in CALLS.items()}


def jax_calls(rows, classes, threads, fused):
    import jax

    import multismooth.jax as ms

    keys = jax.random.split(jax.random.key(0), 3)
    z, teacher = (jax.random.normal(key, (rows, classes)) * 3 for key in keys[:2])
    labels = jax.random.randint(keys[2], (rows,), 0, classes)

    def step(name, options):
        def loss(z, teacher):
            arrays = (z, teacher, labels) if name == "distillation_loss" else (z, labels)
            return getattr(ms, name)(*arrays, **options)

        compiled = jax.jit(jax.value_and_grad(loss))
        return lambda: jax.block_until_ready(compiled(z, teacher))

    return {call: step(*own) for call, own in CALLS.items()}


def medians(calls, rounds, clock):
    times = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name in random.sample(list(calls), len(calls)):
            start = clock()
            calls[name]()
            if number >= 2:
                times[name].append(clock() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="4096x1000")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--frameworks", default="torch,jax")
    parser.add_argument("--fused", action="store_true")
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args(arguments)
    rows, classes = map(int, options.shape.split("x"))
    random.seed(0)
    for framework in options.frameworks.split(","):
        make = {"torch": torch_calls, "jax": jax_calls}[framework]
        calls = make(rows, classes, options.threads, options.fused)
        found = medians(calls, options.rounds, time.perf_counter if options.wall else time.process_time)
        print(f"{framework}, {rows} x {classes}: ms, and times of `loss`")
        for name, seconds in found.items():
            print(f"  {name:26}{seconds * 1e3:8.2f}{seconds / found['loss']:8.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
