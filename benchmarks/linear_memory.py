"""Peak extra memory of a smoothed linear head, forward and backward, relative to the size of its logits.

    python benchmarks/linear_memory.py [--rows 2048 --features 512 --classes 50257] [--out results.json]

PyTorch: the peak resident memory of a fresh process for each implementation, gradients included, above the memory after
the inputs were made and one small warm-up call was run.
JAX: `memory_analysis()` of the compiled value-and-gradient, temporaries and outputs.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from importlib import metadata

SMOOTHING = 0.1


def torch_inputs(rows, features, classes):
    import torch

    torch.manual_seed(0)
    hidden = torch.randn(rows, features, requires_grad=True)
    classifier = (torch.randn(classes, features) * 0.02).requires_grad_()
    return hidden, classifier, torch.randint(0, classes, (rows,))


def torch_implementations():
    import torch
    import torch.nn.functional as F

    import multismooth.torch

    def ours(hidden, classifier, labels):
        return multismooth.torch.linear_loss(hidden, classifier, labels, label_smoothing=SMOOTHING)

    def logits(hidden, classifier, labels):
        return F.cross_entropy(hidden @ classifier.T, labels, label_smoothing=SMOOTHING)

    found = {"multismooth.torch.linear_loss": ours, "F.cross_entropy of the logits": logits}
    if hasattr(F, "linear_cross_entropy"):

        def chunked(hidden, classifier, labels):
            options = torch.nn.LinearCrossEntropyOptions()
            return F.linear_cross_entropy(hidden, classifier, labels, label_smoothing=SMOOTHING, options=options)

        found["F.linear_cross_entropy, chunked options"] = chunked
    return found


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Peak:
    """The largest resident memory while a block runs, sampled every millisecond, above its start."""

    def __enter__(self):
        self.start = self.highest = resident()
        self.running = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.running:
            self.highest = max(self.highest, resident())
            time.sleep(0.001)

    def __exit__(self, *error):
        self.running = False
        self.thread.join()
        self.extra = self.highest - self.start


def measure_torch(name, rows, features, classes):
    import warnings

    warnings.simplefilter("ignore")
    implementation = torch_implementations()[name]
    implementation(*torch_inputs(64, 64, 100)).backward()
    inputs = torch_inputs(rows, features, classes)
    with Peak() as peak:
        start = time.perf_counter()
        loss = implementation(*inputs)
        loss.backward()
        seconds = time.perf_counter() - start
    return {"loss": loss.item(), "bytes": peak.extra, "seconds": seconds}


def measure_jax(name, rows, features, classes):
    import jax
    import jax.numpy as jnp
    import optax

    import multismooth.jax

    def ours(hidden, classifier, labels):
        return multismooth.jax.linear_loss(hidden, classifier, labels, label_smoothing=SMOOTHING)

    def one_hot(hidden, classifier, labels):
        targets = optax.smooth_labels(jax.nn.one_hot(labels, classes), SMOOTHING)
        return optax.softmax_cross_entropy(hidden @ classifier.T, targets).mean()

    chosen = {"multismooth.jax.linear_loss": ours, "optax one-hot of the logits": one_hot}[name]
    shapes = [
        jax.ShapeDtypeStruct((rows, features), jnp.float32),
        jax.ShapeDtypeStruct((classes, features), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    ]
    analysis = jax.jit(jax.value_and_grad(chosen, argnums=(0, 1))).lower(*shapes).compile().memory_analysis()
    return {
        "bytes": analysis.temp_size_in_bytes + analysis.output_size_in_bytes,
        "temporaries": analysis.temp_size_in_bytes,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=50257)
    parser.add_argument("--out", help="write the results here as JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    shape = (options.rows, options.features, options.classes)
    if options.one:
        measure = measure_torch if options.one in torch_implementations() else measure_jax
        print(json.dumps(measure(options.one, *shape)))
        return
    logits = 4 * options.rows * options.classes
    names = [*torch_implementations(), "multismooth.jax.linear_loss", "optax one-hot of the logits"]
    results = {}
    print(f"N = {shape[0]}, D = {shape[1]}, K = {shape[2]}, float32: the logits are {logits / 2**20:.0f} MiB")
    print("| implementation | extra memory / logits |\n|---|---|")
    for name in names:
        arguments = ["--rows", str(shape[0]), "--features", str(shape[1]), "--classes", str(shape[2]), "--one", name]
        output = subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
        results[name] = json.loads(output.stdout.splitlines()[-1])
        results[name]["ratio"] = results[name]["bytes"] / logits
        print(f"| {name} | {results[name]['ratio']:.2f} |", flush=True)
    if options.out:
        with open(options.out, "w") as file:
            facts = {"shape": shape, "logits_bytes": logits, "cores": os.cpu_count(), "processor": platform.machine()}
            versions = {name: metadata.version(name) for name in ("torch", "jax", "optax", "multismooth")}
            json.dump(facts | {"versions": versions, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
