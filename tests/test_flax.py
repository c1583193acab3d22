"""Flax's heads beside the layers that they are made of: parameters, dtypes, transformations, copies, options."""

import copy
import pickle

import numpy as np
import pytest
from requirements import need
from tolerance import assert_close

jax = need("jax")
flax = need("flax")
import jax.numpy as jnp  # noqa: E402
from flax import linen, nnx  # noqa: E402

import multismooth.jax as ms  # noqa: E402
from multismooth.flax import linen as own_linen  # noqa: E402
from multismooth.flax import nnx as own_nnx  # noqa: E402

RNG = np.random.default_rng(0)
N, D, K = 6, 4, 5
HIDDEN = jnp.asarray(RNG.normal(size=(N, D)), jnp.float32)
KERNEL, BIAS = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in ((D, K), (K,)))
LABELS = jnp.array([0, 1, -100, 3, 4, 2])
WEIGHT = jnp.asarray(RNG.uniform(0.5, 2, K), jnp.float32)
OPTIONS = {"label_smoothing": 0.2, "convention": "others", "weight": WEIGHT}


class Nnx:
    """An NNX head and its original, as functions of the parameters."""

    def __init__(self, **keywords):
        layer = {name: value for name, value in keywords.items() if name not in OPTIONS}
        self.head = own_nnx.LinearLoss(D, K, rngs=nnx.Rngs(0), **keywords)
        self.layer = nnx.Linear(D, K, rngs=nnx.Rngs(0), **layer)

    def of(self, model):
        graph, state, rest = nnx.split(model, nnx.Param, ...)
        dtype = model.param_dtype

        def call(parameters, *arguments, **options):
            own = {name: state[name].replace(parameters[name].astype(dtype)) for name in parameters}
            return nnx.merge(graph, nnx.State({**state, **own}), rest)(*arguments, **options)

        return call


class Linen:
    """The same of a Linen head."""

    def __init__(self, **keywords):
        layer = {name: value for name, value in keywords.items() if name not in OPTIONS}
        self.head, self.layer = own_linen.LinearLoss(K, **keywords), linen.Dense(K, **layer)

    def of(self, module):
        def call(parameters, *arguments, **options):
            own = jax.tree.map(lambda x: x.astype(module.param_dtype), parameters)
            return module.apply({"params": own}, *arguments, **options)

        return call


KINDS = pytest.mark.parametrize("kind", [Nnx, Linen])
PARAMETERS = {"kernel": KERNEL, "bias": BIAS}


def both(kind, **keywords):
    """(the head, what it is by definition) as functions of (parameters, hidden, labels)."""
    pair = kind(**keywords)
    head, layer = pair.of(pair.head), pair.of(pair.layer)
    options = {name: value for name, value in keywords.items() if name in OPTIONS}

    def composed(parameters, hidden, labels, **more):
        return ms.loss(layer(parameters, hidden), labels, **options | more)

    return head, composed


def close(found, expected, **settings):
    jax.tree.map(lambda x, y: assert_close(x, np.asarray(y, np.float64), **settings), found, expected)


# --- the layer's own arguments ----------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize(
    "dtypes", [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", "bfloat16"), (None, "bfloat16")]
)
def test_dtypes_are_those_of_the_layer(kind, dtypes):
    dtype, param_dtype = (None if name is None else jnp.dtype(name) for name in dtypes)
    head, composed = both(kind, dtype=dtype, param_dtype=param_dtype, **OPTIONS)
    found, expected = (jax.value_and_grad(f, (0, 1))(PARAMETERS, HIDDEN, LABELS) for f in (head, composed))
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)
    one = 2e-6 if dtype == jnp.float32 else 2.0**-7  # a product in bfloat16 may be rounded before or after its bias
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=one, atol=one), found, expected)


@KINDS
def test_the_products_are_made_by_the_layer_s_dot_general(kind):
    seen = []

    def halved(x, y, dimensions, **settings):
        seen.append(settings.get("precision"))
        return jax.lax.dot_general(x, y, dimensions, **settings) / 2

    head, composed = both(kind, dot_general=halved, precision="highest", **OPTIONS)
    found = jax.value_and_grad(head)(PARAMETERS, HIDDEN, LABELS)
    assert seen
    assert all("HIGHEST" in str(precision).upper() for precision in seen)
    close(found, jax.value_and_grad(composed)(PARAMETERS, HIDDEN, LABELS))


@KINDS
def test_a_precision_reaches_the_products(kind):
    head, _ = both(kind, precision="highest")
    assert "HIGHEST" in str(jax.make_jaxpr(jax.grad(head))(PARAMETERS, HIDDEN, LABELS))


@KINDS
def test_without_a_bias(kind):
    head, composed = both(kind, use_bias=False, **OPTIONS)
    kernel = {"kernel": KERNEL}
    close(jax.value_and_grad(head)(kernel, HIDDEN, LABELS), jax.value_and_grad(composed)(kernel, HIDDEN, LABELS))


# --- transformations --------------------------------------------------------------------------------------------------

TRANSFORMED = {
    "gradients": lambda f: jax.value_and_grad(f, (0, 1)),
    "jit": lambda f: jax.jit(jax.value_and_grad(f, (0, 1))),
    "forward": lambda f: lambda p, x, y: jax.jvp(lambda p, x: f(p, x, y), (p, x), (p, x)),
    "second derivatives": lambda f: lambda p, x, y: jax.jvp(jax.grad(lambda x: f(p, x, y)), (x,), (2 * x,)),
    "vmap": lambda f: lambda p, x, y: jax.vmap(jax.grad(f, 1), (None, 0, None))(p, jnp.stack([x, -x]), y),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(f)),
    "scan": lambda f: lambda p, x, y: jax.lax.scan(lambda c, x: (c + f(p, x, y), None), 0.0, jnp.stack([x, -x]))[0],
}  # fmt: skip


@KINDS
@pytest.mark.parametrize("mode", TRANSFORMED)
def test_transformations(kind, mode):
    head, composed = both(kind, **OPTIONS)
    found, expected = (TRANSFORMED[mode](f)(PARAMETERS, HIDDEN, LABELS) for f in (head, composed))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=2e-6), found, expected)


@KINDS
@pytest.mark.parametrize(
    "more", [{"reduction": "none"}, {"label_smoothing": 0.0}, {"convention": "torch", "z_loss": 0.1}]
)
def test_options_of_a_call_win(kind, more):
    head, composed = both(kind, **OPTIONS)
    close(head(PARAMETERS, HIDDEN, LABELS, **more), composed(PARAMETERS, HIDDEN, LABELS, **more))


@KINDS
def test_shapes_alone(kind):
    head, _ = both(kind, **OPTIONS)
    found = jax.eval_shape(jax.value_and_grad(head), PARAMETERS, HIDDEN, LABELS)
    assert jax.tree.map(jnp.shape, found) == ((), jax.tree.map(jnp.shape, PARAMETERS))


# --- objects ----------------------------------------------------------------------------------------------------------


def test_an_nnx_head_is_copied_split_and_hashed():
    head = own_nnx.LinearLoss(D, K, rngs=nnx.Rngs(0), **OPTIONS)
    expected = head(HIDDEN, LABELS)
    for twin in (copy.deepcopy(head), nnx.clone(head), nnx.merge(*nnx.split(head))):
        assert type(twin) is own_nnx.LinearLoss
        assert twin(HIDDEN, LABELS) == expected
    graph, state = nnx.split(head)
    assert hash(graph) == hash(nnx.split(nnx.clone(head))[0])
    assert graph == nnx.split(nnx.clone(head))[0]
    assert graph != nnx.split(own_nnx.LinearLoss(D, K, rngs=nnx.Rngs(0), **OPTIONS | {"label_smoothing": 0.3}))[0]
    assert pickle.loads(pickle.dumps(graph)) == graph
    assert nnx.jit(lambda head: head(HIDDEN, LABELS))(head) == pytest.approx(float(expected), rel=1e-6)
    trained = nnx.grad(lambda head: head(HIDDEN, LABELS))(head)
    assert sorted(nnx.to_pure_dict(trained)) == ["bias", "kernel"]
    assert "weight" in nnx.to_pure_dict(state)


def test_an_nnx_linear_loads_and_a_head_becomes_one():
    head, layer = own_nnx.LinearLoss(D, K, rngs=nnx.Rngs(0), **OPTIONS), nnx.Linear(D, K, rngs=nnx.Rngs(1))
    nnx.update(head, nnx.state(layer, nnx.Param))
    np.testing.assert_array_equal(head.logits(HIDDEN), layer(HIDDEN))
    other = nnx.Linear(D, K, rngs=nnx.Rngs(2))
    nnx.update(other, nnx.state(head, nnx.Param))
    np.testing.assert_array_equal(other(HIDDEN), layer(HIDDEN))


def test_a_linen_head_is_copied_hashed_and_compared():
    head = own_linen.LinearLoss(K, **OPTIONS)
    params = {"params": PARAMETERS}
    expected = head.apply(params, HIDDEN, LABELS)
    for twin in (copy.deepcopy(head), head.clone(), head.copy()):
        assert type(twin) is own_linen.LinearLoss
        assert hash(twin) == hash(head)
        assert twin == head
        assert twin.apply(params, HIDDEN, LABELS) == expected
    assert head != own_linen.LinearLoss(K, **OPTIONS | {"weight": WEIGHT + 1})
    assert head.clone(label_smoothing=0.0).apply(params, HIDDEN, LABELS) != expected
    static = jax.jit(lambda head, params: head.apply(params, HIDDEN, LABELS), static_argnums=0)
    assert static(head, params) == pytest.approx(float(expected), rel=1e-6)
    assert head.bind(params)(HIDDEN, LABELS) == expected
    assert "LinearLoss" in repr(head)
    assert "kernel" in head.tabulate(jax.random.key(0), HIDDEN, LABELS)


@pytest.mark.parametrize("lifted", [linen.jit, linen.remat])
def test_a_linen_head_inside_a_lifted_model(lifted):
    class Model(linen.Module):
        @linen.compact
        def __call__(self, hidden, labels):
            return lifted(own_linen.LinearLoss)(K, name="head", **OPTIONS)(linen.relu(hidden), labels)

    params = {"params": {"head": PARAMETERS}}
    found = jax.value_and_grad(Model().apply)(params, HIDDEN, LABELS)
    _, composed = both(Linen, **OPTIONS)
    value, slopes = jax.value_and_grad(composed)(PARAMETERS, linen.relu(HIDDEN), LABELS)
    close(found, (value, {"params": {"head": slopes}}))


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda **options: own_nnx.LinearLoss(D, K, rngs=nnx.Rngs(0), **options),
    lambda **options: own_linen.LinearLoss(K, **options),
])  # fmt: skip
def test_a_misspelt_option_is_refused_when_the_head_is_made(make):
    with pytest.raises(TypeError, match="label_smoothing"):
        make(smoothing=0.1)


@KINDS
def test_the_caller_s_array_may_change_afterwards(kind):
    weight = np.array(WEIGHT)
    pair = kind(weight=weight)
    head, expected = pair.of(pair.head), both(kind, weight=WEIGHT)[0](PARAMETERS, HIDDEN, LABELS)
    weight[:] = 7
    assert head(PARAMETERS, HIDDEN, LABELS) == expected


# --- Loss -------------------------------------------------------------------------------------------------------------


def test_the_module_is_the_loss():
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(len(LABELS), K)))
    module = own_nnx.Loss(**OPTIONS)
    value, slope = nnx.jit(jax.value_and_grad(module))(logits, LABELS)
    expected, own = jax.value_and_grad(ms.loss)(logits, LABELS, **OPTIONS)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(slope, own, rtol=1e-5, atol=1e-8)
    each = module(logits, LABELS, reduction="none", label_smoothing=0.0)
    np.testing.assert_array_equal(
        each, ms.loss(logits, LABELS, **OPTIONS | {"reduction": "none", "label_smoothing": 0.0})
    )


def test_the_module_s_arrays_are_state_and_not_trained():
    module, other = own_nnx.Loss(**OPTIONS), own_nnx.Loss(**OPTIONS | {"weight": WEIGHT + 1})
    assert list(nnx.state(module)) == ["weight"]
    assert not nnx.state(module, nnx.Param)
    nnx.update(module, nnx.state(other))
    np.testing.assert_array_equal(module.options["weight"], WEIGHT + 1)
    with pytest.raises(
        TypeError, match=r"Loss\(\) got an unexpected keyword argument 'smoothing'. Did you mean label_"
    ):
        own_nnx.Loss(smoothing=0.1)
    with pytest.raises(TypeError, match="chunk_rows"):
        own_nnx.Loss(chunk_rows=2)
