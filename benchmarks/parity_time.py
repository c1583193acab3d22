"""How long `parity.identify` and `parity.check` take on their first call, each in a fresh process.

    python benchmarks/parity_time.py [--repeat 3]

The framework is imported before the clock starts. Compilation, in JAX, is counted. Results are medians.
"""

import argparse
import statistics
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
    "numpy, values only": (numpy_values, "numpy", {}, {"ignore_index": -1, "skip": ["bad labels"]}),
}


def measure(name, question):
    """Seconds of one call in this process."""
    from multismooth import parity

    make, framework, *settings = LOSSES[name]
    fn, settings = make(), settings[question == "check"]
    function = getattr(parity, question)
    start = time.perf_counter()
    found = function(fn, framework=framework, **settings)
    seconds = time.perf_counter() - start
    if not found:
        raise SystemExit(f"{question} {name}: {found}")
    print(seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("NAME", "QUESTION"), help="one call, in this process")
    options = parser.parse_args()
    if options.one:
        measure(*options.one)
        return
    print(f"{'first call':22} {'identify':>10} {'check':>10}")
    for name in LOSSES:
        medians = []
        for question in ("identify", "check"):
            command = [sys.executable, __file__, "--one", name, question]
            runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(options.repeat)]
            medians.append(statistics.median(float(run.stdout) for run in runs))
        print(f"{name:22} {medians[0]:8.2f} s {medians[1]:8.2f} s", flush=True)


if __name__ == "__main__":
    main()
