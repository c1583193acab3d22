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

ROWS, CLASSES = 16, 40
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("mean", "sum", "none")
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


def counted(launches, function, dtype, targets=None, **settings):
    """The launches of forward and backward. targets: labels by default."""
    logits = torch.randn(ROWS, CLASSES, dtype=dtype, requires_grad=True)
    if targets is None:
        targets = torch.arange(ROWS) % 7
        targets[3] = -100
    launches.torch.clear()
    launches.triton.clear()
    with launches:
        loss = function(logits, targets, **settings)
        torch.autograd.grad(loss, logits, torch.ones_like(loss))
    return [*launches.triton, *launches.torch]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_backward_launch_few_kernels(launches, dtype, reduction):
    """The labels are those of PyTorch's own loss, some of them ignored. One of the launches makes the upstream 1."""
    each, found = arguments(), {}
    if reduction != "mean":
        del each["normalizer"]
    found["plain"] = counted(launches, ms.loss, dtype, reduction=reduction)
    found["all arguments"] = counted(launches, ms.loss, dtype, reduction=reduction, **each)
    for name, value in each.items():
        found[name] = counted(launches, ms.loss, dtype, reduction=reduction, **{name: value})
    for name, names in found.items():
        assert len(names) <= MOST.get(name, MOST["each argument"]), (name, names)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_targets_launch_no_more_than_labels(launches, dtype, reduction):
    """Rows whose values no check reads, of the logits' dtype and of another one."""
    each = arguments() | {"logit_softcap": 30.0, "z_loss": 0.1}
    if reduction != "mean":
        del each["normalizer"]
    rows = torch.rand(ROWS, CLASSES).softmax(1)
    cases = {"plain": {}, "all arguments": each} | {name: {name: value} for name, value in each.items()}
    for name, settings in cases.items():
        names = counted(launches, ms.loss, dtype, rows, reduction=reduction, **settings)
        assert len(names) <= MOST.get(name, MOST["each argument"]), (name, names)
    for targets, weight in ((rows, None), (rows.to(dtype), each["weight"])):
        settings = {"weight": weight, "label_smoothing": 0.1, "reduction": reduction}
        names = counted(launches, ms.cross_entropy, dtype, targets, **settings)
        assert len(names) <= MOST["drop-in"], (settings, names)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_logits_take_at_most_three_launches_more(launches, dtype, monkeypatch):
    """Sums over elements or classes have a launch of their own, and PyTorch adds up the losses and rounds the sum."""
    monkeypatch.setattr(plans, "MAX_ELEMENTS_IN_ONE_LAUNCH", 0)
    monkeypatch.setattr(launch, "MAX_LOGITS_ADDED_UP", 0)
    each, rows, smoothing = arguments(), torch.rand(ROWS, CLASSES).softmax(1), {"label_smoothing": 0.1}
    for targets, most in ((None, (6, 7, 7)), (rows, (5, 7, 6))):
        names = (
            counted(launches, ms.loss, dtype, targets),
            counted(launches, ms.loss, dtype, targets, **each),
            counted(launches, ms.cross_entropy, dtype, targets, weight=each["weight"].to(dtype), **smoothing),
        )
        assert all(len(found) <= number for found, number in zip(names, most, strict=True)), names


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_drop_in_launches_as_few(launches, dtype, reduction):
    for smoothing in (0.0, 0.1):
        for weight in (None, arguments()["weight"].to(dtype)):
            settings = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
            names = counted(launches, ms.cross_entropy, dtype, **settings)
            assert len(names) <= MOST["drop-in"], (settings, names)


NOTHING, SOME = torch.full((4,), -100), torch.tensor([-100, 2, -100, 0])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_drop_in_s_mean_over_nothing_is_nan_with_a_gradient_of_zero(launches, dtype, reduction):
    """Over no elements, or over elements whose class weights are 0."""
    weight = torch.tensor([0.0, 1.0, 0.0, 2.0, 3.0]).to(dtype)
    cases = [(NOTHING, None, 0.1), (SOME, None, 0.1), (NOTHING, weight, 0.1), (SOME, weight, 0.0)]
    for labels, weight, smoothing in cases:
        settings = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        logits = torch.randn(4, 5, dtype=dtype, requires_grad=True)
        loss = ms.cross_entropy(logits, labels, **settings)
        assert loss.dtype is dtype
        settings["weight"] = None if weight is None else weight.float()
        theirs = torch.nn.functional.cross_entropy(logits.float(), labels, **settings)
        torch.testing.assert_close(loss, theirs.to(dtype), equal_nan=True)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        (expected,) = torch.autograd.grad(theirs.sum(), logits)
        torch.testing.assert_close(gradient, expected.nan_to_num(0.0))


def test_a_gradient_of_zero_weights_is_not_hidden(launches):
    """Where the counted weights are 0 but the smoothing term is not, the mean is a number over 0."""
    weight, logits = torch.tensor([0.0, 1.0]), torch.zeros(3, 2, requires_grad=True)
    loss = ms.cross_entropy(logits, torch.tensor([0, 0, -100]), weight, label_smoothing=0.1)
    assert loss.isnan()
    assert torch.autograd.grad(loss, logits)[0][:2].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_upstream_gradients_of_any_layout_reach_the_kernel(launches, dtype):
    """One for each element, in any strides, or the same for all, as `sum` has it."""
    labels, logits = torch.arange(12).view(3, 4) % 5, torch.randn(3, 5, 4).to(dtype).requires_grad_()
    loss = ms.cross_entropy(logits, labels, label_smoothing=0.1, reduction="none")
    theirs = torch.nn.functional.cross_entropy(logits.float(), labels, label_smoothing=0.1, reduction="none")
    assert loss.dtype is dtype
    each = torch.rand(4, 3, dtype=dtype)
    for upstream in (each.T, each.flatten()[:12].view(3, 4), each[:1, :1].expand(3, 4), each[:1].T.expand(3, 4)):
        (found,) = torch.autograd.grad(loss, logits, upstream, retain_graph=True)
        (right,) = torch.autograd.grad(theirs, logits, upstream.float(), retain_graph=True)
        torch.testing.assert_close(found, right, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)


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
