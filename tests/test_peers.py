"""Real peers, run here: torch, optax, Keras on JAX, and fairseq's criterion by its two lines."""

import os

import numpy as np
import pytest
from requirements import need

import multismooth.numpy as ms
from multismooth import conventions

RNG = np.random.default_rng(0)
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def problem(seed, classes=6, rows=7):
    rng = np.random.default_rng(seed)
    logits, labels = 2 * rng.normal(size=(rows, classes)), rng.integers(0, classes, rows)
    labels[rng.random(rows) < 0.2] = -100
    soft = rng.dirichlet(np.ones(classes), rows)
    return logits, labels, soft, rng.uniform(0.5, 2, classes), rng.uniform(0, 0.5)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch(seed, reduction):
    torch = need("torch")
    logits, labels, soft, weight, epsilon = problem(seed)
    labels[0] = 1
    weight = weight if seed % 2 else None
    for targets in (labels, soft):
        z = torch.tensor(logits, requires_grad=True)
        other = None if weight is None else torch.tensor(weight)
        theirs = torch.nn.functional.cross_entropy(
            z, torch.tensor(targets), weight=other, label_smoothing=epsilon, reduction=reduction
        )
        (slope,) = torch.autograd.grad(theirs.sum(), z)
        ours, gradient = ms.loss_and_grad(logits, targets, label_smoothing=epsilon, weight=weight, reduction=reduction)
        np.testing.assert_allclose(ours, theirs.detach(), **EXACT)
        np.testing.assert_allclose(gradient, slope, **EXACT)


def test_torch_kl_div_on_smoothed_targets_differs_by_the_entropy_alone():
    torch = need("torch")
    logits, labels, _, _, epsilon = problem(3)
    labels = np.abs(labels) % 6
    q = ms.smooth_targets(labels, 6, label_smoothing=epsilon)
    z = torch.tensor(logits, requires_grad=True)
    kl = torch.nn.functional.kl_div(torch.log_softmax(z, 1), torch.tensor(q), reduction="batchmean")
    (slope,) = torch.autograd.grad(kl, z)
    loss, gradient = ms.loss_and_grad(logits, labels, label_smoothing=epsilon)
    np.testing.assert_allclose(gradient, slope, **EXACT)
    np.testing.assert_allclose(loss - kl.item(), -np.sum(q * np.log(q)) / len(q), **EXACT)


@pytest.mark.parametrize("pos_weight", [None, 1.7])
def test_torch_binary(pos_weight):
    torch = need("torch")
    logits, _, soft, _, epsilon = problem(5)
    weight = None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64)
    targets = torch.tensor(soft * (1 - epsilon) + epsilon / 2)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(logits), targets, pos_weight=weight)
    np.testing.assert_allclose(
        ms.binary_loss(logits, soft, label_smoothing=epsilon, pos_weight=pos_weight), theirs, **EXACT
    )


@pytest.fixture
def x64():
    jax = need("jax")
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(10))
def test_optax(seed):
    jax, optax = need("jax"), need("optax")
    logits, labels, soft, _, epsilon = problem(seed)
    labels = np.abs(labels) % 6
    for targets, rows in ((labels, np.eye(6)[labels]), (soft, soft)):

        def theirs(z, rows=rows):
            return optax.softmax_cross_entropy(z, optax.smooth_labels(jax.numpy.asarray(rows), epsilon)).mean()

        value, slope = jax.value_and_grad(theirs)(jax.numpy.asarray(logits))
        ours, gradient = ms.loss_and_grad(logits, targets, label_smoothing=epsilon, convention="optax")
        np.testing.assert_allclose(ours, value, **EXACT)
        np.testing.assert_allclose(gradient, slope, **EXACT)
    integer = optax.softmax_cross_entropy_with_integer_labels(jax.numpy.asarray(logits), labels)
    np.testing.assert_allclose(ms.loss(logits, labels, label_smoothing=0.0, reduction="none"), integer, **EXACT)


@pytest.mark.usefixtures("x64")
def test_optax_with_classes_that_do_not_exist():
    """A masked class: −inf in the original's safe function, a mask in ours."""
    jax, optax = need("jax"), need("optax")
    logits, labels = RNG.normal(size=(5, 4)), np.array([0, 1, 2, 0, 1])
    masked = np.where(np.arange(4) < 3, logits, -np.inf)
    rows = np.concatenate([ms.smooth_targets(labels, 3, label_smoothing=0.3), np.zeros((5, 1))], axis=1)
    theirs = optax.safe_softmax_cross_entropy(jax.numpy.asarray(masked), jax.numpy.asarray(rows))
    ours = ms.loss(masked, labels, label_smoothing=0.3, class_mask=np.arange(4) < 3, reduction="none")
    np.testing.assert_allclose(ours, theirs, **EXACT)


@pytest.mark.usefixtures("x64")
def test_optax_sigmoid():
    jax, optax = need("jax"), need("optax")
    logits, _, soft, _, epsilon = problem(8)
    rows = jax.numpy.asarray(soft * (1 - epsilon) + epsilon / 2)
    theirs = optax.sigmoid_binary_cross_entropy(jax.numpy.asarray(logits), rows)
    np.testing.assert_allclose(ms.binary_loss(logits, soft, label_smoothing=epsilon, reduction="none"), theirs, **EXACT)


def test_keras_on_jax():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = need("keras")
    if keras.backend.backend() != "jax":
        pytest.skip(f"Keras runs on {keras.backend.backend()} here")
    logits, labels, soft, _, epsilon = problem(4)
    labels, single = np.abs(labels) % 6, logits.astype(np.float32)
    for targets, rows in ((labels, np.eye(6)[labels]), (soft, soft)):
        theirs = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=epsilon)(
            rows.astype(np.float32), single
        )
        ours = ms.loss(single, targets, label_smoothing=epsilon, convention="keras")
        np.testing.assert_allclose(ours, theirs, rtol=2e-6)
    binary = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=epsilon)
    np.testing.assert_allclose(
        ms.binary_loss(single, soft, label_smoothing=epsilon), binary(soft.astype(np.float32), single), rtol=2e-6
    )


@pytest.mark.parametrize("seed", range(10))
def test_fairseq(seed):
    logits, labels, _, _, epsilon = problem(seed)
    labels, epsilon = np.abs(labels) % 6, 0.8 * epsilon
    lp = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    each = epsilon / (6 - 1)
    nll, smooth = -lp[np.arange(7), labels], -lp.sum(1)
    theirs = ((1 - epsilon - each) * nll + each * smooth).sum()
    ours = ms.loss(logits, labels, label_smoothing=epsilon, convention="fairseq", reduction="sum")
    np.testing.assert_allclose(ours, theirs, **EXACT)
    other = conventions["fairseq"].smoothing_for(conventions["torch"], epsilon, 6)
    np.testing.assert_allclose(ms.loss(logits, labels, label_smoothing=other, reduction="sum"), theirs, **EXACT)
