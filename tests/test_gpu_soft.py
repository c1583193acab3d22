"""Triton's kernels of soft targets: any size, layout and dtype, numbers that overflow, rows that are no distribution.

`test_conformance` and `test_laws` run small problems through them, `test_gpu_launches` counts their launches, and
`test_gpu_compiled` reads their machine code. A CPU interprets them, a GPU compiles them, as in `test_gpu`.
"""

import numpy as np
import pytest
from launches import as_on_a_gpu
from requirements import need
from test_gpu import LAYOUTS, assert_right, blocks, laid_out, loss_and_grad, tensor
from test_kernels import by_spec

import multismooth
import multismooth.numpy
from multismooth import spec
from multismooth.problem import Problem, Settings
from multismooth.reduction import reduced_plan

torch = need("torch")

import multismooth.torch as ms  # noqa: E402 torch first
from multismooth.torch.gpu import launch, plans  # noqa: E402 torch first
from multismooth.torch.gpu.arguments import in_full  # noqa: E402 torch first
from multismooth.torch.namespace import XP  # noqa: E402 torch first

__all__ = ["blocks"]  # a fixture

ONE_ROW = 20_001  # classes: a row for a cluster, or one that a block reads twice


def problem(shape, axis, dtype=np.float32, seed=0):
    """(logits, rows that are distributions, with some zeros)"""
    generator = np.random.default_rng(seed)
    rows = generator.random(shape) * (generator.random(shape) > 0.3) + 1e-3
    return (3 * generator.standard_normal(shape)).astype(dtype), (rows / rows.sum(axis, keepdims=True)).astype(dtype)


def elements(shape, axis):
    return tuple(size for k, size in enumerate(shape) if k != axis % len(shape))


def halves(device, z, t, out=None):
    """(losses, gradient) by `losses` and `gradient`, for ε = 0.1."""
    z, plan = tensor(z, device), spec.Plan(u=tensor(t, device), a=0.9, b=0.1)
    loss, *found = launch.losses(z, plan, 1)
    return loss.cpu().numpy(), launch.gradient(z, plan, 1, *found, out).cpu().numpy()


# --- sizes, arguments, dtypes ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*have one class:multismooth.SmoothingWarning")
@pytest.mark.parametrize("classes", [1, 2, 10, 257, 1003, 8192, ONE_ROW])
def test_any_number_of_classes(device, blocks, classes):
    z, t = problem((3, classes), 1, seed=classes)
    z[:, -1] += 12  # the largest logit of a row is the last one that is read
    settings = {"reduction": "none", "label_smoothing": 0.1}
    expected = by_spec(z, t, **settings)
    for found in (loss_and_grad(device, z, t, **settings), halves(device, z, t)):
        assert_right(found, expected)
        assert (np.abs(found[0] - expected[0]) <= 2e-6 * expected[0]).all()


def settings_for(shape, axis, dtype):
    """Arguments of one feature each, and many together."""
    generator, classes = np.random.default_rng(1), shape[axis]
    weights = generator.uniform(0.5, 1.5, classes).astype(dtype)
    each = generator.uniform(0, 0.5, elements(shape, axis)).astype(dtype)
    yield {}
    yield {"prior": weights / weights.sum()}
    yield {"z_loss": 0.1, "convention": "others", "sample_weight": each}
    yield {"weight": weights, "label_smoothing": each, "logit_softcap": 2.5}
    yield {"weight": weights, "convention": multismooth.Convention(class_weights="target")}
    yield {"convention": multismooth.Convention(objective="kl"), "label_smoothing": each}


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 70), 1), ((2, 1003), 1), ((2, 21, 5, 3), 1), ((3, 4, 36), 2), ((9,), 0)], ids=str
)
def test_any_argument_and_any_upstream_gradient(device, shape, axis):
    values, rows = problem(shape, axis)
    for settings in settings_for(shape, axis, np.float32):
        settings |= {"axis": axis, "reduction": "none"}
        expected, slope = by_spec(values, rows, **settings)
        assert_right(loss_and_grad(device, values, rows, **settings), (expected, slope))
        z = torch.from_numpy(values).to(device).requires_grad_()
        upstream = np.asarray(np.random.default_rng(2).normal(size=expected.shape), np.float32)
        with multismooth.implementation("triton") as ran:
            loss = ms.loss(z, tensor(rows, device), **{name: tensor(x, device) for name, x in settings.items()})
            (found,) = torch.autograd.grad(loss, z, torch.tensor(upstream).to(device))
        assert set(ran) == {"triton"}
        assert_right(
            (loss.detach().cpu().numpy(), found.cpu().numpy()), (expected, slope * np.expand_dims(upstream, axis))
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_half_precision_is_one_rounding_away(device, dtype):
    rounding = {"bfloat16": 2.0 ** (-7 if device == "cpu" else -8), "float16": 2.0**-11, "float32": 3e-6}[dtype]
    for shape, given in (((2, 1003), "bfloat16"), ((2, 1000), "float32"), ((2, 7, 9), "float16")):
        z, t = (torch.from_numpy(x) for x in problem(shape, 1))
        z, t = z.to(device, getattr(torch, dtype)), t.to(device, getattr(torch, given))
        loss, gradient = loss_and_grad(device, z, t, axis=1, reduction="sum", validate=False)
        arrays = (x.cpu().double().numpy() for x in (z, t))
        expected, slope = by_spec(*arrays, axis=1, reduction="sum", validate=False)
        np.testing.assert_allclose(loss, expected, rtol=2e-6)
        assert (np.abs(gradient - slope) <= rounding * np.abs(slope) + 2e-7 * np.abs(slope).max()).all()


# --- layouts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_targets_and_out_of_any_layout(device, layout):
    for shape, axis in (((5, 90), 1), ((2, 7, 5, 3), 1), ((2, 3, 4, 5), 2), ((2, 1003), 1)):
        values, rows = problem(shape, axis)
        expected = by_spec(values, rows, axis=axis)
        z, t = torch.from_numpy(values).to(device), laid_out(rows.copy(), axis, layout).to(device)
        kept = t.clone()
        other = laid_out(values, axis, layout).to(device)
        for logits, targets, out in ((z, t, None), (other, tensor(rows, device), torch.empty_like(other)), (z, t, t)):
            assert_right(loss_and_grad(device, logits, targets, out=out, axis=axis), expected)
            assert torch.equal(t, kept) != (out is t)
        memory = z.clone()
        assert_right(loss_and_grad(device, memory, tensor(rows, device), out=memory, axis=axis), expected)


def test_the_other_half_of_a_memory_is_not_the_targets(device):
    z, rows = problem((5, 300), 1)
    memory = torch.zeros(6, 300, device=device)
    memory[:-1] = torch.from_numpy(rows)
    assert_right(loss_and_grad(device, z, memory[:-1], out=memory[1:]), by_spec(z, rows))


def test_targets_that_are_one_row_expanded(device):
    z, t = problem((5, 70), 1)
    one = torch.from_numpy(t[:1]).to(device).expand(5, 70)
    assert_right(loss_and_grad(device, z, one), by_spec(z, np.broadcast_to(t[:1], z.shape)))


@pytest.mark.parametrize("classes", [5, 1003, ONE_ROW])
def test_nothing_outside_is_read_or_written(device, blocks, classes):
    values, rows = problem((2, classes), 1)
    expected, inside = by_spec(values, rows, reduction="none"), slice(67, 67 + values.size)
    for compute in (halves, lambda *args, out: loss_and_grad(*args, out=out, reduction="none")):
        memory = torch.full((3, values.size + 256), float("nan"), device=device)
        z, t, out = (part[inside].view(values.shape) for part in memory)
        z.copy_(torch.from_numpy(values))
        t.copy_(torch.from_numpy(rows))
        assert_right(compute(device, z, t, out=out), expected)
        memory[:, inside] = float("nan")
        assert memory.isnan().all()


# --- extreme numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [300, ONE_ROW])
def test_extreme_logits(device, blocks, classes):
    """Where a target is 0, a logit of −inf costs nothing; where it is not, the loss is infinite."""
    z, t = problem((7, classes), 1)
    t[:, -5] = 0
    z[1] += 1e4
    z[2] = 12 * (np.arange(classes) == 3)
    z[3] *= 100
    z[4, -5] = -np.inf
    z[5, : classes // 2] = -np.inf
    z[6] = -np.inf
    t /= t.sum(1, keepdims=True)
    t[2] = np.arange(classes) == 3
    for epsilon in (0.0, 0.1):
        settings = {"label_smoothing": epsilon, "reduction": "none", "validate": False}
        loss, gradient = loss_and_grad(device, z, t, **settings)
        expected, slope = by_spec(z, t, **settings)
        np.testing.assert_allclose(loss, expected, rtol=2e-6, atol=1e-6)
        assert np.isfinite(loss[4]) == (epsilon == 0.0)
        assert np.isinf(loss[5])
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=2e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("classes", [70, ONE_ROW])
def test_what_does_not_count_may_hold_anything(device, classes, masked):
    """Absent classes, and elements whose sample weight is 0: their gradient has zero bits."""
    (z, t), mask = problem((4, classes), 1), (np.arange(classes) % 5 != 3) | (not masked)
    t = np.where(mask, t, 0)
    t /= t.sum(1, keepdims=True)
    settings = {"sample_weight": np.array([1, 0, 0, 2], np.float32), "reduction": "none", "z_loss": 0.1}
    settings |= {"class_mask": mask} if masked else {}
    expected = by_spec(np.where(mask, z, 0), t, **settings)
    z[:, ~mask] = np.tile([np.nan, np.inf, -np.inf, 1e30], classes)[: (~mask).sum()]
    z[1], z[2], t[1], t[2] = np.nan, np.inf, np.nan, 7.0
    at_once = loss_and_grad(device, z, t, **settings, validate=False)
    logits, upstream = tensor(z, device).requires_grad_(), torch.tensor([1.0, np.nan, np.inf, 1.0], device=device)
    with multismooth.implementation("triton"):
        settings = {name: tensor(value, device) for name, value in settings.items()}
        loss = ms.loss(logits, tensor(t, device), **settings, validate=False)
        gradient = torch.autograd.grad(loss, logits, upstream)[0].cpu().numpy()
    for found in (at_once, (loss.detach().cpu().numpy(), gradient)):
        assert_right(found, expected)
        assert not any(found[1][:, ~mask].tobytes())
        assert not any(found[1][1:3].tobytes())
        assert not any(found[0][1:3].tobytes())


@pytest.mark.parametrize("classes", [70, ONE_ROW])
def test_a_row_that_is_no_distribution_is_nan_for_its_element_alone(device, blocks, monkeypatch, classes):
    z, t = problem((7, classes), 1)
    mask = np.arange(classes) != 5
    t[:, 5] = 0
    t /= t.sum(1, keepdims=True)
    t[6, 5] = 1e-4  # a mass on an absent class that is small enough is dropped
    good = t.copy()
    t[1, :2] += 0.02, -0.02 - t[1, 1]  # the sum is right
    t[2] *= 1.01
    t[3] *= 0.99
    t[3, 5] = 0.01  # on an absent class
    t[4, 0] = np.nan
    t[5] *= 1 + 1e-4  # near enough
    bad, others = [1, 2, 3, 4], [0, 5, 6]
    expected, slope = by_spec(z, good, class_mask=mask, reduction="none", validate=False)
    z, t, mask = (tensor(x, device) for x in (z, t, mask))
    if device == "cpu":
        as_on_a_gpu(monkeypatch, watched=False)
    z.requires_grad_()
    for reduction in ("none", "sum"):
        loss = ms.loss(z, t, axis=1, reduction=reduction, class_mask=mask)
        (gradient,) = torch.autograd.grad(loss, z, torch.ones_like(loss))
        gradient, loss = (x.detach().cpu().numpy() for x in (gradient, loss))
        assert np.isnan(gradient[bad]).all()
        np.testing.assert_allclose(gradient[others], slope[others], rtol=0, atol=1e-4)
        assert np.isnan(loss).tolist() == ([k in bad for k in range(7)] if reduction == "none" else True)
        if reduction == "none":
            np.testing.assert_allclose(loss[others], expected[others], rtol=1e-3)


def test_a_drop_in_takes_rows_that_are_no_distributions(device, monkeypatch):
    z, t = torch.randn(6, 9, device=device, requires_grad=True), torch.randn(6, 9, device=device)
    weight = torch.rand(9, device=device)
    theirs = torch.nn.functional.cross_entropy(z, t, weight, label_smoothing=0.1)
    expected = torch.autograd.grad(theirs, z)[0]
    if device == "cpu":
        as_on_a_gpu(monkeypatch, watched=False)
    with multismooth.implementation() as ran:
        loss = ms.cross_entropy(z, t, weight, label_smoothing=0.1)
        (found,) = torch.autograd.grad(loss, z)
    assert set(ran) == {"triton"}
    torch.testing.assert_close(loss, theirs)
    torch.testing.assert_close(found, expected)


# --- plans -----------------------------------------------------------------------------------------------------------


def arguments(device):
    """Arguments of six elements and five classes."""
    generator = torch.Generator().manual_seed(3)
    weight, each, epsilon = (torch.rand(n, generator=generator).to(device) for n in (5, 6, 6))
    everyday = {"weight": weight, "sample_weight": each * (each > 0.4), "label_smoothing": epsilon / 3, "z_loss": 0.1}
    yield {}
    yield {"weight": weight}
    yield {"normalizer": torch.tensor(7.0, device=device), "sample_weight": each * 0}
    yield everyday | {"class_mask": torch.arange(5, device=device) != 3}


def test_a_plan_that_a_kernel_makes_is_in_full_that_of_spec(device, monkeypatch):
    """For every convention, for one launch and for two, and for rows that are checked on the device."""
    z, rows = (torch.from_numpy(x).to(device) for x in problem((6, 5), 1))
    rows[2] *= 1.1
    tried = 0
    kinds = {(c.spread, c.smoothing_map, c.class_weights, c.denominator, c.denominator_floor, c.scale): c
             for c in multismooth.conventions.values()}  # fmt: skip
    for convention in kinds.values():
        for more in arguments(device):
            problem_ = Problem(z, rows, **({"label_smoothing": 0.1} | more))
            caller = "caller" in (convention.denominator, convention.smooth_denominator)
            if caller and problem_.normalizer is None:
                continue
            settings = Settings(convention, 1, soft=True, valid=bool(tried % 2))
            if not plans.supports_arrays(problem_, settings):
                continue
            monkeypatch.setattr(plans, "MAX_ELEMENTS_IN_ONE_LAUNCH", 4 + 4 * (tried % 3))
            found = in_full(plans.planned_from_arrays(problem_, settings), z, 1)
            right = reduced_plan(problem_, settings, XP)
            assert type(found) is spec.Plan
            for mine, theirs in zip(
                spec.losses_and_gradient(z.double(), found, 1, XP),
                spec.losses_and_gradient(z.double(), right, 1, XP),
                strict=True,
            ):
                torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=1e-8, equal_nan=True, msg=convention.name)
            tried += 1
    assert tried > 30


def test_second_derivatives_and_other_kernels_get_the_plan_in_full(device, monkeypatch):
    z, t = (torch.from_numpy(x).to(device) for x in problem((3, 5), 1))
    settings = {"weight": torch.rand(5, device=device), "class_mask": torch.arange(5, device=device) != 2}
    t = t.where(settings["class_mask"], 0)
    t /= t.sum(1, keepdim=True)
    settings |= {"sample_weight": torch.tensor([1.0, 0.0, 2.0], device=device), "z_loss": 0.1}

    def second():
        logits = z.clone().requires_grad_()
        (first,) = torch.autograd.grad(ms.loss(logits, t, **settings), logits, create_graph=True)
        return first, torch.autograd.grad(first.square().sum(), logits)[0]

    expected = second()
    if device == "cpu":
        as_on_a_gpu(monkeypatch, watched=False)
    for names in (("triton",), ("whole",)):
        with multismooth.implementation(*names) as ran:
            found = second()
        assert set(ran) == set(names)
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-7)


def test_learned_targets_take_the_formulas(device, monkeypatch):
    z, t = (torch.from_numpy(x).to(device) for x in problem((3, 5), 1))
    z, t = z.requires_grad_(), t.requires_grad_()
    expected = torch.autograd.grad(ms.loss(z, t), (z, t))
    if device == "cpu":
        as_on_a_gpu(monkeypatch, watched=False)
    with multismooth.implementation() as ran:
        found = torch.autograd.grad(ms.loss(z, t), (z, t))
    assert set(ran) == {"spec"}
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
