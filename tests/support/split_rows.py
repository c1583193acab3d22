"""Run by test_jax_modes on four CPU devices: inside `jax.shard_map`, rows split over one or two axes of a mesh.

Every result and every gradient, formed outside and inside, is that of one device. Prints what it compared.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

import multismooth.jax as ms
from multismooth.flax import linen
from multismooth.flax.nnx import LinearLoss

jax.config.update("jax_enable_x64", True)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
OLD = not hasattr(jax, "shard_map")  # JAX 0.6.0: elsewhere, and `jax.grad` itself fails inside
if OLD:
    from jax.experimental.shard_map import shard_map
else:
    shard_map = jax.shard_map

RNG = np.random.default_rng(0)
N, K, D = 8, 5, 3
LABELS = jnp.array([0, 1, -100, 3, 4, 2, -100, 1])
SOFT = jax.nn.softmax(jnp.asarray(RNG.normal(size=(N, K))))
COUNT = 3.0  # the denominator of all rows' mean, which no device knows by itself
EACH = {"label_smoothing": jnp.asarray(RNG.uniform(0, 0.3, N)), "sample_weight": jnp.asarray(RNG.uniform(0, 2, N))}
ROWS = {"hidden": jnp.asarray(RNG.normal(size=(N, D))), "logits": jnp.asarray(RNG.normal(size=(N, K)))}
SHARED = {
    "classifier": jnp.asarray(RNG.normal(size=(K, D))),
    "bias": jnp.asarray(RNG.normal(size=K)),
    "weight": jnp.asarray(RNG.uniform(0.5, 2, K)),
}
HEAD = LinearLoss(D, K, rngs=nnx.Rngs(0), param_dtype=jnp.float64, label_smoothing=0.2, weight=SHARED["weight"])
GRAPH, STATE = nnx.split(HEAD)


def head(rows, shared, targets, **settings):
    return ms.linear_loss(rows["hidden"], shared["classifier"], targets, bias=shared["bias"], **settings)


def nnx_layer(rows, shared, data):
    state = nnx.State({**STATE, "kernel": STATE["kernel"].replace(shared["classifier"].T)})
    return nnx.merge(GRAPH, state)(rows["hidden"], data["labels"], normalizer=COUNT)


def linen_layer(rows, shared, data):
    layer = linen.LinearLoss(K, label_smoothing=0.2, chunk_rows=1, param_dtype=jnp.float64)
    params = {"params": {"kernel": shared["classifier"].T, "bias": shared["bias"]}}
    return layer.apply(params, rows["hidden"], data["labels"], normalizer=COUNT)


# name: a loss of (rows, what all devices share, targets and what else there is of each row)
LOSSES = {
    "loss": lambda rows, shared, data: ms.loss(
        rows["logits"], data["labels"], weight=shared["weight"], normalizer=COUNT, **data["each"]
    ),
    "loss of soft targets": lambda rows, shared, data: ms.loss(rows["logits"], data["soft"], reduction="sum"),
    "binary_loss": lambda rows, shared, data: ms.binary_loss(
        rows["logits"], data["soft"], pos_weight=shared["weight"], reduction="sum"
    ),
    "linear_loss": lambda rows, shared, data: head(
        rows, shared, data["labels"], weight=shared["weight"], z_loss=0.1, normalizer=COUNT, chunk_rows=1, **data["each"]
    ),
    "linear_loss of soft targets": lambda rows, shared, data: head(rows, shared, data["soft"], reduction="sum"),
    "linear_loss of each": lambda rows, shared, data: jnp.sum(
        head(rows, shared, data["labels"], reduction="none", convention="others", chunk_rows=1)
    ),
    "smoothing_correction": lambda rows, shared, data: ms.smoothing_correction(
        rows["hidden"], shared["classifier"], data["labels"], bias=shared["bias"], reduction="sum"
    ),
    "nnx layer": nnx_layer,
    "linen layer": linen_layer,
}  # fmt: skip

# name: results of each row, and of the sum of all rows, with where they lie
OTHERS = {
    "terms": (lambda rows, shared, data: ms.terms(rows["logits"], data["labels"], **data["each"]), "rows"),
    "loss_and_grad": (
        lambda rows, shared, data: ms.loss_and_grad(rows["logits"], data["labels"], reduction="none", **data["each"]),
        "rows",
    ),
    "smooth_targets": (
        lambda rows, shared, data: ms.smooth_targets(
            data["labels"], K, label_smoothing=data["each"]["label_smoothing"]
        ),
        "rows",
    ),
    "linear_loss_and_grad": (
        lambda rows, shared, data: head_and_gradients(rows, shared, data),
        ("rows", ("rows", "shared", "shared")),
    ),
}


def head_and_gradients(rows, shared, data):
    return ms.linear_loss_and_grad(
        rows["hidden"], shared["classifier"], data["labels"], bias=shared["bias"], reduction="none", chunk_rows=1
    )


DATA = {"labels": LABELS, "soft": SOFT, "each": EACH}


@cache
def on_one_device(function):
    """What every way to split the rows must give."""
    return jax.jit(function, compiler_options=QUICKLY)(ROWS, SHARED, DATA)


@cache
def with_gradients(loss):
    return on_one_device(jax.value_and_grad(loss, argnums=(0, 1)))


def check(axes, mesh):
    place = {"rows": P(axes), "shared": P()}
    where = (place["rows"], place["shared"], place["rows"])

    def split(function, out):
        return shard_map(function, mesh=mesh, in_specs=where, out_specs=out)

    for loss in LOSSES.values():

        def everywhere(rows, shared, data, loss=loss):
            return jax.lax.psum(loss(rows, shared, data), axes)

        def both(rows, shared, data, loss=loss, whole=split(everywhere, P())):
            outside = jax.value_and_grad(whole, argnums=(0, 1))(rows, shared, data)
            inside = outside[1]
            if not OLD:
                gradient = jax.grad(loss, argnums=(0, 1))
                inside = split(gradient, (place["rows"], place["shared"]))(rows, shared, data)
            return outside, inside

        expected = with_gradients(loss)
        outside, inside = jax.jit(both, compiler_options=QUICKLY)(ROWS, SHARED, DATA)
        same(outside, expected)
        same(inside, expected[1])
    for function, out in OTHERS.values():
        specs = jax.tree.map(place.get, out)
        found = jax.jit(split(function, specs), compiler_options=QUICKLY)(ROWS, SHARED, DATA)
        same(found, on_one_device(function))
    print("split over", *axes, "of", mesh.shape, flush=True)


def same(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-13), found, expected)


def placed():
    """Results lie where the logits do, whatever the default device; labels and weights may come from anywhere."""
    home, other = jax.devices()[1], jax.devices()[2]
    logits = jax.device_put(ROWS["logits"], home)
    with jax.default_device(other):
        found = ms.loss_and_grad(logits, np.asarray(LABELS), weight=np.asarray(SHARED["weight"]))
    assert all(array.devices() == {home} for array in found), found
    same(found, ms.loss_and_grad(ROWS["logits"], LABELS, weight=SHARED["weight"]))
    print("placed", flush=True)


if __name__ == "__main__":
    devices = np.array(jax.devices())
    placed()
    check(("data",), Mesh(devices, ("data",)))
    check(("data", "more"), Mesh(devices.reshape(2, 2), ("data", "more")))
    check(("data",), Mesh(devices.reshape(2, 2), ("data", "more")))
