"""Triton's kernels of any size and layout, and on numbers that overflow. A CPU interprets them, a GPU compiles them.

`test_conformance` and `test_laws` run small problems through them. `test_gpu_compiled` checks their machine code. The
interpreter truncates to bfloat16, so there a bfloat16 gradient may be one unit off.
"""

import numpy as np
import pytest
from problems import VARIATIONS
from problems import problem as drawn_problem
from requirements import need
from test_kernels import FEATURES, by_spec, problem, settings_for
from tolerance import assert_close

import multismooth
import multismooth.numpy
from multismooth import spec

torch = need("torch")

from multismooth.torch.gpu import choice, launch  # noqa: E402 torch first
from multismooth.torch.gpu.layout import layout_of  # noqa: E402 torch first

CLASSES = (1, 2, 3, 10, 100, 257, 1000, 1003, 4096, 5003, 32_768, 40_001, 50_257, 131_072, 140_001, 262_144)
SHAPES = (
    ((5, 900), 1),
    ((70, 10), 1),
    ((3, 5003), 1),
    ((3, 21, 5, 9), 1),
    ((5, 4, 36), 2),
    ((2, 300, 5), 1),
    ((9,), 0),
)


@pytest.fixture(params=[1, 16], ids=["one block", "clusters"])
def blocks(request, device, monkeypatch):
    """How many blocks of threads may share a row. It decides whether long rows are read once or twice."""
    if device == "cuda" and request.param > choice.max_cluster_blocks(torch.device(device, 0)):
        pytest.skip("no clusters on this GPU, or with this Triton")
    monkeypatch.setattr(choice, "max_cluster_blocks", lambda device: request.param)


def tensor(value, device):
    return torch.from_numpy(np.require(value, requirements="W")).to(device) if isinstance(value, np.ndarray) else value


def loss_and_grad(device, z, y, out=None, **settings):
    """Loss and gradient as NumPy arrays, by Triton's kernels and no others."""
    settings = {name: tensor(value, device) for name, value in settings.items()}
    with multismooth.implementation("triton") as ran:
        results = multismooth.torch.loss_and_grad(tensor(z, device), tensor(y, device), out=out, **settings)
    assert ran == ["triton"]
    return tuple(result.cpu().float().numpy() if result.itemsize == 2 else result.cpu().numpy() for result in results)


def assert_right(found, expected, dtype="float32"):
    """Losses within `tolerance`, gradients within as much of their largest entry."""
    assert_close(found[0], expected[0], dtype, found[1].size)
    assert_close(found[1], expected[1], dtype, found[1].size, scale=np.nanmax(np.abs(expected[1])))


def plan_of(labels):
    """The plan of summed losses for ε = 0.1."""
    return spec.Plan(labels, a=0.9, b=0.1)


def halves(device, z, y, out=None):
    """(losses, gradient) by `losses` and `gradient`, for ε = 0.1."""
    z, plan = tensor(z, device), plan_of(tensor(y, device))
    loss, *found = launch.losses(z, plan, 1)
    return loss.cpu().numpy(), launch.gradient(z, plan, 1, *found, out).cpu().numpy()


# --- sizes and features ----------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*have one class:multismooth.SmoothingWarning")
@pytest.mark.parametrize("classes", CLASSES)
def test_any_number_of_classes(device, blocks, classes):
    z, y = problem((3, classes), 1, np.float32, seed=classes)
    settings = {"reduction": "none", "label_smoothing": 0.1}
    expected = by_spec(z, y, **settings)
    for found in (loss_and_grad(device, z, y, **settings), halves(device, z, y)):
        assert_right(found, expected)
        assert (np.abs(found[0] - expected[0]) <= 2e-6 * expected[0]).all()


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES[:-1], ids=str)
def test_any_feature(device, shape, axis, feature):
    dtype = "float64" if shape[0] % 2 else "float32"
    z, y = problem(shape, axis, dtype)
    y, settings = settings_for(shape, axis, feature, y, dtype)
    settings |= {"axis": axis, "reduction": "none"}
    assert_right(loss_and_grad(device, z, y, **settings), by_spec(z, y, **settings), dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_one_rounding_away(device, blocks, dtype):
    for shape, axis in (((3, 1000), 1), ((2, 40_001), 1), ((2, 7, 5, 8), 1)):
        z, y = problem(shape, axis, np.float32)
        z = torch.from_numpy(z).to(device, getattr(torch, dtype))
        loss, gradient = loss_and_grad(device, z, y, axis=axis, reduction="sum")
        expected, slope = by_spec(z.cpu().float().numpy(), y, axis=axis, reduction="sum")
        rounding = {"bfloat16": 2.0 ** (-7 if device == "cpu" else -8), "float16": 2.0**-11}[dtype]
        np.testing.assert_allclose(loss, expected, rtol=2e-6)
        assert (np.abs(gradient - slope) <= rounding * np.abs(slope) + 1e-7 * np.abs(slope).max()).all()


def test_nothing_to_compute_is_left_to_others(device):
    z, y = torch.empty(0, 5, device=device, requires_grad=True), torch.empty(0, dtype=torch.long, device=device)
    with multismooth.implementation("triton", "whole") as ran:
        multismooth.torch.loss(z, y).backward()
    assert ran == ["whole"]
    assert z.grad.shape == (0, 5)


# --- layouts ---------------------------------------------------------------------------------------------------------


def laid_out(z, axis, layout):
    """A tensor of these values whose memory is arranged in another way."""
    z = torch.from_numpy(z)
    if layout == "class axis first":
        return z.movedim(axis, 0).contiguous().movedim(0, axis)
    if layout == "class axis last":
        return z.movedim(axis, -1).contiguous().movedim(-1, axis)
    if layout == "gaps between classes":
        return torch.stack([z, z * float("nan")], -1)[..., 0]
    if layout == "gaps between elements":
        return torch.cat([z, torch.full_like(z, float("nan"))], -1)[..., : z.shape[-1]]
    if layout == "all axes backwards":
        return z.permute(*reversed(range(z.ndim))).contiguous().permute(*reversed(range(z.ndim)))
    return torch.cat([torch.tensor([float("nan")], dtype=z.dtype), z.flatten()])[1:].view(z.shape)


LAYOUTS = (
    *("class axis first", "class axis last", "gaps between classes", "gaps between elements"),
    *("all axes backwards", "not aligned"),
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("shape", "axis"), [*SHAPES, ((2, 3, 4, 5, 6), 2), ((2, 3, 5003), 2)], ids=str)
def test_any_layout_and_any_out(device, shape, axis, layout):
    values, y = problem(shape, axis, np.float32)
    expected = by_spec(values, y, axis=axis)
    z = laid_out(values, axis, layout).to(device)
    z = z if device == "cpu" else torch.empty_strided(values.shape, laid_out(values, axis, layout).stride()).copy_(z)
    kept = z.clone()
    for out in (None, torch.empty_like(z), torch.empty(shape, device=device), z[..., None].clone()[..., 0]):
        assert_right(loss_and_grad(device, z, y, out=out, axis=axis), expected)
        assert torch.equal(z, kept)
    found = loss_and_grad(device, z, y, out=z, axis=axis)
    assert_right(found, expected)
    np.testing.assert_array_equal(z.cpu().numpy(), found[1])


@pytest.mark.parametrize("shift", [0, 3, 64])
@pytest.mark.parametrize("classes", [5, 1000, 1003, 5003, 40_001])
def test_nothing_outside_is_read_or_written(device, blocks, classes, shift):
    values, y = problem((3, classes), 1, np.float32)
    expected = by_spec(values, y, reduction="none")
    inside = slice(64 + shift, 64 + shift + values.size)
    for compute in (halves, lambda *args, out: loss_and_grad(*args, out=out, reduction="none")):
        memory = torch.full((2, values.size + 256), float("nan"), device=device)
        z, out = (part[inside].view(values.shape) for part in memory)
        z.copy_(torch.from_numpy(values))
        out.copy_(torch.full_like(z, 7.0))
        assert_right(compute(device, z, y, out=out), expected)
        np.testing.assert_array_equal(out.cpu().numpy() == 7.0, False)
        memory[:, inside] = float("nan")
        assert memory.isnan().all()


def test_the_other_half_of_a_memory_is_not_the_logits(device):
    values, y = problem((5, 300), 1, np.float32)
    memory = torch.zeros(6, 300, device=device)
    memory[:-1] = torch.from_numpy(values)
    assert_right(loss_and_grad(device, memory[:-1], y, out=memory[1:]), by_spec(values, y))


def test_layouts_fold_where_they_can():
    assert layout_of((8, 3, 5), 2, (15, 5, 1))[:3] == (1, 5, 24)
    assert layout_of((8, 3, 5), 1, (15, 5, 1))[:3] == (8, 3, 5)
    assert layout_of((8, 3, 5), 2, (20, 5, 1)) == (8, 5, 3, (20, 5, 1), (20, 5, 1), None)
    assert layout_of((8, 3, 5), 2, (20, 5, 1), (15, 5, 1)) == (8, 5, 3, (20, 5, 1), (15, 5, 1), None)
    assert layout_of((8, 3, 5), 2, *[(15, 5, 1)] * 2, (5, 0, 1)) == (8, 5, 3, *[(15, 5, 1)] * 2, (5, 0, 1))
    assert layout_of((2, 3, 4, 5), 0, (60, 1, 3, 12)) is None
    assert layout_of((5,), 0, (1,))[:3] == (1, 5, 1)


# --- extreme numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [300, 40_001])
def test_extreme_logits(device, blocks, classes):
    z, y = problem((8, classes), 1, np.float32)
    y %= classes - 10
    z[1] += 1e4
    z[2, y[2]] = -300
    z[3] *= 100
    z[4, -5] = -np.inf
    z[5, : classes // 2], y[5] = -np.inf, classes - 1  # the first block holds nothing
    z[6] = -np.inf
    for epsilon in (0.0, 0.1):
        settings = {"label_smoothing": epsilon, "reduction": "none"}
        loss, gradient = loss_and_grad(device, z, y, **settings)
        expected, slope = by_spec(z, y, **settings)
        np.testing.assert_allclose(loss, expected, rtol=2e-6)
        assert np.isnan(loss[6])
        np.testing.assert_allclose(gradient, slope, rtol=0, atol=2e-6)


def test_a_mask_hides_anything(device, blocks):
    for classes in (300, 40_001):
        z, y = problem((4, classes), 1, np.float32)
        mask = np.arange(classes) % 5 != 3
        z[:, ~mask] = np.tile([np.nan, np.inf, -np.inf, 1e30], classes)[: (~mask).sum()]
        settings = {"class_mask": mask, "reduction": "none", "z_loss": 0.1}
        y = np.where(mask[y], y, 0)
        found = loss_and_grad(device, z, y, **settings)
        assert_right(found, by_spec(np.where(mask, z, 0), y, **settings))
        assert not found[1][:, ~mask].any()


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(4, 300), (4, 40_001), (4, 300, 3)], ids=str)
def test_what_is_ignored_has_zero_bits(device, shape, dtype):
    z, y = problem(shape, 1, np.float32)
    z[1], z[2], y[1:3] = np.nan, np.inf, -100
    z = torch.from_numpy(z).to(device, getattr(torch, dtype))
    for settings in ({}, {"reduction": "none"}, {"reduction": "sum", "z_loss": 0.1}, {"weight": np.ones(shape[1])}):
        loss, gradient = loss_and_grad(device, z, y, axis=1, **settings)
        assert np.isfinite(loss).all()
        assert np.isfinite(gradient).all()
        assert not any(gradient[1:3].tobytes())


@pytest.mark.parametrize("label", [-1, 300, 2**40])
def test_a_bad_label_is_nan_for_its_element_alone(device, label):
    z, y = problem((4, 300), 1, np.float32)
    expected, slope = by_spec(z, np.where(np.arange(4) == 2, -100, y), reduction="none")
    y[2] = label
    loss, gradient = loss_and_grad(device, z, y, reduction="none", validate=False)
    assert np.isnan(loss[2])
    assert np.isnan(gradient[2]).all()
    others = [0, 1, 3]
    assert_right((loss[others], gradient[others]), (expected[others], slope[others]))


def test_nan_and_infinity_are_passed_on(device, blocks):
    for classes in (300, 40_001):
        z, y = problem((4, classes), 1, np.float32)
        z[1, 2], z[2, -3] = np.nan, np.inf
        loss, gradient = loss_and_grad(device, z, y, reduction="none")
        assert np.isnan(loss[[1, 2]]).all()
        assert np.isnan(gradient[1]).all()
        assert np.isnan(gradient[2, -3])
        assert np.isfinite(loss[[0, 3]]).all()
        assert np.isfinite(gradient[[0, 3]]).all()


# --- under autograd --------------------------------------------------------------------------------------------------


def test_any_upstream_gradient_and_a_second_backward(device):
    for shape in ((6, 40), (2, 5003), (3, 7, 4)):
        values, y = problem(shape, 1, np.float32)
        upstream = np.random.default_rng(2).normal(size=y.shape).astype(np.float32)
        z = torch.from_numpy(values).to(device).requires_grad_()
        for reduction, given in (("none", upstream), ("mean", np.float32(-3.0))):
            _, slope = by_spec(values, y, axis=1, reduction=reduction)
            expected = slope * (given if reduction == "mean" else np.expand_dims(given, 1))
            with multismooth.implementation("triton") as ran:
                loss = multismooth.torch.loss(z, tensor(y, device), axis=1, reduction=reduction)
                for _ in range(2):
                    (found,) = torch.autograd.grad(loss, z, torch.tensor(given).to(device), retain_graph=True)
                    np.testing.assert_allclose(found.cpu(), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
            assert set(ran) == {"triton"}


def test_results_are_repeatable(device, blocks):
    for shape in ((70, 10), (3, 40_001), (2, 30, 50)):
        z, y = problem(shape, 1, np.float32)
        first, second = (loss_and_grad(device, z, y, axis=1) for _ in range(2))
        assert [part.tobytes() for part in first] == [part.tobytes() for part in second]


# --- which calls get them --------------------------------------------------------------------------------------------


def test_on_a_cpu_they_run_only_when_they_are_named(device):
    z, y = torch.randn(4, 300, device=device), torch.zeros(4, dtype=torch.long, device=device)
    with multismooth.implementation() as ran:
        multismooth.torch.loss_and_grad(z, y)
    assert ("triton" in ran) == (device == "cuda")


def test_what_they_cannot_compute_is_refused(device):
    z = torch.randn(4, 3, device=device)
    y, soft = torch.zeros(4, dtype=torch.long, device=device), torch.full((4, 3), 1 / 3, device=device)
    for targets, settings in ((soft, {"prior": soft[:3]}), (y, {"prior": soft[:3]}), (y, {"class_mask": soft > 0})):
        with multismooth.implementation("triton"), pytest.raises(ValueError, match="computes this call here: whole"):
            multismooth.torch.loss(z, targets, **settings)
        with multismooth.implementation("triton", "whole") as ran:
            multismooth.torch.loss(z, targets, **settings)
        assert ran == ["whole"]


def test_the_conformance_suite_runs_them(device):
    """The kernels compute every random problem that has the same prior and mask for all elements."""
    counted = {True: 0, False: 0, "soft": 0}
    for seed in range(0, 200 * VARIATIONS, VARIATIONS):
        drawn = drawn_problem(seed, reckless=False)
        rows = [drawn.settings[name] for name in ("prior", "class_mask") if name in drawn.settings]
        shared = drawn.logits.ndim == 1 or all(row.ndim == 1 for row in rows)
        supported = shared and drawn.logits.size > 0
        settings = {name: tensor(value, device) for name, value in drawn.settings.items()}
        with multismooth.implementation("triton", "whole", "spec") as ran:
            multismooth.torch.loss_and_grad(tensor(drawn.logits, device), tensor(drawn.targets, device), **settings)
        assert ran == ["triton" if supported else "whole"]
        counted[supported] += 1
        counted["soft"] += supported and drawn.soft
    assert counted[True] > 60
    assert counted["soft"] > 20


class Broken:
    """Kernels of which none can be launched, as on a machine without a C compiler."""

    def __getattr__(self, name):
        return self

    def __getitem__(self, grid):
        return self

    def __call__(self, *arguments, **options):
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")


def test_where_the_kernels_cannot_be_compiled_others_take_over_with_one_warning(device, monkeypatch):
    z, y = torch.randn(4, 3, device=device, requires_grad=True), torch.zeros(4, dtype=torch.long, device=device)
    expected = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1)
    choice.works_on.cache_clear()
    monkeypatch.setattr(choice, "compiled", Broken)
    try:
        with multismooth.implementation("triton", "whole") as ran:
            with pytest.warns(RuntimeWarning, match=f"do not run on {device}.*Failed to find C compiler") as found:
                loss = multismooth.torch.loss(z, y)
            torch.testing.assert_close(loss, expected)
            loss.backward()
            multismooth.torch.loss_and_grad(z, y)  # warns no second time, which pytest would make an error
        assert len(found) == 1
        assert ran == ["whole", "whole"]
    finally:
        choice.works_on.cache_clear()


def test_a_triton_that_is_too_old_is_not_asked_to_compile(monkeypatch):
    """The first kernel that is tried would compile, but not the others."""
    need("triton")
    monkeypatch.setattr(choice, "interpreted", lambda: False)
    monkeypatch.setattr(choice, "version", lambda: (3, 4))
    choice.works_on.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match=r"do not run on cpu \(RuntimeError: Triton 3.4 is older than 3.5"):
            assert not choice.works_on(torch.device("cpu"))
    finally:
        choice.works_on.cache_clear()


# --- on a device alone -----------------------------------------------------------------------------------------------


def on_cuda(shape, dtype=None):
    z = torch.randn(shape, device="cuda", dtype=dtype)
    return z, torch.randint(0, shape[1], (shape[0],), device="cuda")


def of_torch(z, y, **settings):
    return torch.nn.functional.cross_entropy(z.double(), y, label_smoothing=0.1, **settings)


@pytest.mark.cuda
def test_nothing_waits_for_the_device():
    z, y = on_cuda((64, 5003))
    settings = {"weight": torch.rand(5003, device="cuda"), "label_smoothing": torch.full((64,), 0.1, device="cuda")}
    z.requires_grad_()
    multismooth.torch.loss(z, y, **settings).backward()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for reduction in ("mean", "none"):
            for targets in (y, torch.rand_like(z).softmax(1)):
                with multismooth.implementation("triton"):
                    loss = multismooth.torch.loss(z, targets, reduction=reduction, **settings)
                    torch.autograd.grad(loss, z, torch.ones_like(loss))
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.cuda
def test_a_graph_of_it_can_be_replayed():
    z, y = on_cuda((64, 5003), torch.bfloat16)
    multismooth.torch.loss_and_grad(z, y)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, gradient = multismooth.torch.loss_and_grad(z, y)
    z.copy_(torch.randn_like(z))
    graph.replay()
    expected, slope = multismooth.torch.loss_and_grad(z, y)
    assert torch.equal(loss, expected)
    assert torch.equal(gradient, slope)


@pytest.mark.cuda
def test_more_logits_than_32_bits_can_count():
    z, y = on_cuda((2**15 + 2, 2**16), torch.bfloat16)
    for with_gradient in (False, True):
        losses, gradient = launch.triton(z, plan_of(y), 1, with_gradient=with_gradient)
        torch.testing.assert_close(losses[-2:].double(), of_torch(z[-2:], y[-2:], reduction="none"), rtol=2e-6, atol=0)
    last = z[-2:].double().requires_grad_()
    (slope,) = torch.autograd.grad(of_torch(last, y[-2:], reduction="sum"), last)
    torch.testing.assert_close(gradient[-2:].double(), slope, rtol=2**-8, atol=1e-8)


@pytest.mark.cuda
def test_after_a_bad_label_work_goes_on():
    z, y = on_cuda((64, 1000))
    good = multismooth.torch.loss_and_grad(z, y)
    for label in (-1, 1000, 2**40):
        bad = y.clone()
        bad[3] = label
        assert multismooth.torch.loss(z, bad, reduction="none").isnan().nonzero().tolist() == [[3]]
    again = multismooth.torch.loss_and_grad(z, y)
    assert all(map(torch.equal, good, again))
