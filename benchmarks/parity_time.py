"""How long `parity.identify`, `check` and `compare` take on their first call, each in a fresh process.

    python benchmarks/parity_time.py [--repeat 3] [--only jax]

The framework is imported before the clock starts. Compilation, in JAX, is counted. Results are medians, in CPU seconds
of the process (all its threads) and in seconds. Each loss is compared with itself, and with a loss that is another one.
"""

import argparse
import subprocess
import sys
import time
from functools import partial

import numpy as np


def torch_loss():
    from torch.nn.functional import cross_entropy

    return partial(cross_entropy, label_smoothing=0.1)


def torch_weights():
    import torch

    weight = torch.linspace(0.2, 3, 7, dtype=torch.float64)
    return lambda logits, labels: torch_loss()(logits, labels, weight=weight.to(logits.dtype))


def jax_loss():
    import jax

    def loss(logits, labels):
        k = logits.shape[-1]
        q = 0.9 * jax.nn.one_hot(labels, k) + 0.1 / k
        return -(q * jax.nn.log_softmax(logits)).sum(-1).mean()

    return loss


def jax_untraceable():
    """The loss of `jax_loss`, which reads values: no compiler can trace it."""
    loss = jax_loss()

    def checked(logits, labels):
        if bool((labels < 0).any()):
            raise ValueError("a negative label")
        return loss(logits, labels)

    return checked


def jax_masked():
    """A loss that ignores −100, by its count."""
    import jax
    import jax.numpy as jnp

    def loss(logits, labels):
        counted = labels != -100
        log_p = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(log_p, jnp.where(counted, labels, 0)[..., None], -1)[..., 0]
        each = jnp.where(counted, 0.9 * own + 0.1 * log_p.mean(-1), 0.0)
        return -each.sum() / counted.sum()

    return loss


def numpy_values():
    def loss(logits, labels):
        shifted = logits - logits.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        counted = labels != -1
        own = log_p[np.arange(len(labels)), np.where(counted, labels, 0)]
        return ((-0.9 * own - 0.1 * log_p.mean(-1)) * counted).sum() / counted.sum()

    return loss


# name: (makes the loss, its framework, settings for identify, settings for check)
LOSSES = {
    "torch": (torch_loss, "torch", {}, {}),
    "torch, K = 1,000": (torch_loss, "torch", {"num_classes": 1000}, {"num_classes": 1000}),
    "torch, class weights": (torch_weights, "torch", {}, {"weight": np.linspace(0.2, 3, 7)}),
    "jax": (jax_loss, "jax", {}, {"convention": "optax"}),
    "jax, ignored labels": (jax_masked, "jax", {}, {"skip": ["bad labels"]}),
    "jax, never traced": (jax_untraceable, "jax", {}, {"convention": "optax"}),
    "numpy, values only": (numpy_values, "numpy", {}, {"ignore_index": -1, "skip": ["bad labels"]}),
}
QUESTIONS = ("identify", "check", "compare", "compare another")


def measure(name, question):
    """Print the CPU seconds and the seconds of one call in this process."""
    from multismooth import parity

    make, framework, of_identify, of_check = LOSSES[name]
    fn = make()
    calls = {
        "identify": lambda: parity.identify(fn, framework, **of_identify),
        "check": lambda: parity.check(fn, framework=framework, **of_check),
        "compare": lambda: parity.compare(fn, make(), frameworks=(framework, framework), **of_compare(of_check)),
        "compare another": lambda: parity.compare(
            fn, lambda z, y: 1.1 * make()(z, y), frameworks=(framework, framework), **of_compare(of_check)
        ),
    }
    start, cpu = time.perf_counter(), time.process_time()
    found = calls[question]()
    print(time.process_time() - cpu, time.perf_counter() - start)
    if bool(found) != (question != "compare another"):
        raise SystemExit(f"{question} {name}: {found}")


def of_compare(settings):
    """Those of the settings of `check` that `compare` takes. Class weights fix K."""
    kept = {name: settings[name] for name in ("ignore_index", "num_classes", "skip") if name in settings}
    return kept | ({"num_classes": len(settings["weight"])} if "weight" in settings else {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default="", metavar="TEXT", help="losses whose name begins so")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "QUESTION"), help="one call, in this process")
    options = parser.parse_args()
    if options.one:
        measure(*options.one)
        return
    print(f"{'CPU seconds (seconds)':22}" + "".join(f"{question:>19}" for question in QUESTIONS))
    for name in LOSSES:
        if not name.startswith(options.only):
            continue
        print(f"{name:22}", end="", flush=True)
        for question in QUESTIONS:
            command = [sys.executable, __file__, "--one", name, question]
            runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(options.repeat)]
            times = np.array([run.stdout.split() for run in runs], float)
            cpu, wall = np.median(times, axis=0)
            print(f"{cpu:>10.2f} ({wall:5.2f})", end=" ", flush=True)
        print()


if __name__ == "__main__":
    main()
