"""How many kernels a call launches: each takes 5 µs on a GPU, as long as the loss of 256 × 10 logits."""

import numpy as np
import pytest
from requirements import interpreted, need

torch = need("torch")
need("triton")
from launches import as_on_a_gpu  # noqa: E402 torch first

import multismooth.torch as ms  # noqa: E402 torch first

ROWS, CLASSES = 64, 40
MOST = {"plain": 5, "each argument": 6, "all arguments": 9, "drop-in": 5, "drop-in of bfloat16": 7}


@pytest.fixture
def launches(monkeypatch):
    interpreted()
    with np.errstate(all="ignore"):  # the interpreter computes in NumPy, which complains
        yield as_on_a_gpu(monkeypatch)


def arguments():
    generator = torch.Generator().manual_seed(0)
    return {
        "weight": torch.rand(CLASSES, generator=generator) + 0.5,
        "sample_weight": torch.rand(ROWS, generator=generator),
        "label_smoothing": torch.rand(ROWS, generator=generator) / 5,
        "class_mask": torch.arange(CLASSES) != 7,
        "normalizer": torch.tensor(50.0),
    }


def counted(launches, function, dtype, **settings):
    """The launches of forward and backward."""
    logits = torch.randn(ROWS, CLASSES, dtype=dtype, requires_grad=True)
    labels = torch.arange(ROWS) % 7
    labels[3] = -100
    launches.torch.clear()
    launches.triton.clear()
    with launches:
        torch.autograd.grad(function(logits, labels, **settings), logits)
    return [*launches.triton, *launches.torch]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_and_backward_launch_few_kernels(launches, dtype):
    each, found = arguments(), {}
    found["plain"] = counted(launches, ms.loss, dtype)
    drop_in = "drop-in" if dtype is torch.float32 else "drop-in of bfloat16"  # whose loss is cast, there and back
    found[drop_in] = counted(launches, ms.cross_entropy, dtype, label_smoothing=0.1)
    found["all arguments"] = counted(launches, ms.loss, dtype, **each)
    for name, value in each.items():
        found[name] = counted(launches, ms.loss, dtype, **{name: value})
    for name, names in found.items():
        assert len(names) <= MOST.get(name, MOST["each argument"]), (name, names)


def test_a_drop_in_s_mean_over_nothing_is_nan_with_a_gradient_of_zero(launches):
    for labels in (torch.full((4,), -100), torch.tensor([-100, 2, -100, 0])):
        for reduction in ("mean", "sum", "none"):
            logits = torch.randn(4, 5, requires_grad=True)
            loss = ms.cross_entropy(logits, labels, label_smoothing=0.1, reduction=reduction)
            theirs = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1, reduction=reduction)
            torch.testing.assert_close(loss, theirs, equal_nan=True)
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            (expected,) = torch.autograd.grad(theirs.sum(), logits)
            torch.testing.assert_close(gradient, expected.nan_to_num(0.0))
