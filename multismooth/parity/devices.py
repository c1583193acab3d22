"""The conformance cases on CPU devices that JAX is told to make, with the classes split over all of them.

`doctor` runs it in a process of its own, because JAX reads the number of devices once: `python -m
multismooth.parity.devices WORLD CONVENTION…` prints rows and failures as JSON. K need not divide evenly: the classes
are padded, and the padding does not exist (`class_mask`).
"""

import json
import os
import sys
from contextlib import nullcontext
from functools import cache, partial


def main(world, conventions):
    """Rows and failures of `doctor.check_place`, for the two ways to split classes."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={world}"
    os.environ |= {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    import jax

    from multismooth.parity.doctor import check_place

    jax.config.update("jax_enable_x64", True)
    rows, failures = [], []
    for way in ("shard_map", "jit"):
        place = f"{world} devices, {way}"
        found = check_place("jax", place, partial(split_loss, way), nullcontext, conventions)
        rows += [row.to_dict() for row in found[0]]
        failures += found[1]
    print(json.dumps({"rows": rows, "failures": failures}))


def split_loss(way, logits, targets, **settings):
    """`multismooth.jax.loss` with its classes split over all devices."""
    import jax

    arrays = {name: value for name, value in settings.items() if isinstance(value, jax.Array)}
    plain = {name: value for name, value in settings.items() if name not in arrays}
    if targets.ndim == logits.ndim:
        raise NotImplementedError("rows of classes are not padded here")
    return _compiled(way, tuple(sorted(plain.items())))(logits, targets, arrays)


@cache
def _compiled(way, plain):
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from multismooth.jax import loss

    mesh, settings = Mesh(np.array(jax.devices()), ("classes",)), dict(plain)
    axis, whole = settings.get("axis", -1), PartitionSpec()

    def padded(logits, targets, arrays):
        size = logits.shape[axis]
        more = -size % mesh.size

        def pad(array, axis):
            return jnp.pad(array, [(0, more if k == axis % array.ndim else 0) for k in range(array.ndim)])

        mask = arrays.get("class_mask", jnp.ones(size, bool))
        arrays |= {name: pad(arrays[name], 0) for name in ("weight", "prior") if name in arrays}
        split = PartitionSpec(*["classes" if k == axis % logits.ndim else None for k in range(logits.ndim)])
        return pad(logits, axis), targets, arrays | {"class_mask": pad(mask, 0)}, split

    def in_shard_map(logits, targets, arrays):
        logits, targets, arrays, split = padded(logits, targets, arrays)

        def part(logits, targets, arrays):
            return loss(logits, targets, axis_name="classes", **arrays, **settings)

        return jax.shard_map(part, mesh=mesh, in_specs=(split, whole, whole), out_specs=whole)(logits, targets, arrays)

    def by_the_compiler(logits, targets, arrays):
        logits, targets, arrays, split = padded(logits, targets, arrays)
        logits = jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, split))
        return loss(logits, targets, **arrays, **settings)

    return jax.jit(in_shard_map if way == "shard_map" else by_the_compiler)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
