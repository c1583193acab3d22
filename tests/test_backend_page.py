"""The backend that docs/backends.md writes for MLX is right, and no part of a head needs arrays that can be written to.

MLX computes in float32. So its results are compared with the oracle to float32's rounding of the largest logit, and of
a sum where there is one.
"""

import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from oracle import floats
from problems import VARIATIONS, solved, solved_binary, solved_head
from requirements import need
from tolerance import size_of

import multismooth
from multismooth import linear
from multismooth import numpy as reference
from multismooth.api.functions import Functions
from multismooth.namespace import Namespace

PAGE = Path(__file__).parents[1] / "docs" / "backends.md"
SEEDS = range(0, 2000, 10)
ROUNDING = 2e-6  # of the largest number that a result is made of; the worst of 2,000 problems is 5e-7


@pytest.fixture(scope="module")
def backend():
    """The page's own code, as the module that a user would make of it."""
    need("mlx.core")
    module = types.ModuleType("backend_mlx")
    (code,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "Backend)" in block
    )
    sys.modules[module.__name__] = module
    exec(compile(code, str(PAGE), "exec"), module.__dict__)
    yield module
    del sys.modules[module.__name__]


def given(value):
    return need("mlx.core").array(value) if isinstance(value, np.ndarray | np.generic) else value


def arguments(settings):
    return {name: given(value) for name, value in settings.items()}


def assert_right(found, expected, size):
    found, expected = np.array(found), np.asarray(expected)
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    with np.errstate(invalid="ignore"):
        right = (found == expected) | (np.abs(found - expected) <= ROUNDING * (size + np.abs(expected)))
    assert (right | (np.isnan(found) & np.isnan(expected))).all(), (found, expected)


@pytest.mark.parametrize("start", range(5))
@pytest.mark.filterwarnings("ignore::multismooth.SmoothingWarning")
def test_losses_and_gradients(backend, start):
    mx = need("mlx.core")
    for seed in SEEDS[start::5]:
        drawn, answer = solved(seed)
        settings, z, y = arguments(drawn.settings), given(drawn.logits), given(drawn.targets)
        expected, gradient = floats(answer.loss), floats(answer.gradient)
        size = size_of(drawn.logits, drawn.targets, drawn.settings)
        loss, computed = backend.loss_and_grad(z, y, **settings)
        assert_right(loss, expected, size)
        assert_right(computed, gradient, size)
        value, computed = mx.value_and_grad(lambda z, y=y, s=settings: backend.loss(z, y, **s).sum())(z)
        assert_right(value, np.sum(expected), size * max(1, loss.size))
        assert_right(computed, gradient, size)


@pytest.mark.filterwarnings("ignore::multismooth.SmoothingWarning")
def test_heads(backend):
    mx = need("mlx.core")
    for seed in range(0, 2000, VARIATIONS * 5):
        head, (answer, *gradients) = solved_head(seed)
        bias = {} if head.bias is None else {"bias": given(head.bias)}
        settings = arguments(head.settings) | bias | {"chunk_rows": 2}
        hidden, classifier, y = map(given, (head.hidden, head.classifier, head.targets))
        size = size_of(np.full(1, 20.0), head.targets, head.settings)
        loss, computed = backend.linear_loss_and_grad(hidden, classifier, y, **settings)
        assert_right(loss, floats(answer.loss), size)
        for found, expected in zip(computed, gradients, strict=True):
            assert (found is None) == (expected is None)
            if expected is not None:
                assert_right(found, floats(expected), size)

        def loss_of(hidden, classifier, y=y, settings=settings):
            return backend.linear_loss(hidden, classifier, y, **settings).sum()

        for found, expected in zip(mx.grad(loss_of, argnums=[0, 1])(hidden, classifier), gradients, strict=False):
            assert_right(found, floats(expected), size)


def test_binary_losses(backend):
    for seed in SEEDS:
        (logits, targets, settings), (loss, _, _) = solved_binary(seed)
        found = backend.binary_loss(given(logits), given(targets), **arguments(settings))
        assert_right(found, floats(loss), size_of(logits, targets, settings))


def test_what_a_compiler_reads_is_guarded(backend):
    mx = need("mlx.core")
    z, y = mx.zeros((3, 4)), mx.array([0, 4, 3])
    with pytest.raises(multismooth.LabelError):
        backend.loss(z, y)
    found = mx.compile(lambda z, y: backend.loss(z, y, reduction="none"))(z, y)
    assert np.isnan(np.array(found)).tolist() == [False, True, False]


# --- without MLX ------------------------------------------------------------------------------------------------------


class Immutable(np.ndarray):
    """An array of a framework where nobody can write to one."""

    def refused(self, *_):
        raise TypeError("this array is immutable")

    __setitem__ = __iadd__ = __isub__ = __imul__ = __itruediv__ = refused


def deposit(z, index, values, axis):
    here = np.arange(z.shape[axis]) == np.expand_dims(index, axis)
    return z + np.where(here, np.expand_dims(values, axis) if np.ndim(values) else values, 0)


def astype(x, dtype, copy=True):
    return np.asanyarray(x).astype(dtype, copy=copy)


def concat(parts):
    return np.concatenate(parts).view(Immutable)


XP = Namespace(reference.XP, deposit=deposit, astype=astype, concat=concat)


class ImmutableBackend(reference.NumpyBackend):
    xp = XP

    def array(self, value, like=None):
        return np.asarray(value).view(Immutable)

    def linear_loss_and_grad(self, hidden, classifier, bias, chunk_rows, call):
        return linear.forward_and_gradient(hidden, classifier, bias, chunk_rows, call.problem, call.settings, XP)


@pytest.mark.parametrize("accumulate", ["float32", "input"])
@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_the_gradients_of_a_head_need_no_array_that_can_be_written_to(chunk_rows, accumulate):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)), rng.integers(0, 5, 7)
    settings = {"bias": rng.normal(size=5), "chunk_rows": chunk_rows, "accumulate": accumulate}
    expected = reference.linear_loss_and_grad(*arrays, **settings)
    with warnings.catch_warnings(action="error"):
        loss, gradients = Functions(ImmutableBackend()).linear_loss_and_grad(*arrays, **settings)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-14)
    for found, right in zip(gradients, expected[1], strict=True):
        assert isinstance(found, Immutable)
        np.testing.assert_allclose(found, right, rtol=1e-13, atol=1e-15)
