"""What passes for a row of probabilities, by the dtype that it was rounded to: targets, priors, logits by mistake."""

import importlib

import numpy as np
import pytest
from requirements import need

from multismooth import TargetError
from multismooth.api.target_checks import TOLERANCE, tolerance

NARROW = ("float16", "bfloat16")
CLASSES = (2, 10, 1000)


@pytest.fixture(params=["numpy", "torch", "jax"])
def ms(request):
    need(request.param)
    return importlib.import_module(f"multismooth.{request.param}")


def own(ms, array, dtype="float32"):
    """The float64 array in the backend's own type, rounded to a dtype."""
    if ms.__name__.endswith("torch"):
        torch = need("torch")
        return torch.from_numpy(np.array(array)).to(getattr(torch, dtype))
    array = np.asarray(array, np.float64).astype(need("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    if ms.__name__.endswith("jax"):
        return need("jax").block_until_ready(need("jax").device_put(array))  # what is not there yet is not looked at
    return array


def labels(ms, array):
    if ms.__name__.endswith("torch"):
        return need("torch").from_numpy(np.array(array))
    return need("jax").device_put(array) if ms.__name__.endswith("jax") else array


def teacher(rng, rows, classes):
    z = rng.normal(size=(rows, classes)) * rng.choice([0.5, 2.0, 6.0])
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def mixup(rng, rows, classes):
    share = rng.beta(0.8, 0.8, size=(rows, 1))
    one, other = (np.eye(classes)[rng.integers(0, classes, rows)] for _ in range(2))
    return 0.9 * (share * one + (1 - share) * other) + 0.1 / classes


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("make", [teacher, mixup])
def test_rounded_rows_are_distributions(ms, dtype, make):
    rng = np.random.default_rng(2)
    for classes in CLASSES:
        for _ in range(10):
            rows = own(ms, make(rng, 16, classes), dtype)
            logits = own(ms, rng.normal(size=(16, classes)))
            hidden, classifier = own(ms, rng.normal(size=(16, 3))), own(ms, rng.normal(size=(classes, 3)))
            assert np.isfinite(float(ms.loss(logits, rows)))
            assert np.isfinite(float(ms.loss(own(ms, rng.normal(size=(16, classes)), dtype), rows)))
            assert np.isfinite(float(ms.linear_loss(hidden, classifier, rows)))
        smoothed = ms.smooth_targets(rows, classes)
        assert dtype in str(smoothed.dtype)
        y = labels(ms, rng.integers(0, classes, 16))
        assert np.isfinite(float(ms.loss(logits, y, prior=rows[0])))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_beyond_the_tolerance_they_are_none(ms, dtype):
    if dtype == "float64" and ms.__name__.endswith("jax"):
        dtype = "float32"  # there is no other without x64
    rows = np.full((4, 5), 0.2)
    rows[2] *= 1 + 1.3 * TOLERANCE[dtype]
    logits, y = own(ms, np.random.default_rng(0).normal(size=(4, 5))), labels(ms, np.arange(4))
    with pytest.raises(TargetError, match=r"a row at \(2,\) with sum 1\.0"):
        ms.loss(logits, own(ms, rows, dtype))
    with pytest.raises(ValueError, match=r"`prior`: .*sum 1\.0"):
        ms.loss(logits, y, prior=own(ms, rows[2], dtype))
    low = np.full((4, 5), 0.2)
    low[1] = [-2 * TOLERANCE[dtype], 0.2 + 2 * TOLERANCE[dtype], 0.2, 0.2, 0.4]
    with pytest.raises(TargetError, match="smallest entry -"):
        ms.loss(logits, own(ms, low, dtype))


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_probabilities_as_logits_are_told_in_every_dtype(ms, dtype):
    """K of 3 is remembered after the first call, and still looked at."""
    rng = np.random.default_rng(1)
    for classes in (3, 10, 100):
        y = labels(ms, np.arange(16) % classes)
        for _ in range(3):
            ms.loss(own(ms, 2 + rng.normal(size=(16, classes)), dtype), y)
        with pytest.raises(ValueError, match="look like probabilities"):
            ms.loss(own(ms, teacher(rng, 16, classes), dtype), y)


def test_scores_that_happen_to_sum_to_1_are_scores(ms):
    y = labels(ms, np.array([0]))
    for row in ([1.0, -0.0005, 0.0004], [0.7, 0.4, -0.1], [0.5, 0.2, 0.2], [1.0, 0.0, 0.0]):
        assert np.isfinite(float(ms.loss(own(ms, [row]), y)))


@pytest.mark.parametrize("function", ["loss", "linear_loss", "binary_loss"])
def test_finite_differences_at_one_hot_rows(function):
    """A gradcheck steps outside [0, 1] by 1e-6."""
    torch, ms = need("torch"), importlib.import_module("multismooth.torch")
    torch.manual_seed(0)
    rows = torch.eye(3, dtype=torch.float64)[[0, 2, 1, 0]].requires_grad_()
    arrays = {
        "loss": (torch.randn(4, 3).double(),),
        "linear_loss": (torch.randn(4, 2).double(), torch.randn(3, 2).double()),
        "binary_loss": (torch.randn(4, 3).double(),),
    }[function]
    assert torch.autograd.gradcheck(lambda t: getattr(ms, function)(*arrays, t), rows, eps=1e-6)
    prior = torch.tensor([0.0, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 1])
    if function != "binary_loss":
        assert torch.autograd.gradcheck(lambda r: getattr(ms, function)(*arrays, y, prior=r), prior, eps=1e-6)


def test_half_precision_of_numpy():
    """NumPy arrays of bfloat16, as JAX makes them, are computed in float32, and gradients come back in their dtype."""
    ms, rng = importlib.import_module("multismooth.numpy"), np.random.default_rng(4)
    bfloat16 = need("ml_dtypes").bfloat16
    for rows, classes in ((5, 4), (300, 40), (2000, 500)):
        z, y = rng.normal(size=(rows, classes)).astype(bfloat16), rng.integers(0, classes, rows)
        h, w = rng.normal(size=(rows, 8)).astype(bfloat16), rng.normal(size=(classes, 8)).astype(bfloat16)
        for function, arrays in (("loss_and_grad", (z,)), ("linear_loss_and_grad", (h, w))):
            loss, gradient = getattr(ms, function)(*arrays, y)
            exact, slope = getattr(ms, function)(*(x.astype(np.float32) for x in arrays), y)
            assert loss == pytest.approx(exact, rel=1e-5)
            for ours, theirs in zip(
                gradient if isinstance(gradient, tuple) else (gradient,),
                slope if isinstance(slope, tuple) else (slope,),
                strict=True,
            ):
                if theirs is not None:
                    assert ours.dtype == bfloat16
                    scale = np.abs(theirs).max()
                    np.testing.assert_allclose(ours.astype(np.float32), theirs, rtol=2**-7, atol=2e-3 * scale)
        assert ms.terms(z, y).loss.dtype == np.float32
    with pytest.raises(ValueError, match=r"`logits`: expected a floating dtype; got (longdouble|float128)"):
        ms.loss(np.zeros((2, 3), np.longdouble), np.array([0, 1]))


def test_the_table():
    assert [tolerance(f"torch.{name}") for name in TOLERANCE] == list(TOLERANCE.values())
    assert tolerance(np.dtype("float32")) == 1e-3
    assert tolerance("torch.float8_e4m3fn") == 0.125
    assert tolerance("bool") == tolerance("int64") == 1e-3
