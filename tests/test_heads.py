"""The heads are the framework's own linear layer, and their forward is `linear_loss`."""

import numpy as np
import pytest
from requirements import need

RNG = np.random.default_rng(0)
HIDDEN, KERNEL, BIAS = RNG.normal(size=(6, 4)), RNG.normal(size=(5, 4)), RNG.normal(size=5)
LABELS = np.array([0, 1, -100, 3, 4, 2])
SETTINGS = {"label_smoothing": 0.2, "convention": "others"}


def expected(**options):
    ms = need("multismooth.numpy")
    return ms.loss((HIDDEN @ KERNEL.T + BIAS).astype(np.float32), LABELS, **SETTINGS | options)


def torch_head(**options):
    torch = need("torch")
    head = need("multismooth.torch").LinearLoss(4, 5, **SETTINGS)
    state = {"weight": torch.tensor(KERNEL, dtype=torch.float32), "bias": torch.tensor(BIAS, dtype=torch.float32)}
    head.load_state_dict(state)
    return head(torch.tensor(HIDDEN, dtype=torch.float32), torch.tensor(LABELS), **options).detach().numpy()


def nnx_head(**options):
    jnp, nnx = need("jax.numpy"), need("flax.nnx")
    head = need("multismooth.flax.nnx").LinearLoss(4, 5, rngs=nnx.Rngs(0), **SETTINGS)
    init = {"kernel_init": lambda *_: jnp.asarray(KERNEL.T), "bias_init": lambda *_: jnp.asarray(BIAS)}
    linear = nnx.Linear(4, 5, rngs=nnx.Rngs(1), **init)
    nnx.update(head, nnx.state(linear))
    return np.asarray(head(jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(LABELS), **options))


def linen_head(**options):
    jnp, linen = need("jax.numpy"), need("multismooth.flax.linen")
    dense = {"params": {"kernel": jnp.asarray(KERNEL.T, jnp.float32), "bias": jnp.asarray(BIAS, jnp.float32)}}
    head = linen.LinearLoss(5, **SETTINGS)
    return np.asarray(head.apply(dense, jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(LABELS), **options))


@pytest.mark.parametrize("head", [torch_head, nnx_head, linen_head])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.0}, {"reduction": "none"}, {"reduction": "sum"}])
def test_the_head_is_the_loss_of_its_logits(head, options):
    np.testing.assert_allclose(head(**options), expected(**options), rtol=2e-6)


def test_torch_state_goes_both_ways_and_a_step_lowers_the_loss():
    torch = need("torch")
    head = need("multismooth.torch").LinearLoss(4, 5, label_smoothing=0.1)
    linear = torch.nn.Linear(4, 5)
    linear.load_state_dict(head.state_dict())
    head.load_state_dict(linear.state_dict())
    hidden, labels = torch.tensor(HIDDEN, dtype=torch.float32), torch.tensor(LABELS)
    torch.testing.assert_close(head.logits(hidden), linear(hidden))
    assert "label_smoothing=0.1" in repr(head)
    assert "bias=False" in repr(need("multismooth.torch").LinearLoss(4, 5, bias=False))
    before = head(hidden, labels)
    before.backward()
    torch.optim.SGD(head.parameters(), 0.1).step()
    assert head(hidden, labels) < before


def test_nnx_trains_and_predicts():
    jnp, nnx = need("jax.numpy"), need("flax.nnx")
    head = need("multismooth.flax.nnx").LinearLoss(4, 5, rngs=nnx.Rngs(0))
    hidden, labels = jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(LABELS)
    before, gradient = nnx.value_and_grad(lambda head: head(hidden, labels))(head)
    step = {name: -0.1 * slope for name, slope in nnx.to_pure_dict(gradient).items()}
    now = nnx.to_pure_dict(nnx.state(head, nnx.Param))
    nnx.update(head, {name: now[name] + step[name] for name in step})
    assert head(hidden, labels) < before
    assert head.logits(hidden).shape == (6, 5)
    bare = need("multismooth.flax.nnx").LinearLoss(4, 5, use_bias=False, rngs=nnx.Rngs(0))
    assert bare(hidden, labels).shape == ()


def test_linen_has_the_parameters_of_dense_and_predicts():
    jax, jnp, nn = need("jax"), need("jax.numpy"), need("flax.linen")
    head = need("multismooth.flax.linen").LinearLoss(5)
    hidden, labels = jnp.asarray(HIDDEN, jnp.float32), jnp.asarray(LABELS)
    params = head.init(jax.random.key(0), hidden, labels)
    dense = nn.Dense(5).init(jax.random.key(0), hidden)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, dense)
    logits = head.apply(params, hidden, method="logits")
    np.testing.assert_allclose(logits, nn.Dense(5).apply(params, hidden), rtol=1e-6)
    bare = need("multismooth.flax.linen").LinearLoss(5, use_bias=False)
    assert list(bare.init(jax.random.key(0), hidden, labels)["params"]) == ["kernel"]
    assert bare.apply(bare.init(jax.random.key(0), hidden, labels), hidden, method="logits").shape == (6, 5)
