"""JAX: every transformation, no recompilation, no (N, K) buffer but the gradient, nothing clamped or wrapped."""

import subprocess
import sys

import numpy as np
import pytest
from requirements import need, version

jax = need("jax")
import jax.numpy as jnp  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

import multismooth.jax as ms  # noqa: E402
import multismooth.numpy as reference  # noqa: E402
from multismooth.jax import backend, kernel  # noqa: E402

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(6, 5)), np.array([0, 1, 2, -100, 4, 0])
SETTINGS = {"convention": "others", "weight": RNG.uniform(0.5, 2, 5), "z_loss": 0.1, "label_smoothing": 0.2}


def loss(z, **options):
    return ms.loss(z, jnp.asarray(LABELS), **SETTINGS | options)


def plain(z):
    """The text of `spec`, differentiated by JAX alone."""
    problem, settings, *_ = ms._functions._call(z, jnp.asarray(LABELS), **SETTINGS)
    return backend.backend.total(problem, settings, backend.XP)


@pytest.mark.usefixtures("x64")
def test_every_derivative_is_that_of_the_plain_text():
    z, v = jnp.asarray(LOGITS), jnp.asarray(RNG.normal(size=LOGITS.shape))
    transforms = (
        lambda f: f(z),
        lambda f: jax.grad(f)(z),
        lambda f: jax.hessian(f)(z),
        lambda f: jax.jacfwd(f)(z),
        lambda f: jax.jvp(f, (z,), (v,))[1],
        lambda f: jax.jvp(jax.grad(f), (z,), (v,))[1],
        lambda f: jax.vmap(jax.grad(f))(jnp.stack([z, v])),
        lambda f: jax.grad(jax.checkpoint(f))(z),
        lambda f: jax.jit(jax.grad(f))(z),
    )
    exact = jax.jit(lambda: [transform(plain) for transform in transforms])()  # not one program for each operation
    for transform, expected in zip(transforms, exact, strict=True):
        np.testing.assert_allclose(transform(loss), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_derivatives_with_respect_to_everything_else():
    from jax.test_util import check_grads

    soft = jax.nn.softmax(jnp.asarray(RNG.normal(size=LOGITS.shape)))
    z = jnp.asarray(LOGITS)
    check_grads(lambda t: ms.loss(z, t, label_smoothing=0.1, validate=False), (soft,), order=2)
    check_grads(lambda e: ms.loss(z, jnp.asarray(LABELS), label_smoothing=e), (jnp.asarray(0.1),), order=2)
    check_grads(lambda w: loss(z, weight=w), (jnp.asarray(SETTINGS["weight"]),), order=2)
    check_grads(lambda p: loss(z, convention="torch", prior=p, validate=False), (jnp.full(5, 0.2),), order=2)


@pytest.mark.usefixtures("x64")
def test_linear_loss_in_every_mode():
    hidden, classifier, bias = (jnp.asarray(RNG.normal(size=shape)) for shape in ((6, 3), (5, 3), (5,)))

    def ours(hidden, classifier, bias, epsilon):
        return ms.linear_loss(hidden, classifier, LABELS, bias=bias, label_smoothing=epsilon, chunk_rows=4)

    def dense(hidden, classifier, bias, epsilon):
        return ms.loss(hidden @ classifier.T + bias, LABELS, label_smoothing=epsilon)

    point = (hidden, classifier, bias, 0.1)
    for transform in (
        lambda f: jax.grad(f, argnums=(0, 1, 2, 3))(*point),
        lambda f: jax.hessian(f, argnums=1)(*point),
        lambda f: jax.jvp(f, point, (hidden, classifier, bias, 1.0)),
        lambda f: jax.vmap(lambda h: f(h, *point[1:]))(jnp.stack([hidden, hidden + 1])),
    ):
        for mine, other in zip(jax.tree.leaves(transform(ours)), jax.tree.leaves(transform(dense)), strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-11, atol=1e-13)


def test_a_schedule_does_not_recompile():
    traced = []

    @jax.jit
    def step(z, epsilon):
        traced.append(epsilon)
        return ms.loss(z, LABELS, label_smoothing=epsilon)

    z = jnp.asarray(LOGITS, jnp.float32)
    values = [float(step(z, epsilon)) for epsilon in (0.0, 0.1, 0.2)]
    assert len(traced) == 1
    assert len(set(values)) == 3
    before = backend._loss._cache_size()
    for epsilon in (0.01, 0.02, 0.03):
        ms.loss(z, LABELS, label_smoothing=epsilon)
    assert backend._loss._cache_size() <= before + 1


def temporaries(function, *shapes):
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    return jax.jit(function).lower(*shapes).compile().memory_analysis().temp_size_in_bytes


@pytest.mark.skipif(version("jax") < (0, 10, 2), reason="XLA before JAX 0.10.2 keeps one buffer more")
@pytest.mark.parametrize("options", [{}, {"ignore_index": None}, {"z_loss": 1e-4}, {"reduction": "sum"}])
def test_nothing_as_large_as_the_logits_exists_beside_the_gradient(options):
    rows, classes = 256, 32000
    used = temporaries(
        jax.value_and_grad(lambda z, y: ms.loss(z, y, **options)),
        ((rows, classes), jnp.float32),
        ((rows,), jnp.int32),
    )
    assert used < 0.1 * 4 * rows * classes


@pytest.mark.skipif(version("jax") < (0, 10, 2), reason="XLA before JAX 0.10.2 keeps one buffer more")
@pytest.mark.parametrize(
    ("dtype", "masked", "buffers"), [("float32", True, 1), ("bfloat16", False, 2), ("bfloat16", True, 2)]
)
def test_masked_and_half_precision_gradients_keep_few_buffers(dtype, masked, buffers):
    """In float32; XLA makes one of each cast or mask that several reductions read."""
    rows, classes = 256, 32000
    mask = np.arange(classes) < classes - 100 if masked else None
    used = temporaries(
        jax.value_and_grad(lambda z, y: ms.loss(z, y, class_mask=mask)), ((rows, classes), dtype), ((rows,), jnp.int32)
    )
    assert used < (buffers + 0.3) * 4 * rows * classes  # the mask takes a quarter of one


def test_linear_loss_stays_within_its_workspace():
    rows, features, classes = 1024, 64, 20011
    used = temporaries(
        jax.value_and_grad(lambda h, w, y: ms.linear_loss(h, w, y, chunk_rows=32), argnums=(0, 1)),
        ((rows, features), jnp.float32),
        ((classes, features), jnp.float32),
        ((rows,), jnp.int32),
    )
    assert used < 0.3 * 4 * rows * classes


def operations(jaxpr):
    """The names of all operations of a traced program, with those of the functions inside it."""
    for step in jaxpr.eqns:
        yield step.primitive.name
        for inner in jax.tree.leaves(list(step.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            if hasattr(inner, "eqns"):
                yield from operations(getattr(inner, "jaxpr", inner))


WEIGHT, HIDDEN, CLASSIFIER = np.ones(5, np.float32), np.ones((6, 3), np.float32), np.ones((5, 3), np.float32)
SIZES = {
    "loss": (lambda z, y, **_: ms.loss(z, y, label_smoothing=0.1), 109),
    "its gradient": (lambda z, y, **_: jax.grad(ms.loss)(z, y, label_smoothing=0.1), 131),
    "loss_and_grad": (lambda z, y, **_: ms.loss_and_grad(z, y, label_smoothing=0.1), 135),
    "class weights": (lambda z, y, weight, **_: ms.loss_and_grad(z, y, label_smoothing=0.1, weight=weight), 162),
    "terms": (lambda z, y, **_: ms.terms(z, y, label_smoothing=0.1), 89),
    "binary_loss": (lambda z, y, **_: jax.grad(ms.binary_loss)(z, jnp.ones_like(z), label_smoothing=0.1), 99),
    "focal_loss": (lambda z, y, **_: jax.grad(ms.focal_loss)(z, y, label_smoothing=0.1), 137),
    "head": (lambda z, y, hidden, classifier, **_: ms.linear_loss(hidden, classifier, y), 151),
    "head's gradient": (lambda z, y, hidden, classifier, **_: jax.grad(ms.linear_loss)(hidden, classifier, y), 148),
    "head with gradients": (
        lambda z, y, hidden, classifier, **_: ms.linear_loss_and_grad(hidden, classifier, y),
        186,
    ),
    "correction": (lambda z, y, hidden, classifier, **_: ms.smoothing_correction(hidden, classifier, y), 56),
}


@pytest.mark.skipif(version("jax") != (0, 10, 2), reason="each JAX makes other operations of the same text")
@pytest.mark.parametrize("name", SIZES)
def test_programs_stay_small(name):
    """Every new shape is traced, lowered and compiled, in milliseconds that grow with the operations.

    jax.numpy has functions that are a jit of their own, each of which is traced and lowered as one more function. One
    jit is the call's own, and under `jax.grad` it is two: forward and backward.
    """
    call, most = SIZES[name]
    arrays = {"weight": WEIGHT, "hidden": HIDDEN, "classifier": CLASSIFIER}
    traced = jax.make_jaxpr(lambda z, y, arrays: call(z, y, **arrays))(LOGITS.astype(np.float32), LABELS, arrays)
    found = list(operations(traced.jaxpr))
    assert len(found) <= most
    assert sum(name in ("jit", "pjit") for name in found) <= 2
    assert found.count("platform_index") <= 1


@pytest.mark.parametrize("label", [-1, 5, -101, 2**31 - 1])
def test_a_traced_label_out_of_range_is_nan_for_its_element_alone(label):
    z = jnp.asarray(LOGITS, jnp.float32)
    labels = jnp.asarray(LABELS, jnp.int32).at[1].set(label)
    good = np.asarray(ms.loss(z, LABELS, reduction="none"))
    found, gradient = jax.jit(lambda z, y: ms.loss_and_grad(z, y, reduction="none"))(z, labels)
    assert np.isnan(found[1])
    assert np.isnan(gradient[1]).all()
    kept = np.array([0, 2, 3, 4, 5])
    np.testing.assert_allclose(np.asarray(found)[kept], good[kept], rtol=1e-6)
    assert np.isfinite(np.asarray(gradient)[kept]).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_half_precision_is_computed_in_float32(dtype):
    z = jnp.asarray(LOGITS, dtype)
    value, gradient = ms.loss_and_grad(z, LABELS)
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    exact = reference.loss(np.asarray(z.astype(jnp.float32)).astype(np.float64), LABELS)
    np.testing.assert_allclose(value, exact, rtol=2e-6)


def test_the_class_axis_may_be_anywhere():
    z = RNG.normal(size=(2, 5, 3, 4)).astype(np.float32)
    y = RNG.integers(0, 5, (2, 3, 4))
    value, gradient = ms.loss_and_grad(jnp.asarray(z), y, axis=1)
    other, moved = ms.loss_and_grad(jnp.moveaxis(jnp.asarray(z), 1, -1), y, axis=-1)
    np.testing.assert_allclose(value, other, rtol=1e-6)
    np.testing.assert_allclose(gradient, np.moveaxis(np.asarray(moved), -1, 1), atol=1e-7)


def test_soft_targets_take_the_plain_text(monkeypatch):
    used = []
    monkeypatch.setattr(kernel, "statistics", lambda *arguments: used.append(arguments) or 1 / 0)
    rows = jax.nn.softmax(jnp.asarray(LOGITS, jnp.float32) * 1.7)
    assert jnp.isfinite(ms.loss(jnp.asarray(LOGITS, jnp.float32), rows, reduction="sum"))
    with pytest.raises(ZeroDivisionError):
        ms.loss(jnp.asarray(LOGITS[:4], jnp.float32), LABELS[:4])
    assert used


SHARDED = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
import multismooth.jax as ms
mesh = Mesh(np.array(jax.devices()).reshape(4), ("data",))
z = jax.random.normal(jax.random.key(0), (8, 12)); y = jnp.arange(8) % 12
expected = ms.loss_and_grad(z, y)
for spec in (P("data", None), P(None, "data")):
    placed = jax.device_put(z, NamedSharding(mesh, spec))
    value, gradient = jax.jit(ms.loss_and_grad)(placed, y)
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, expected[1], atol=1e-7)
def local(z, y):
    parts = ms.terms(z, y)
    return jax.lax.psum(parts.loss.sum(), "data") / jax.lax.psum(parts.weight.sum(), "data")
try:
    from jax import shard_map
except ImportError:  # JAX 0.6.0
    from jax.experimental.shard_map import shard_map
mapped = shard_map(local, mesh=mesh, in_specs=(P("data"), P("data")), out_specs=P())
np.testing.assert_allclose(mapped(z, y), expected[0], rtol=1e-6)
print("sharded", len(jax.devices()))
"""


def test_sharded_operands_and_shard_map():
    if version("jax") == (0, 6, 0):
        pytest.skip("JAX 0.6.0 refuses an argmax inside shard_map by an error of its own")
    output = subprocess.run([sys.executable, "-c", SHARDED], capture_output=True, text=True, check=False)
    assert output.stdout.strip() == "sharded 4", output.stderr[-2000:]


def test_one_device_mesh():
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    z = jax.device_put(jnp.asarray(LOGITS, jnp.float32), NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(ms.loss(z, LABELS), ms.loss(jnp.asarray(LOGITS, jnp.float32), LABELS), rtol=1e-6)
