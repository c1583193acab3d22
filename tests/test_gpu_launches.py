"""How many kernels a call launches: each takes 5 µs on a GPU, as long as the loss of 256 × 10 logits."""

import numpy as np
import pytest
from requirements import interpreted, need

torch = need("torch")
need("triton")
import triton.language as tl  # noqa: E402 torch first
from launches import as_on_a_gpu  # noqa: E402 torch first

import multismooth  # noqa: E402 torch first
import multismooth.torch as ms  # noqa: E402 torch first
from multismooth.problem import Problem, Settings  # noqa: E402 torch first
from multismooth.torch.gpu import adding_up, launch, plans, tiles  # noqa: E402 torch first

ROWS, CLASSES = 64, 40
MOST = {"plain": 4, "each argument": 5, "all arguments": 5, "drop-in": 4}


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
    found["drop-in"] = counted(launches, ms.cross_entropy, dtype, label_smoothing=0.1)
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


@pytest.mark.parametrize(("rows", "dtype"), [(1, torch.bfloat16), (9, torch.float64), (20, torch.float32)])
def test_the_last_program_adds_up_the_losses(launches, rows, dtype, monkeypatch):
    """Of one tile, of several, and of more than it reads at a time."""
    monkeypatch.setattr(tiles, "TILE_OF_SHORT_ROWS", 8)  # a row
    monkeypatch.setattr(adding_up, "SUMS_AT_A_TIME", tl.constexpr(8))
    logits, labels, weight = torch.randn(rows, 5, dtype=dtype), torch.arange(rows) % 5, torch.rand(5)
    with launches:
        found = ms.loss_and_grad(logits, labels, weight=weight)[0]
    assert "sum" not in launches.torch or dtype is torch.float64  # whose plan takes PyTorch's operators
    monkeypatch.setattr(launch, "MAX_TILES_ADDED_UP", 0)
    with launches:
        torch.testing.assert_close(found, ms.loss(logits, labels, weight=weight))
    assert "sum" in launches.torch


def test_a_plan_adds_up_as_often_as_it_is_used(launches):
    logits, labels = torch.randn(64, 40, requires_grad=True), torch.arange(64) % 40
    loss = ms.loss(logits, labels)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    plan = plans.planned(Problem(logits, labels, 0.1), Settings(multismooth.conventions["torch"], 1))
    found = [float(launch.triton(logits, plan, 1, summed=True)[0]) for _ in range(3)]
    assert found == [loss.item()] * 3
    assert plan.ticket == 0


def test_a_drop_in_s_loss_is_rounded_once_to_its_dtype(launches):
    """The interpreter truncates, so there it may be one unit off."""
    logits, labels = torch.randn(9, 40).bfloat16().requires_grad_(), torch.arange(9) % 40
    for reduction in ("mean", "sum"):
        loss = ms.cross_entropy(logits, labels, label_smoothing=0.1, reduction=reduction)
        exact = ms.loss(logits, labels, label_smoothing=0.1, reduction=reduction)
        assert loss.dtype is torch.bfloat16
        torch.testing.assert_close(loss.float(), exact, rtol=2**-7, atol=0)
        for upstream in (1.0, 0.75):
            ours, theirs = (
                torch.autograd.grad(value, logits, value.new_full((), upstream), retain_graph=True)[0]
                for value in (loss, exact)
            )
            assert torch.equal(ours, theirs)


WRONG = {"weight": -1.0, "sample_weight": -1.0, "label_smoothing": 1.5, "normalizer": -1.0}


@pytest.mark.parametrize("together", [False, True], ids=["alone", "with the others"])
def test_a_number_that_no_check_reads_is_not_used(launches, together):
    """One launch looks at all arguments."""
    logits, labels, right = torch.randn(ROWS, CLASSES), torch.arange(ROWS) % 7, arguments()
    assert ms.loss(logits, labels, **right).isfinite()
    for name, wrong in WRONG.items():
        value = right[name].clone()
        value.view(-1)[0] = wrong
        settings = (right if together else {}) | {name: value}
        assert ms.loss(logits, labels, **settings).isnan(), name
