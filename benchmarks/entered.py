"""How many functions and files of this library a call enters that is like an earlier one.

    python benchmarks/entered.py [--package /path/to/another/checkout]

Counted by `sys.setprofile`: each entry of a Python function whose code is a file of the package, or was recorded by it.
A call is the loss and, for PyTorch, its backward. "first" is the first call of its kind, "again" the fourth.
"""

import argparse
import sys

ROWS, CLASSES = 64, 100


def entered(call, package):
    """(functions, files) of the package that a call enters."""
    frames = []

    def watch(frame, event, _):
        file = frame.f_code.co_filename
        if event == "call" and (file.startswith(package) or file == "<recording>"):
            frames.append((file, frame.f_code.co_name))

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return len(frames), len({file for file, _ in frames})


def calls():
    """(backend, name, call): each call is repeated, so nothing in it depends on what it left behind."""
    import numpy as np
    import torch

    import multismooth.numpy
    import multismooth.torch

    generator = np.random.default_rng(0)
    logits = generator.standard_normal((ROWS, CLASSES)).astype(np.float32)
    labels = generator.integers(0, CLASSES, ROWS)
    ignored = np.where(generator.random(ROWS) < 0.2, -100, labels)
    weight = (generator.random(CLASSES) + 0.5).astype(np.float32)
    some = generator.random(ROWS).astype(np.float32)
    z = torch.from_numpy(logits).requires_grad_()
    cases = {
        "plain": (labels, {}),
        "ignored labels": (ignored, {}),
        "class weights": (labels, {"weight": weight}),
        "both": (ignored, {"weight": weight}),
        "sample weights": (labels, {"sample_weight": some}),
        "class mask": (np.minimum(labels, 90), {"class_mask": np.arange(CLASSES) < 95}),
    }

    def step(function, y, options):
        def run():
            function(z, y, label_smoothing=0.1, **options).backward()
            z.grad = None

        return run

    for name, (y, options) in cases.items():
        tensors = {key: torch.from_numpy(value) for key, value in options.items()}
        yield "torch", name, step(multismooth.torch.loss, torch.from_numpy(y), tensors)
        if set(options) <= {"weight"}:
            drop_in = multismooth.torch.cross_entropy
            yield "torch", f"drop-in, {name}", step(drop_in, torch.from_numpy(y), tensors)
        yield "numpy", name, lambda y=y, options=options: multismooth.numpy.loss_and_grad(logits, y, **options)
    yield from jax_calls(logits, labels, ignored)


def jax_calls(logits, labels, ignored):
    try:
        import jax.numpy as jnp
    except ImportError:
        return
    import multismooth.jax

    z = jnp.asarray(logits)
    for name, y in (("plain", jnp.asarray(labels)), ("ignored labels", jnp.asarray(ignored))):
        yield "jax", name, lambda y=y: multismooth.jax.loss(z, y)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--package", help="a checkout of the library; the installed one if there is none")
    options = parser.parse_args()
    sys.modules["numba"] = None  # as if it were not installed
    if options.package:
        sys.path.insert(0, options.package)
    import multismooth

    package = multismooth.__path__[0]
    print("| backend | call | first: functions / files | again: functions / files |\n|---|---|---|---|")
    for backend, name, call in calls():
        first = entered(call, package)
        for _ in range(2):
            call()
        again = entered(call, package)
        print(f"| {backend} | {name} | {first[0]} / {first[1]} | {again[0]} / {again[1]} |")


if __name__ == "__main__":
    main()
