"""JAX: every function means the same in every mode: transformed, in loops, exported, split over devices, strict."""

import gc
import os
import warnings
from pathlib import Path

import numpy as np
import programs
import pytest
from requirements import need, version
from tolerance import assert_close

jax = need("jax")
import jax.export  # noqa: E402
import jax.numpy as jnp  # noqa: E402

import multismooth  # noqa: E402
import multismooth.jax as ms  # noqa: E402
import multismooth.numpy as reference  # noqa: E402
from multismooth.jax import backend  # noqa: E402

RNG = np.random.default_rng(0)
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
B, T, K, D = 2, 3, 5, 4
LABELS = np.array([[0, 1, -100], [4, 2, 0]], np.int32)
EXISTS = np.ones((1, T, K), bool)
EXISTS[0, 0, 3] = False


def softmax(z, axis=-1):
    e = np.exp(z)
    return e / e.sum(axis=axis, keepdims=True)


LOGITS, HIDDEN, CLASSIFIER = RNG.normal(size=(B, T, K)), RNG.normal(size=(B, T, D)), RNG.normal(size=(K, D))
WEIGHT, PRIOR, ROWS = RNG.uniform(0.5, 2, K), softmax(RNG.normal(size=K)), softmax(RNG.normal(size=(B, T, K)))
EVERYTHING = {
    "label_smoothing": RNG.uniform(0.05, 0.3, T),
    "weight": WEIGHT,
    "prior": PRIOR,
    "class_mask": EXISTS,
    "sample_weight": np.array([[1.0], [0.5]]),
    "z_loss": np.array(0.1),
}
HEAD = {"hidden": HIDDEN, "classifier": CLASSIFIER, "targets": LABELS, "bias": RNG.normal(size=K)}
OTHERS = multismooth.Convention(spread="others", exclude=(3,))

# name: function, its arrays, its other settings
TABLE = {
    "loss of everything": ("loss", {"logits": LOGITS, "targets": LABELS, **EVERYTHING}, {}),
    "loss of soft targets": ("loss", {"logits": LOGITS, "targets": ROWS, "weight": WEIGHT, "prior": softmax(RNG.normal(size=(K, K)))}, {"convention": "paddle", "reduction": "none"}),
    "loss of images": ("loss", {"logits": np.moveaxis(LOGITS, -1, 1), "targets": LABELS, "normalizer": np.array(7.0)}, {"axis": 1, "convention": OTHERS}),
    "loss with two denominators": ("loss", {"logits": LOGITS, "targets": LABELS, "weight": WEIGHT}, {"convention": "fastai"}),
    "terms of a divergence": ("terms", {"logits": LOGITS, "targets": LABELS, "prior": softmax(RNG.normal(size=(K, K)))}, {"convention": "torch-kl-div", "ignore_index": -100}),
    "loss_and_grad": ("loss_and_grad", {"logits": LOGITS, "targets": LABELS, **EVERYTHING}, {"reduction": "none"}),
    "loss_and_grad of soft targets": ("loss_and_grad", {"logits": LOGITS, "targets": ROWS}, {"reduction": "sum"}),
    "smooth_targets": ("smooth_targets", {"targets": LABELS, "label_smoothing": EVERYTHING["label_smoothing"], "prior": PRIOR}, {"num_classes": K}),
    "linear_loss of everything": ("linear_loss", {**HEAD, **EVERYTHING}, {"chunk_rows": 4}),
    "linear_loss of each": ("linear_loss", {**HEAD, "sample_weight": np.array([True, False, True])}, {"reduction": "none", "chunk_rows": 2, "convention": "others"}),
    "linear_loss of soft targets": ("linear_loss", {**HEAD, "targets": ROWS, "normalizer": np.array(7.0)}, {}),
    "linear_loss_and_grad": ("linear_loss_and_grad", {**HEAD, **EVERYTHING}, {"chunk_rows": 4}),
    "smoothing_correction": ("smoothing_correction", {**HEAD, "prior": PRIOR, "sample_weight": np.array([1.0, 0.0, 2.0])}, {}),
    "binary_loss": ("binary_loss", {"logits": LOGITS, "targets": ROWS, "pos_weight": WEIGHT, "sample_weight": np.array([[1.0], [0.0], [2.0]]), "label_smoothing": RNG.uniform(0, 0.3, K)}, {}),
}  # fmt: skip


def traced(arrays, call):
    """The call with every array, under a jit that compiles quickly."""
    return [jax.jit(call, compiler_options=QUICKLY)(arrays)]


def in_loops(arrays, call):
    """The body of a scan and of a while loop, which must agree."""

    def once(carry, _):
        return carry, call(carry)

    def step(state):
        return state[0] + 1, call(arrays)

    scanned = jax.lax.scan(once, arrays, None, length=2)[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(call, arrays))
    looped = jax.lax.while_loop(lambda state: state[0] < 2, step, (0, zeros))[1]
    return [jax.tree.map(lambda x: x[1], scanned), looped]


def mapped(arrays, call):
    """One of a batch, with every array batched, and with the first alone."""
    twice = jax.tree.map(lambda x: jnp.stack([x, x]), arrays)
    first = next(iter(arrays))
    alone = {name: 0 if name == first else None for name in arrays}
    every, one = jax.vmap(call)(twice), jax.vmap(call, in_axes=(alone,))(arrays | {first: twice[first]})
    return [jax.tree.map(lambda x: x[1], every), jax.tree.map(lambda x: x[1], one)]


def strict(arrays, call):
    """No rank is promoted and no dtype, and no tracer survives its trace."""
    gc.freeze()  # JAX looks for tracers by `gc.collect()`, which skips what is older
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"), jax.checking_leaks():
        jax.eval_shape(call, arrays)
        return []


def without_jit(arrays, call):
    with jax.disable_jit():
        return [call(arrays)]


def without_alarms(arrays, call):
    with jax.debug_nans(True):
        return [call(arrays)]


def donated(arrays, call):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        return [jax.jit(call, donate_argnums=0, compiler_options=QUICKLY)(jax.tree.map(jnp.copy, arrays))]


def exported(arrays, call, sizes=("b", "t")):
    """Through `jax.export` with open sizes of the batch."""
    opened = dict(zip((B, T, K), jax.export.symbolic_shape(", ".join(sizes)), strict=False))
    shapes = {name: tuple(opened.get(n, n) for n in array.shape) for name, array in arrays.items()}
    shapes = {name: jax.ShapeDtypeStruct(shape, arrays[name].dtype) for name, shape in shapes.items()}
    program = jax.export.export(jax.jit(call))(shapes)
    return [jax.jit(program.call, compiler_options=QUICKLY)(arrays)]


MODES = [traced, in_loops, mapped, strict, without_jit, without_alarms, donated, exported]


def own(arrays):
    return {name: jnp.asarray(array) for name, array in arrays.items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("name", TABLE)
def test_a_function_means_the_same_in_every_mode(name, mode):
    function, arrays, settings = TABLE[name]
    expected = getattr(reference, function)(**arrays, **settings)
    for found in mode(own(arrays), lambda arrays: getattr(ms, function)(**arrays, **settings)):
        jax.tree.map(lambda x, y: assert_close(x, np.asarray(y)), found, expected)


def test_rows_split_over_devices():
    """Inside `jax.shard_map`, in a process that has four devices: see `split_rows`."""
    if version("jax") == (0, 6, 0):
        pytest.skip("JAX 0.6.0 refuses gradients through shard_map by an error of its own")
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    script = Path(__file__).parent / "support" / "split_rows.py"
    done = programs.run(script, imports=("jax", "flax.nnx", "flax.linen", "numba"), XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[0] == "placed"
    assert done.stdout.count("split over") == 3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_eager_call_looks_at_one_row_of_the_logits(dtype, monkeypatch):
    """All of them would be a copy where NumPy has no such dtype."""
    sizes, readable = [], backend.readable

    def noted(array):
        sizes.append(array.size)
        return readable(array)

    monkeypatch.setattr(backend, "readable", noted)
    logits, labels = jnp.asarray(RNG.normal(size=(64, 50)), dtype).block_until_ready(), jnp.arange(64) % 50
    for call in (ms.loss, ms.loss_and_grad, ms.terms):
        call(logits, labels)
    assert 50 in sizes
    assert max(sizes) <= 64
