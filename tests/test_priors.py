"""`unigram_prior` and `OnlinePrior` against counting by hand, in every backend and dispatching."""

import pickle
from contextlib import nullcontext
from importlib import import_module

import numpy as np
import pytest
from requirements import need

import multismooth
from multismooth.parity.doctor import jax_x64

MODULES = ("numpy", "torch", "jax")


def arrays(framework, *values):
    if framework == "torch":
        return [need("torch").from_numpy(value) for value in values]
    return [need("jax.numpy").asarray(value) for value in values] if framework == "jax" else list(values)


@pytest.fixture(params=MODULES)
def framework(request):
    need(request.param)
    with jax_x64(True) if request.param == "jax" else nullcontext():
        yield request.param


def test_unigram_counts_labels(framework):
    labels = np.array([[0, 2, 2], [-100, 3, 2]])
    for function in (import_module(f"multismooth.{framework}").unigram_prior, multismooth.unigram_prior):
        (given,) = arrays(framework, labels)
        found = np.asarray(function(given, 5))
        np.testing.assert_allclose(found, np.array([2, 1, 4, 2, 1]) / 10, rtol=1e-6)
        np.testing.assert_allclose(
            np.asarray(function(given, 5, pseudo_count=0)), np.array([1, 0, 3, 1, 0]) / 5, rtol=1e-6
        )
        (given,) = arrays(framework, np.where(labels == -100, 2, labels))
        found = np.asarray(function(given, 5, pseudo_count=0.5, ignore_index=2))
        np.testing.assert_allclose(found, np.array([1.5, 0.5, 0.5, 1.5, 0.5]) / 4.5, rtol=1e-6)


def test_unigram_is_a_prior_of_the_loss(framework):
    logits, labels = arrays(framework, np.zeros((4, 3)), np.array([0, 1, 1, -100]))
    prior = multismooth.unigram_prior(labels, 3)
    assert float(multismooth.loss(logits, labels, prior=prior)) == pytest.approx(np.log(3))


def by_hand(batches, classes):
    """The matrix that the paper describes, one element at a time."""
    sums, counts = np.zeros((classes, classes)), np.zeros(classes)
    for logits, labels in batches:
        for z, y in zip(logits.reshape(-1, classes), labels.ravel(), strict=True):
            if y >= 0 and np.argmax(z) == y:
                p = np.exp(z - z.max())
                sums[y] += p / p.sum()
                counts[y] += 1
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], 1 / classes), counts


@pytest.mark.parametrize("dispatching", [False, True])
def test_online_prior_is_the_mean_prediction(framework, dispatching):
    rng = np.random.default_rng(0)
    module = multismooth if dispatching else import_module(f"multismooth.{framework}")
    state = module.OnlinePrior.start(4)
    np.testing.assert_allclose(np.asarray(state.prior), 0.25)
    for _ in range(2):
        batches = []
        for _ in range(3):
            logits, labels = rng.normal(size=(5, 6, 4)) * 3, rng.integers(0, 3, (5, 6))
            labels[0, :2], logits[0, :2] = -100, np.nan
            batches.append((logits, labels))
            before = np.asarray(state.sums).copy()
            later = state.update(*arrays(framework, logits, labels))
            assert np.array_equal(np.asarray(state.sums), before), "a state was written to"
            state = later
        expected, counts = by_hand(batches, 4)
        np.testing.assert_array_equal(np.asarray(state.counts), counts)
        state = state.next_epoch()
        assert not np.asarray(state.sums).any()
        np.testing.assert_allclose(np.asarray(state.prior), expected, rtol=2e-6)
        assert expected[3, 3] == 0.25  # never a label
    again = pickle.loads(pickle.dumps(state))
    assert type(again) is type(state)
    np.testing.assert_array_equal(np.asarray(again.prior), np.asarray(state.prior))
    logits, labels = arrays(framework, rng.normal(size=(5, 4)), np.arange(5) % 4)
    assert np.isfinite(float(multismooth.loss(logits, labels, label_smoothing=0.5, prior=state.prior)))


def test_online_prior_takes_another_class_axis(framework):
    logits, labels = (
        np.random.default_rng(0).normal(size=(2, 3, 5, 7)),
        np.random.default_rng(1).integers(0, 3, (2, 5, 7)),
    )
    state = multismooth.OnlinePrior.start(3).update(*arrays(framework, logits, labels), axis=1)
    expected, counts = by_hand([(np.moveaxis(logits, 1, -1), labels)], 3)
    np.testing.assert_array_equal(np.asarray(state.counts), counts)
    np.testing.assert_allclose(np.asarray(state.next_epoch().prior), expected, rtol=2e-6)


def test_online_prior_refuses_other_classes(framework):
    state = multismooth.OnlinePrior.start(3)
    for logits, labels, message in (
        (np.zeros((2, 4)), np.array([0, 1]), r"`logits`: expected 3 classes, .*OnlinePrior.start\(4\)"),
        (np.zeros((2, 3)), np.array([0, 3]), "`targets`: expected labels"),
        (np.zeros((2, 3)), np.array([0.0, 1.0]), "`targets`: expected integer labels"),
    ):
        with pytest.raises(ValueError, match=message):
            state.update(*arrays(framework, logits, labels))


@pytest.mark.compiles
def test_online_prior_passes_through_jit():
    jax = need("jax")
    z, y = jax.numpy.eye(3) * 4, jax.numpy.array([0, 1, 7])
    state = jax.jit(lambda state, z, y: state.update(z, y).next_epoch())(multismooth.jax.OnlinePrior.start(3), z, y)
    assert type(state) is multismooth.jax.OnlinePrior
    np.testing.assert_allclose(state.prior.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(state.prior[2], 1 / 3)  # 7 names no class, so it is right nowhere
    assert np.isnan(jax.jit(lambda y: multismooth.unigram_prior(y, 3))(y)).all()
    assert np.isfinite(jax.jit(lambda y: multismooth.unigram_prior(y, 8))(y)).all()


def test_online_prior_keeps_no_graph():
    torch = need("torch")
    z = torch.eye(3, requires_grad=True)
    assert not multismooth.OnlinePrior.start(3).update(z * 2, torch.arange(3)).sums.requires_grad
