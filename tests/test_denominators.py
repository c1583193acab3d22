"""The mean over nothing is 0. A denominator of 0 of anything else is an error where it can be seen (see bad_calls), and
NaN elsewhere: under a trace, on a device that nobody asks, with validate=False."""

import importlib
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from problems import DENOMINATORS
from requirements import interpreted, need

import multismooth
from multismooth import conventions

RNG = np.random.default_rng(8)
LOGITS, LABELS = RNG.normal(size=(6, 4)), np.array([0, 1, 2, 3, 0, 1])
HIDDEN, CLASSIFIER = RNG.normal(size=(6, 5)), RNG.normal(size=(4, 5))
NOTHING = {
    "ignored": {"targets": LABELS * 0 - 100},
    "weight 0": {"sample_weight": np.zeros(6)},
    "weight False": {"sample_weight": np.zeros(6, bool)},
    "a 0-d weight of 0": {"sample_weight": np.array(0.0)},
}
FUNCTIONS = ("loss", "loss_and_grad", "linear_loss", "linear_loss_and_grad", "smoothing_correction", "binary_loss")


@pytest.fixture(params=["numpy", "torch", "jax"])
def ms(request):
    need(request.param)
    return importlib.import_module(f"multismooth.{request.param}")


def own(ms, array):
    if not isinstance(array, np.ndarray):
        return array
    if ms.__name__.endswith("torch"):
        return need("torch").from_numpy(array.copy())
    return need("jax").device_put(array) if ms.__name__.endswith("jax") else array


def given(function, targets=LABELS, **settings):
    if function == "binary_loss":
        return {"logits": LOGITS[:, 0], "targets": (targets > 1) * 1.0, **settings}
    if function in ("loss", "loss_and_grad", "terms"):
        return {"logits": LOGITS, "targets": targets, **settings}
    return {"hidden": HIDDEN, "classifier": CLASSIFIER, "targets": targets, **settings}


def call(ms, function, **arguments):
    return getattr(ms, function)(**{name: own(ms, value) for name, value in arguments.items()})


def flat(result):
    parts = result if isinstance(result, tuple) else (result,)
    return [
        x for part in parts if part is not None for x in (flat(part) if isinstance(part, tuple) else [np.asarray(part)])
    ]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_mean_over_nothing_is_0(ms, function):
    for way, nothing in NOTHING.items():
        if function == "binary_loss" and way == "ignored":  # it ignores no label
            continue
        for normalizer, validate in product((None, 0, np.array(0.0), 3.0), (None, False)):
            arguments = given(function, **nothing, normalizer=normalizer, validate=validate)
            for part in flat(call(ms, function, **arguments)):
                assert not part.any(), (way, normalizer, validate)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("normalizer", [0, 0.0, np.array(0.0)])
def test_0_of_something_is_nan_where_nobody_looks(ms, function, normalizer):
    for settings in ({}, {"sample_weight": np.array([0, 0, 0, 0, 0, 1.0])}):
        loss, *gradients = flat(
            call(ms, function, **given(function, normalizer=normalizer, validate=False, **settings))
        )
        assert np.isnan(loss)
        assert all(np.isnan(gradient).any() for gradient in gradients)


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name != "binary_loss"])
def test_the_empty_call_is_0(ms, function):
    empty = {"logits": LOGITS[:0], "hidden": HIDDEN[:0], "targets": LABELS[:0]}
    for normalizer in (None, 0, np.array(0.0)):
        arguments = given(function, normalizer=normalizer)
        arguments |= {name: empty[name] for name in empty if name in arguments}
        for part in flat(call(ms, function, **arguments)):
            assert not part.any()


def compiled(framework, function):
    """(module, the function as its compiler traces it with all arguments given by name)."""
    need(framework)
    ms = importlib.import_module(f"multismooth.{framework}")
    if framework == "torch":
        need("torch")._dynamo.reset()
        return ms, need("torch").compile(getattr(ms, function), backend="eager", fullgraph=True)
    return ms, need("jax").jit(getattr(ms, function))


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("function", ["loss", "linear_loss", "smoothing_correction", "binary_loss"])
def test_traced(framework, function):
    ms, traced = compiled(framework, function)

    def run(**settings):
        return float(traced(**{name: own(ms, value) for name, value in given(function, **settings).items()}))

    for normalizer in (0.0, np.array(0.0)):
        if (framework, function, type(normalizer)) == ("torch", "binary_loss", float):
            continue  # a known 0, and entries that surely count: an error while it is traced
        assert np.isnan(run(normalizer=normalizer))
        assert run(normalizer=normalizer, sample_weight=np.zeros(6)) == 0
    assert np.isfinite(run(normalizer=np.array(2.0)))
    if function == "loss":
        weightless = {"weight": np.array([0, 1.0, 1, 1]), "targets": LABELS * 0}
        assert np.isnan(run(**weightless))
        assert run(label_smoothing=0.0, **weightless) == 0
        assert run(normalizer=np.array(0.0), targets=LABELS * 0 - 100) == 0


WEIGHTLESS = {"weight": np.array([0, 1.0, 1, 1]), "targets": LABELS * 0}


@pytest.mark.filterwarnings("ignore:weight. the largest:multismooth.SmoothingWarning")
def test_labels_whose_classes_weigh_nothing(ms):
    """What adds up to nothing is 0, whatever it is divided by; else the mean would be infinite."""
    quiet = {"validate": False, **WEIGHTLESS}
    for function in ("loss_and_grad", "linear_loss_and_grad"):
        assert not any(
            part.any() for part in flat(call(ms, function, **given(function, label_smoothing=0.0, **WEIGHTLESS)))
        )
        loss, *gradients = flat(call(ms, function, **given(function, **quiet)))
        assert np.isnan(loss)
        assert all(np.isnan(gradient).any() for gradient in gradients)
        for convention in (
            replace(conventions["torch"], class_weights="target"),  # the whole element weighs nothing
            replace(conventions["torch"], denominator="counted"),
            replace(conventions["torch"], denominator_add=1e-3),
        ):
            loss = flat(call(ms, function, **given(function, convention=convention, **WEIGHTLESS)))[0]
            assert np.isfinite(loss)
    assert np.isfinite(float(call(ms, "loss", **given("loss", reduction="sum", **WEIGHTLESS))))
    assert np.isfinite(float(call(ms, "loss", **given("loss", normalizer=6, **WEIGHTLESS))))


def test_terms_with_denominators_of_their_own_and_nothing_counted(ms):
    convention = replace(conventions["torch"], smooth_denominator="all", z_loss_denominator="counted")
    parts = call(ms, "terms", **given("terms", convention=convention, z_loss=0.1, targets=LABELS * 0 - 100))
    *numbers, predicted = flat(tuple(parts))
    assert (predicted == -1).all()
    for part in numbers:
        assert not part.any()


def test_a_denominator_of_its_own_may_be_of_nothing(ms):
    """fastai's label term is a mean over no weight, 0; its smoothing term is a plain mean."""
    loss = float(call(ms, "loss", **given("loss", convention="fastai", **WEIGHTLESS)))
    z = LOGITS - np.log(np.exp(LOGITS).sum(1, keepdims=True))
    assert loss == pytest.approx(-0.1 * z.mean(), rel=1e-5)


def test_torch_says_nan_too():
    """PyTorch's own loss of labels whose classes weigh nothing."""
    torch = need("torch")
    weight = torch.tensor(WEIGHTLESS["weight"])
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(LOGITS), torch.tensor(WEIGHTLESS["targets"]), weight, label_smoothing=0.1
    )
    assert not torch.isfinite(theirs)


def test_the_one_launch_of_a_plan():
    """A GPU's everyday plan, here interpreted, leaves a normalizer of 0 to the text that knows when it is NaN."""
    interpreted()
    torch, ms = need("torch"), importlib.import_module("multismooth.torch")
    logits, labels = torch.tensor(LOGITS, dtype=torch.float32), torch.tensor(LABELS)
    with np.errstate(all="ignore"), multismooth.implementation("triton"):
        assert torch.isnan(ms.loss(logits, labels, normalizer=0.0, validate=False))
        assert ms.loss(logits, labels * 0 - 100, normalizer=0.0, validate=False) == 0
        assert ms.loss(logits, labels * 0 - 100) == 0
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction="sum") / 3
        assert float(ms.loss(logits, labels, normalizer=3)) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_normalizer_has_its_gradient(framework):
    need(framework)
    ms = importlib.import_module(f"multismooth.{framework}")
    total = float(call(ms, "loss", **given("loss", reduction="sum")))
    logits, labels = own(ms, LOGITS), own(ms, LABELS)
    if framework == "torch":
        torch = need("torch")
        normalizer = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(ms.loss(logits, labels, normalizer=normalizer), normalizer)
    else:
        slope = need("jax").grad(lambda n: ms.loss(logits, labels, normalizer=n))(4.0)
    assert float(slope) == pytest.approx(-total / 16, rel=1e-5)


@pytest.mark.parametrize("denominator", DENOMINATORS)
def test_the_normalizer_is_what_a_mean_divides_by(denominator, x64):
    """In every backend, for labels and for rows: the sum over it is the mean."""
    weight, s = np.array([1.0, 0.5, 2.0, 1.5]), RNG.uniform(0.5, 2.0, 6)
    convention = replace(conventions["torch"], denominator=denominator, denominator_add=0.5)
    labels, rows = np.where(np.arange(6) == 2, -100, LABELS), np.eye(4)[LABELS]
    for targets, framework in product((labels, rows), ("numpy", "torch", "jax")):
        ms = importlib.import_module(f"multismooth.{framework}")
        options = {"convention": convention, "weight": own(ms, weight), "sample_weight": own(ms, s)}
        divisor = ms.normalizer(own(ms, targets), 4, **options)
        loss = ms.loss(own(ms, LOGITS), own(ms, targets), reduction="sum", **options)
        mean = ms.loss(own(ms, LOGITS), own(ms, targets), **options)
        assert divisor.ndim == 0
        np.testing.assert_allclose(float(loss) / float(divisor), float(mean), rtol=1e-12)
