"""What XLA makes of loss and gradient for an H200, on a machine without a GPU: `python tests/support/xla_on_a_gpu.py`.

It prints {problem: {bytes: moved per logit, temporary: bytes per logit}} as JSON. It needs JAX's CUDA plugin (`pip
install --no-deps jax-cuda13-plugin jax-cuda13-pjrt`, of JAX's own version), and no driver. Bytes are those of arrays
with an entry for each logit that the compiled program's steps read and write.
"""

import json
import math
import os
import re

os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # there are no CUDA libraries to check

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import multismooth.jax as ms

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  shared_memory_per_block: 49152 shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 clock_rate_ghz: 1.98
  memory_bandwidth: 4800000000000 l2_cache_size: 52428800 device_memory_size: 151397597184
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "H200"
"""
BYTES = {"bf16": 2, "f32": 4, "s32": 4, "pred": 1}
FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant")


def compiled(function, *shapes):
    """The program for an H200 of a function of arrays with these shapes and dtypes."""
    device = topologies.get_topology_desc("H200", platform="cuda", target_config=H200, topology="1x1x1").devices[0]
    sharding = jax.sharding.SingleDeviceSharding(device)
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=sharding) for shape, dtype in shapes]
    return jax.jit(function).lower(*arguments).compile()


def bytes_moved(program, logits):
    """Bytes that the steps of a compiled program read and write, of arrays with at least so many entries."""
    text = re.sub(r"/\*.*?\*/", "", program.as_text())
    entry = re.search(r"^ENTRY.*?^}", text, re.MULTILINE | re.DOTALL).group()
    total, known = 0, {}
    for name, result, step, operands in re.findall(r"%?([\w.\-]+) = (.+?) ([a-z][\w\-]*)\(([^)]*)\)", entry):
        sizes = [
            (kind, math.prod(map(int, shape.split(",")))) for kind, shape in re.findall(r"(\w+)\[([\d,]+)\]", result)
        ]
        known[name] = sum(BYTES[kind] * size for kind, size in sizes if size >= logits)
        if step not in FREE:
            total += known[name] + sum(known.get(operand.strip().lstrip("%"), 0) for operand in operands.split(","))
    return total


def problems():
    """(name, function, shapes) of calls: loss and gradient in one, and JAX's own value_and_grad."""
    rows, classes = 1024, 32_000
    z, y = ((rows, classes), jnp.bfloat16), ((rows,), jnp.int32)
    weight, mask, each = ((classes,), jnp.float32), ((classes,), jnp.bool_), ((rows,), jnp.float32)
    yield "loss_and_grad", ms.loss_and_grad, (z, y)
    yield "value_and_grad", jax.value_and_grad(ms.loss), (z, y)

    def everyday(z, y, weight, mask, each):
        return ms.loss(z, y, weight=weight, class_mask=mask, sample_weight=each, z_loss=1e-4, label_smoothing=each / 10)

    yield "everyday arguments", jax.value_and_grad(everyday), (z, y, weight, mask, each)
    images = ((8, 21, 256, 256), jnp.bfloat16), ((8, 256, 256), jnp.int32)
    yield "images", jax.value_and_grad(lambda z, y: ms.loss(z, y, axis=1)), images


def measured():
    found = {}
    for name, function, shapes in problems():
        program, size = compiled(function, *shapes), math.prod(shapes[0][0])
        temporary = program.memory_analysis().temp_size_in_bytes / size
        found[name] = {"bytes": bytes_moved(program, size) / size, "temporary": temporary}
    return found


if __name__ == "__main__":
    print(json.dumps(measured()))
