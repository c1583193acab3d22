"""An element that is switched off (its label ignored, its weight 0) may hold anything, in every function."""

import importlib
import warnings

import numpy as np
import pytest
from requirements import need

from multismooth import Convention, SmoothingError

NAN, RNG = float("nan"), np.random.default_rng(3)
LOGITS = RNG.normal(size=(6, 4))
HIDDEN, CLASSIFIER = RNG.normal(size=(6, 5)), RNG.normal(size=(4, 5))
LABELS = np.array([0, 3, 1, 2, 0, 1])
OFF = np.array([False, True, False, False, True, False])
GARBAGE = (NAN, np.inf, -np.inf, -7.0, 1e30)


@pytest.fixture(params=["numpy", "torch", "jax"])
def ms(request):
    need(request.param)
    return importlib.import_module(f"multismooth.{request.param}")


def own(ms, array):
    if not isinstance(array, np.ndarray):
        return array
    if ms.__name__.endswith("torch"):
        return need("torch").from_numpy(np.array(array))
    return need("jax").device_put(array) if ms.__name__.endswith("jax") else array


def call(ms, function, *arrays, **settings):
    return getattr(ms, function)(*(own(ms, x) for x in arrays), **{name: own(ms, x) for name, x in settings.items()})


def same(found, expected):
    for one, other in zip(found, expected, strict=True):
        if one is not None:
            np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=2e-6, atol=1e-7)


def spoilt(array, off, value):
    return np.where(off.reshape(off.shape + (1,) * (array.ndim - off.ndim)), value, array)


def gradients(ms, function, *arrays, wrt=(0,), **settings):
    """The loss and its gradients with respect to arrays, or settings, by autodiff."""
    names = [name for name in wrt if isinstance(name, str)]
    places = [k for k in wrt if isinstance(k, int)]
    arrays = [own(ms, x) for x in arrays]
    settings = {name: own(ms, x) for name, x in settings.items()}
    if ms.__name__.endswith("torch"):
        leaves = [arrays[k].requires_grad_() for k in places] + [settings[name].requires_grad_() for name in names]
        loss = getattr(ms, function)(*arrays, **settings)
        return loss.detach(), *need("torch").autograd.grad(loss, leaves)

    def of(*leaves):
        given = list(arrays)
        for k, leaf in zip(places, leaves[: len(places)], strict=True):
            given[k] = leaf
        more = dict(zip(names, leaves[len(places) :], strict=True))
        return getattr(ms, function)(*given, **{**settings, **more})

    leaves = [arrays[k] for k in places] + [settings[name] for name in names]
    loss, found = need("jax").value_and_grad(of, argnums=tuple(range(len(leaves))))(*leaves)
    return loss, *found


CONVENTIONS = {
    "torch": "torch",
    "others": "others",
    "kl": Convention(objective="kl"),
    "classy": Convention(smoothing_map="classy"),
}
WAYS = {
    "ignored": {},
    "ignored as 2": {"ignore_index": 2},
    "weight 0": {"sample_weight": np.where(OFF, 0.0, 1.5)},
    "weight False": {"sample_weight": ~OFF},
    "a column of weights": {"sample_weight": np.where(OFF, 0.0, 0.5)},
}


def off_labels(way):
    """Labels of a call in which the elements of OFF do not count; those of weight 0 name no class."""
    if way == "ignored":
        return np.where(OFF, -100, LABELS)
    return np.where(OFF, 2 if way == "ignored as 2" else 9, np.where(LABELS == 2, 3, LABELS))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("value", [NAN, -7.0])
def test_ε_logits_and_features(ms, way, value, convention):
    epsilon, labels = np.full(6, 0.2), off_labels(way)
    settings = {"convention": CONVENTIONS[convention], "z_loss": 0.01, **WAYS[way]}
    bad = spoilt(epsilon, OFF, value)
    for function, arrays in (
        ("loss", (LOGITS,)),
        ("terms", (LOGITS,)),
        ("linear_loss", (HIDDEN, CLASSIFIER)),
    ):
        first, *rest = arrays
        expected = call(ms, function, first, *rest, labels, label_smoothing=epsilon, **settings)
        found = call(ms, function, spoilt(first, OFF, value), *rest, labels, label_smoothing=bad, **settings)
        same(found if function == "terms" else [found], expected if function == "terms" else [expected])
    for function, arrays in (("loss_and_grad", (LOGITS,)), ("linear_loss_and_grad", (HIDDEN, CLASSIFIER))):
        first, *rest = arrays
        loss, expected = call(ms, function, first, *rest, labels, label_smoothing=epsilon, **settings)
        again, found = call(ms, function, spoilt(first, OFF, value), *rest, labels, label_smoothing=bad, **settings)
        same(
            [again, *(found if isinstance(found, tuple) else [found])],
            [loss, *(expected if isinstance(expected, tuple) else [expected])],
        )


@pytest.mark.parametrize("value", GARBAGE)
def test_ε_of_rows_and_corrections(ms, value):
    epsilon, labels = np.full(6, 0.2), np.where(OFF, -100, LABELS)
    bad = spoilt(epsilon, OFF, value)
    same(
        [call(ms, "smooth_targets", labels, 4, label_smoothing=bad)],
        [call(ms, "smooth_targets", labels, 4, label_smoothing=epsilon)],
    )
    same(
        [call(ms, "smoothing_correction", spoilt(HIDDEN, OFF, value), CLASSIFIER, labels, label_smoothing=bad)],
        [call(ms, "smoothing_correction", HIDDEN, CLASSIFIER, labels, label_smoothing=epsilon)],
    )


@pytest.mark.parametrize("value", GARBAGE)
def test_sample_weights_of_ignored_elements(ms, value):
    labels, weight = np.where(OFF, -100, LABELS), np.linspace(0.5, 2, 6)
    for function, arrays in (
        ("loss", (LOGITS,)),
        ("linear_loss", (HIDDEN, CLASSIFIER)),
        ("smoothing_correction", (HIDDEN, CLASSIFIER)),
    ):
        same(
            [call(ms, function, *arrays, labels, sample_weight=spoilt(weight, OFF, value))],
            [call(ms, function, *arrays, labels, sample_weight=weight)],
        )


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("kind", ["number", "bool"])
def test_soft_rows(ms, value, kind):
    rows = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    weight = ~OFF if kind == "bool" else np.where(OFF, 0.0, 1.5)
    for function, arrays in (("loss_and_grad", (LOGITS,)), ("linear_loss_and_grad", (HIDDEN, CLASSIFIER))):
        first, *rest = arrays
        good = call(ms, function, first, *rest, rows, sample_weight=weight)
        bad = call(ms, function, spoilt(first, OFF, value), *rest, spoilt(rows, OFF, value), sample_weight=weight)
        for one, other in zip(good, bad, strict=True):
            same(other if isinstance(other, tuple) else [other], one if isinstance(one, tuple) else [one])


ENTRIES = RNG.random((6, 4)) < 0.4


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("kind", ["number", "bool"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_entries(ms, value, kind, reduction):
    """Missing labels of multi-label data, with whatever stands there in everything that is given per entry."""
    t, π, ε = RNG.random((6, 4)), RNG.uniform(0.5, 2, (6, 4)), RNG.uniform(0, 0.4, (6, 4))
    weight = ~ENTRIES if kind == "bool" else np.where(ENTRIES, 0.0, RNG.uniform(0.5, 2, (6, 4)))

    def of(spoil):
        given = (np.where(ENTRIES, value, x) if spoil else x for x in (LOGITS, t, π, ε))
        z, targets, positive, smoothing = given
        settings = {"pos_weight": positive, "label_smoothing": smoothing, "sample_weight": weight}
        return (z, targets), {**settings, "reduction": reduction}

    good, bad = of(False), of(True)
    same([call(ms, "binary_loss", *bad[0], **bad[1])], [call(ms, "binary_loss", *good[0], **good[1])])
    if ms.__name__.endswith("numpy") or reduction == "none":
        return
    wrt = (0, 1, "pos_weight", "label_smoothing")
    expected = gradients(ms, "binary_loss", *good[0], wrt=wrt, **good[1])
    found = gradients(ms, "binary_loss", *bad[0], wrt=wrt, **bad[1])
    same(found, expected)
    for gradient in found[1:]:
        assert not np.asarray(gradient)[ENTRIES].any()


@pytest.mark.parametrize("value", GARBAGE)
def test_gradients_by_autodiff(value, ms):
    if ms.__name__.endswith("numpy"):
        pytest.skip("NumPy has no autodiff")
    labels, epsilon = np.where(OFF, -100, LABELS), np.full(6, 0.2)
    for convention in ("torch", Convention(objective="kl"), Convention(smoothing_map="classy")):
        settings = {"convention": convention, "z_loss": 0.01}
        wrt = (0, "label_smoothing")
        expected = gradients(ms, "loss", LOGITS, labels, label_smoothing=epsilon, wrt=wrt, **settings)
        bad = spoilt(epsilon, OFF, value)
        found = gradients(ms, "loss", spoilt(LOGITS, OFF, value), labels, label_smoothing=bad, wrt=wrt, **settings)
        same(found, expected)


def test_what_counts_is_still_checked(ms):
    labels = np.where(OFF, -100, LABELS)
    with pytest.raises(SmoothingError, match=r"got nan at \(2,\), 1 in all"):
        call(ms, "loss", LOGITS, labels, label_smoothing=np.array([0, NAN, NAN, 0, NAN, 0]))
    with pytest.raises(ValueError, match=r"`sample_weight`: .*got nan at \(0,\), 1 in all"):
        call(ms, "loss", LOGITS, labels, sample_weight=np.array([NAN, NAN, 1, 1, 1, 1]))
    with pytest.raises(ValueError, match=r"`targets`: expected values in \[0, 1\]; got nan at \(0, 0\), 1 in all"):
        call(ms, "binary_loss", np.zeros((1, 2)), np.full((1, 2), NAN), sample_weight=np.array([[1.0, 0]]))
    with pytest.raises(ValueError, match=r"`pos_weight`: .*got inf at \(0, 0\), 1 in all"):
        call(
            ms, "binary_loss", np.zeros((1, 2)), np.ones((1, 2)), sample_weight=np.array([[1.0, 0]]),
            pos_weight=np.array([np.inf, np.inf]),
        )  # fmt: skip


def test_what_is_off_does_not_warn(ms):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(ms, "loss", LOGITS, np.where(OFF, -100, LABELS), label_smoothing=np.where(OFF, 0.9, 0.1))
        call(ms, "binary_loss", LOGITS, LOGITS > 0, label_smoothing=np.where(ENTRIES, 0.9, 0.1), sample_weight=~ENTRIES)


def test_a_prior_without_mass_at_an_ignored_element(ms):
    """Its mask may leave classes that the prior has nothing for."""
    mask, labels = np.ones((6, 4), bool), np.where(OFF, -100, LABELS)
    mask[OFF] = [False, False, False, True]
    prior = np.array([0.5, 0.25, 0.25, 0.0])
    settings = {"prior": prior, "class_mask": mask}
    labels = np.where(labels == 3, 0, labels)
    full = {"prior": prior, "class_mask": np.ones(4, bool)}
    good, bad = (call(ms, "loss_and_grad", LOGITS, labels, **given) for given in (full, settings))
    same(bad, good)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_traced_ε_outside_0_and_1_is_nan_for_its_element_alone(framework):
    """Where nobody can look, as in a compiler; what is off is nothing even there."""
    need(framework)
    ms = importlib.import_module(f"multismooth.{framework}")
    labels = own(ms, np.where(OFF, -100, LABELS))
    epsilon = own(ms, np.array([0.1, NAN, 1.5, -0.1, 7.0, 1.0]))

    def loss(logits, labels, epsilon):
        return ms.loss(logits, labels, label_smoothing=epsilon, reduction="none")

    if framework == "torch":
        traced = need("torch").compile(loss, backend="eager", fullgraph=True)
    else:
        traced = need("jax").jit(loss)
    found = np.asarray(traced(own(ms, LOGITS), labels, epsilon))
    assert np.isnan(found).tolist() == [False, False, True, True, False, False]
    assert not found[OFF].any()
