"""What `multismooth.jax` costs beside the computation: the checks of an eager call, the tracing of a jitted one.

    python benchmarks/jax_calls.py [--rounds 15] [--half 2048x16000] [--images 16x64x128x128] [--out results.json]
    PYTHONPATH=another/checkout python benchmarks/jax_calls.py    # the same of another version

Eager: `loss` with and without the checks of values (`validate=None` and `False`), each in a process of its own. Memory
is the peak of resident memory (VmHWM, Linux alone) above that before the call. The first call has compiled before.
Traced: `jax.jit(…).lower(…)` after `jax.clear_caches()`. Compilation is not in it.
Everything is the median of the rounds. Time is CPU time, in which other programs on the machine do not count.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib import metadata


def eager_cases(half, images):
    """Name → (shape, dtype, class axis)."""
    return {
        "bfloat16": (half, "bfloat16", 1),
        "float32": (half, "float32", 1),
        "images, axis=1": (images, "float32", 1),
        "images, bfloat16, axis=1": (images, "bfloat16", 1),
    }


def memory(field):
    """Bytes of a field of /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(f"{field}:"))


def measure_eager(shape, dtype, axis, validate, rounds):
    """(seconds, bytes of the peak) of one call of `loss`, in this process."""
    import jax
    import jax.numpy as jnp

    import multismooth.jax

    logits = jax.random.normal(jax.random.key(0), shape, dtype)
    elements = tuple(size for k, size in enumerate(shape) if k != axis)
    labels = jax.random.randint(jax.random.key(1), elements, 0, shape[axis])
    jax.block_until_ready((logits, labels))

    def call():
        return multismooth.jax.loss(logits, labels, axis=axis, validate=validate).block_until_ready()

    assert jnp.isfinite(call())
    return statistics.median(timed(call) for _ in range(rounds)), statistics.median(peak(call) for _ in range(rounds))


def peak(call):
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # VmHWM becomes VmRSS
    before = memory("VmHWM")
    call()
    return memory("VmHWM") - before


def timed(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def traced_cases(jnp):
    """Name → (function of `multismooth.jax`, arrays, settings)."""
    z, y = jnp.zeros((64, 100)), jnp.arange(64) % 100
    ones, uniform = jnp.ones(100), jnp.full(100, 0.01)
    head = jnp.zeros((64, 16)), jnp.zeros((100, 16)), y
    return {
        "loss": ("loss", (z, y), {}),
        "loss, class weights": ("loss", (z, y, ones), {"names": ["weight"]}),
        "loss, ε per element": ("loss", (z, y, jnp.full(64, 0.1)), {"names": ["label_smoothing"]}),
        "loss, prior, mask, z_loss": (
            "loss",
            (z, y, uniform, ones > 0),
            {"names": ["prior", "class_mask"], "z_loss": 1e-4},
        ),
        "loss, soft targets": ("loss", (z, jnp.full((64, 100), 0.01)), {}),
        "loss, images": ("loss", (jnp.zeros((2, 10, 8, 8)), jnp.zeros((2, 8, 8), int)), {"axis": 1}),
        "loss_and_grad": ("loss_and_grad", (z, y), {}),
        "terms": ("terms", (z, y), {}),
        "linear_loss": ("linear_loss", head, {}),
        "linear_loss_and_grad": ("linear_loss_and_grad", head, {"chunk_rows": 16}),
    }


def measure_traced(rounds):
    """Name → median seconds to trace and lower; of a loss, its gradient's too."""
    import jax
    import jax.numpy as jnp

    import multismooth.jax

    found = {}
    for name, (function, arrays, settings) in traced_cases(jnp).items():
        settings = dict(settings)
        names = settings.pop("names", [])
        plain = len(arrays) - len(names)

        def call(*arrays, function=function, names=names, plain=plain, settings=settings):
            named = dict(zip(names, arrays[plain:], strict=True))
            return getattr(multismooth.jax, function)(*arrays[:plain], **named, **settings)

        found[name] = traced(jax, call, arrays, rounds)
        if function.endswith("loss"):
            found[f"grad of {name}"] = traced(jax, jax.grad(call), arrays, rounds)
    return found


def traced(jax, call, arrays, rounds):
    seconds = []
    for _ in range(rounds + 1):
        jax.clear_caches()
        seconds.append(timed(lambda: jax.jit(lambda *arrays: call(*arrays)).lower(*arrays)))
    return statistics.median(seconds[1:])


def in_a_process(*request):
    """The JSON that this script prints for one request, in a process of its own."""
    command = [sys.executable, __file__, "--one", json.dumps(request)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def answer(kind, *request):
    return measure_eager(*request) if kind == "eager" else measure_traced(*request)


def sizes(text):
    return tuple(map(int, text.split("x")))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--half", type=sizes, default=(2048, 16000), help="the shape of logits (N, K)")
    parser.add_argument("--images", type=sizes, default=(16, 64, 128, 128), help="the shape of logits (N, K, H, W)")
    parser.add_argument("--out", help="a JSON file for the results")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(answer(*json.loads(options.one))))
        return
    versions = {name: metadata.version(name) for name in ("jax", "numpy")}
    result = {"versions": versions, "eager": {}, "traced": {}}
    for name, (shape, dtype, axis) in eager_cases(options.half, options.images).items():
        for validate in (None, False):
            seconds, most = in_a_process("eager", shape, dtype, axis, validate, options.rounds)
            result["eager"][f"{name}, validate={validate}"] = {"seconds": seconds, "peak_bytes": most}
            print(f"{name + f', validate={validate}':45} {1e3 * seconds:8.1f} ms {most / 2**20:8.1f} MiB", flush=True)
    result["traced"] = in_a_process("traced", options.rounds)
    for name, seconds in result["traced"].items():
        print(f"{name:45} {1e3 * seconds:8.1f} ms to trace")
    if options.out:
        with open(options.out, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=2)


if __name__ == "__main__":
    main()
