"""Every kernel is the text of `spec`: on large problems, in pieces, in any layout, and where floating point is unkind.

`test_conformance` runs small problems through each (see `adapters.FORCED`); here they are cut into many chunks.
"""

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from requirements import need

import multismooth
import multismooth.numpy
from multismooth.cpu import buffers, capped, choice, kernels, threads
from multismooth.cpu.chunks import balanced_chunk_size
from multismooth.implementations import select

pytestmark = pytest.mark.usefixtures("two_threads")

FRAMEWORKS = ("numpy", "torch")
KERNELS = ("chunked", "numba")
SHAPES = [((40, 900), 1), ((700, 10), 1), ((3, 21, 8, 31), 1), ((12, 5000), 1), ((5, 4, 36), 2), ((37, 6, 2), 0)]


@pytest.fixture(params=[(f, k) for f in FRAMEWORKS for k in KERNELS], ids="-".join)
def kernel(request, monkeypatch):
    """(framework, kernel), with chunks so small that every problem here has several."""
    framework, name = request.param
    need(framework)
    if name == "numba":
        need("numba")
        from multismooth.cpu import compiled

        monkeypatch.setattr(compiled, "MAX_LOGITS_PER_PART", 2000)
    monkeypatch.setattr(capped, "BLOCK", 3000)
    monkeypatch.setattr(choice, "CHUNK_ENTRIES", 2000)
    monkeypatch.setattr(choice, "MIN_LOGITS_FOR_THREADS", 0)
    if framework == "torch":
        from multismooth.torch import cpu_chunked

        monkeypatch.setattr(cpu_chunked, "CHUNK_LOGITS", 2000)
    return framework, name


def loss_and_grad(kernel, z, y, out=None, **settings):
    """By one kernel, which must be what ran; arrays in and out."""
    framework, name = kernel
    with multismooth.implementation(name) as ran:
        if framework == "numpy":
            loss, gradient = multismooth.numpy.loss_and_grad(z, y, out=out, **settings)
        else:
            torch = need("torch")

            def tensor(value):
                return torch.from_numpy(value) if isinstance(value, np.ndarray) else value

            settings = {key: tensor(value) for key, value in settings.items()}
            loss, gradient = multismooth.torch.loss_and_grad(tensor(z), tensor(y), out=tensor(out), **settings)
            loss, gradient = loss.numpy(), gradient.numpy()
    assert set(ran) == {name}
    return loss, gradient


def by_spec(z, y, **settings):
    def wide(value):
        return value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype.kind == "f" else value

    with multismooth.implementation("spec"):
        return multismooth.numpy.loss_and_grad(wide(z), y, **{key: wide(value) for key, value in settings.items()})


def problem(shape, axis, dtype=np.float64, seed=0):
    generator = np.random.default_rng(seed)
    elements = tuple(size for k, size in enumerate(shape) if k != axis)
    return (3 * generator.standard_normal(shape)).astype(dtype), generator.integers(0, shape[axis], elements)


def settings_for(shape, axis, name, y, dtype):
    """(labels, arguments) of one feature."""
    generator = np.random.default_rng(1)
    classes = shape[axis]
    weights = generator.uniform(0.5, 1.5, classes).astype(dtype)
    mask = np.arange(classes) % 5 != 3
    ignored = np.where(generator.random(y.shape) < 0.2, -100, y)
    return {
        "plain": (y, {}),
        "hard": (y, {"label_smoothing": 0.0}),
        "ignored": (ignored, {"label_smoothing": 0.3}),
        "epsilons": (y, {"label_smoothing": generator.uniform(0, 0.5, y.shape).astype(dtype)}),
        "weights": (ignored, {"weight": weights}),
        "prior": (y, {"prior": weights / weights.sum()}),
        "mask": (np.where(mask[y], y, 0), {"class_mask": mask}),
        "padding": (y % (classes - classes // 20), {"class_mask": np.arange(classes) < classes - classes // 20}),
        "z_loss": (ignored, {"z_loss": 0.1, "convention": "others"}),
        "capped": (ignored, {"logit_softcap": 2.5, "z_loss": 0.1, "weight": weights}),
        "capped mask": (np.where(mask[y], y, 0), {"class_mask": mask, "logit_softcap": 30.0}),
        "samples": (y, {"sample_weight": (generator.random(y.shape) * (y % 3)).astype(dtype)}),
    }[name]


FEATURES = (
    *("plain", "hard", "ignored", "epsilons", "weights", "prior", "mask", "padding", "z_loss", "samples"),
    *("capped", "capped mask"),
)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_in_pieces_it_is_the_text_of_spec(kernel, shape, axis, feature, reduction):
    for dtype, allowed in ((np.float64, 1e-12), (np.float32, 3e-6)):
        z, y = problem(shape, axis, dtype)
        y, settings = settings_for(shape, axis, feature, y, dtype)
        settings |= {"axis": axis, "reduction": reduction}
        loss, gradient = loss_and_grad(kernel, z, y, **settings)
        expected, expected_gradient = by_spec(z, y, **settings)
        assert loss.dtype == gradient.dtype == dtype
        scale = np.abs(expected).max()
        np.testing.assert_allclose(loss, expected, rtol=allowed, atol=allowed * scale)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=allowed * np.abs(expected_gradient).max())


@pytest.mark.parametrize(
    ("shape", "axis", "mask_shape"), [((4, 5, 90, 3), 3, (4, 1, 1, 3)), ((6, 7, 50), 1, (1, 7, 50))]
)
def test_a_mask_for_some_elements_is_not_taken_for_one_for_all(kernel, shape, axis, mask_shape):
    z, y = problem(shape, axis)
    mask = np.random.default_rng(3).random(mask_shape) < 0.5
    mask |= np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(z.ndim)]) == 1
    settings = {"class_mask": mask, "axis": axis}
    y = np.ones_like(y)
    expected, expected_gradient = by_spec(z, y, **settings)
    if kernel[1] == "numba":
        with pytest.raises(ValueError, match="got numba"):
            loss_and_grad(kernel, z, y, **settings)
        kernel = kernel[0], "chunked"
    loss, gradient = loss_and_grad(kernel, z, y, **settings)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize(("shape", "axis"), SHAPES[:3], ids=str)
@pytest.mark.parametrize("layout", ["other order", "gaps", "backwards"])
def test_any_layout(kernel, shape, axis, layout):
    z, y = problem(shape, axis)
    if layout == "other order":
        z = np.asfortranarray(z)
    elif layout == "gaps":
        z = np.repeat(z, 2, axis=axis).take(range(0, 2 * shape[axis], 2), axis=axis)
        z = np.stack([z, z], axis=-1)[..., 0]
    elif kernel[0] == "torch":
        pytest.skip("PyTorch has no negative strides")
    else:
        z = z[::-1]
    found = loss_and_grad(kernel, z, y, axis=axis)
    for mine, right in zip(found, by_spec(z, y, axis=axis), strict=True):
        np.testing.assert_allclose(mine, right, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_out_may_be_the_logits_another_layout_or_half_of_them(kernel, shape, axis):
    z, y = problem(shape, axis)
    loss, expected = loss_and_grad(kernel, z, y, axis=axis)
    for out in (np.empty_like(z), np.asfortranarray(z) * 0, z.copy()):
        logits = out if np.array_equal(out, z) else z
        kept = z.copy()
        again, gradient = loss_and_grad(kernel, logits, y, out=out, axis=axis)
        np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-18)
        np.testing.assert_array_equal(out, gradient)
        assert again == pytest.approx(loss, rel=1e-15)
        np.testing.assert_array_equal(z, kept)
    memory = np.zeros((shape[0] + 1, *shape[1:]))
    memory[:-1] = z
    _, gradient = loss_and_grad(kernel, memory[:-1], y, out=memory[1:], axis=axis)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-18)


def test_where_floating_point_is_unkind(kernel):
    """A common offset, underflow at the label, and logits that are not finite, each in some rows of many."""
    z, y = problem((60, 300), 1, np.float32)
    y = y % 290
    z[3] += 1e4
    z[7, y[7]] = -300
    z[11, :] = z[11, :] * 100
    z[13, 295] = -np.inf
    for settings, gone in (({"label_smoothing": 0.0}, []), ({"label_smoothing": 0.1}, [13])):
        loss, gradient = loss_and_grad(kernel, z, y, reduction="none", **settings)
        expected, expected_gradient = by_spec(z, y, reduction="none", **settings)
        assert np.isinf(loss[gone]).all()
        np.testing.assert_allclose(loss, expected, rtol=2e-6)
        np.testing.assert_allclose(gradient, expected_gradient, atol=5e-5)
        calm = [row for row in range(60) if row not in (3, 11)]
        np.testing.assert_allclose(gradient[calm], expected_gradient[calm], atol=2e-6)


def test_what_is_ignored_may_hold_anything(kernel):
    z, y = problem((60, 300), 1, np.float32)
    z[5], z[9, 4], z[10, 7], y[[5, 9, 10]] = np.nan, np.inf, -np.inf, -100
    loss, gradient = loss_and_grad(kernel, z, y, out=z)
    assert np.isfinite(loss)
    assert (gradient[[5, 9, 10]] == 0).all()
    assert not np.signbit(gradient[[5, 9, 10]]).any()
    for existing in (280, 296):  # PyTorch's chunks have a way of their own where few are absent
        mask = np.arange(300) < existing
        z, y = problem((60, 300), 1, np.float32)
        y = y % existing
        z[:, 298:], z[0, 297] = -np.inf, np.nan
        loss, gradient = loss_and_grad(kernel, z, y, class_mask=mask)
        expected, expected_gradient = by_spec(np.where(mask, z, 0), y, class_mask=mask)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(gradient, expected_gradient, atol=1e-8)
        assert (gradient[:, existing:] == 0).all()


def test_nan_and_infinity_are_passed_on(kernel):
    z, y = problem((60, 300), 1)
    z[5, 2], z[9, 4] = np.nan, np.inf
    loss, gradient = loss_and_grad(kernel, z, y, reduction="none")
    assert np.isnan(loss[[5, 9]]).all()
    assert np.isnan(gradient[5]).all()
    assert np.isnan(gradient[9, 4])
    assert np.isfinite(np.delete(loss, [5, 9])).all()
    assert np.isfinite(np.delete(gradient, [5, 9], axis=0)).all()


@pytest.mark.parametrize("classes", [7, 40])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_in_few_rows_nan_and_infinity_are_passed_on(framework, classes):
    """Small problems have their own way into the compiled kernels: no fixture here that shuts it."""
    need(framework)
    need("numba")
    z, y = problem((6, classes), 1)
    z[1, 2], z[2, 3], z[4], z[5, (y[5] + 1) % classes] = np.nan, np.inf, -np.inf, -np.inf
    settings = {"reduction": "none"}
    loss, gradient = loss_and_grad((framework, "numba"), z, y, **settings)
    expected, expected_gradient = by_spec(z, y, **settings)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-14)
    assert np.isnan(loss[[1, 2, 4]]).all()
    assert loss[5] == np.inf
    assert np.isfinite(loss[[0, 3]]).all()


def test_a_vocabulary_may_be_padded_by_any_length(kernel):
    z, y = problem((3, 9000), 1)
    z[:, 4000:] += 50
    settings = {"class_mask": np.arange(9000) < 4000}
    loss, gradient = loss_and_grad(kernel, z, y % 4000, **settings)
    expected, expected_gradient = by_spec(z, y % 4000, **settings)
    np.testing.assert_allclose(loss, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-14)
    assert not gradient[:, 4000:].any()


def test_float32_sums_stay_exact_over_many_classes(kernel):
    z, y = problem((8, 130_000), 1, np.float32)
    loss, gradient = loss_and_grad(kernel, z, y)
    expected, expected_gradient = by_spec(z, y)
    assert abs(loss - expected) / expected < 3e-7
    assert np.abs(gradient - expected_gradient).max() / np.abs(expected_gradient).max() < 2e-6


@pytest.mark.parametrize("doubles", [True, False])
def test_numpy_s_exponential_may_go_by_powers_of_two(monkeypatch, doubles):
    """Which of the two a machine takes depends on its instructions, so both are tried on any."""
    monkeypatch.setattr(kernels, "doubles", lambda: doubles)
    z, y = problem((40, 9000), 1, np.float32)
    z[3], z[5, 7], z[7, 8] = z[3] * 30, -np.inf, np.nan
    for rows in (slice(0, 7), slice(7, 8), slice(8, 40)):
        loss, gradient = loss_and_grad(("numpy", "chunked"), z[rows], y[rows], reduction="none")
        expected, expected_gradient = by_spec(z[rows], y[rows], reduction="none")
        np.testing.assert_allclose(loss, expected, rtol=3e-7)
        np.testing.assert_allclose(gradient, expected_gradient, atol=2e-7)


@pytest.mark.parametrize(
    ("loops", "faster"),
    [
        ({}, False),
        ({"exp2": {"dd": {"current": "X86_V4"}}}, False),
        ({"exp2": {"ff": {"current": "baseline(X86_V2)"}}}, False),
        ({"exp2": {"ff": {"current": "AVX512_SKX"}}}, True),
    ],
)
def test_powers_of_two_are_taken_where_numpy_has_them_in_vectors(monkeypatch, loops, faster):
    introspect = pytest.importorskip("numpy.lib.introspect", reason="NumPy says what it runs from 2.2 on")
    monkeypatch.setattr(introspect, "opt_func_info", lambda func_name: loops)
    assert kernels.doubles.__wrapped__() == faster


def test_the_compiled_exponential_is_exact_to_float32():
    need("numba")
    from multismooth.cpu.compiled import arithmetic

    numba = need("numba")
    x = -np.concatenate([np.linspace(0, 87, 20_001), np.linspace(0, 1, 20_001), [88, 1e30, np.inf]]).astype(np.float32)
    with np.errstate(all="ignore"):
        found = numba.vectorize(lambda x: arithmetic.exp32(x))(x)
    exact = np.exp(x.astype(float))
    assert np.abs(found - exact).max() < 6e-8
    assert (np.abs(found - exact)[:-3] < 4e-7 * exact[:-3]).all()
    assert (found[-3:] == 0).all()


def test_workers_get_as_many_chunks_each():
    for workers in (1, 2, 3):
        for size in (7, 999, 1000, 1001, 2500, 4001, 9000):
            part = balanced_chunk_size(size, 1000, workers)
            assert part <= 1000
            assert -(-size // part) % workers == 0


@pytest.mark.parametrize("name", ["whole", "chunked", "numba"])
def test_bfloat16_is_one_rounding_away(name):
    torch = need("torch")
    if name == "numba":
        need("numba")
    for shape in ((40, 900), (700, 10), (3, 21, 8, 31)):
        z, y = problem(shape, 1, np.float32)
        z = torch.from_numpy(z).bfloat16()
        z[0, 1] = float("nan")
        y = np.where(np.arange(y.size).reshape(y.shape) < y[0].size, -100, y)
        with multismooth.implementation(name) as ran:
            loss, gradient = multismooth.torch.loss_and_grad(z, torch.from_numpy(y), axis=1)
        assert ran == [name]
        expected, expected_gradient = by_spec(z.float().numpy(), y, axis=1)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        rounding = np.abs(expected_gradient) * 2**-8 + 1e-7 * np.abs(expected_gradient).max()
        assert (np.abs(gradient.float().numpy() - expected_gradient) <= rounding).all()


def test_a_narrow_coefficient_keeps_its_value(kernel):
    torch = need("torch")
    z, y = problem((40, 900), 1, np.float32)
    expected, _ = by_spec(z, y, z_loss=0.5)
    with multismooth.implementation(kernel[1]):
        z_loss = torch.tensor(0.5, dtype=torch.bfloat16)
        loss, _ = multismooth.torch.loss_and_grad(torch.from_numpy(z), torch.from_numpy(y), z_loss=z_loss)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


@given(st.integers(1, 40), st.integers(2, 40), st.integers(0, 10**6), st.floats(0, 1))
def test_small_problems_have_a_compiled_kernel(rows, classes, seed, epsilon):
    need("numba")
    z, y = problem((rows, classes), 1, seed=seed)
    for kernel in (("numpy", "numba"), ("torch", "numba")):
        need(kernel[0])
        settings = {"label_smoothing": min(epsilon, 0.5)}
        loss, gradient = loss_and_grad(kernel, z, y, **settings)
        expected, expected_gradient = by_spec(z, y, **settings)
        np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-14)
        over = z.copy()
        again = loss_and_grad(kernel, over, y.astype(np.int32), out=over[:], **settings)
        np.testing.assert_allclose(again[0], loss, rtol=1e-14, atol=1e-16)
        np.testing.assert_allclose(over, gradient, rtol=1e-13, atol=1e-16)


# --- which one runs -------------------------------------------------------------------------------------------------


def test_size_chooses_and_the_caller_overrules(monkeypatch):
    torch = need("torch")
    monkeypatch.setattr(choice, "numba", lambda: None)
    for shape, name in (((6, 5), "columns"), ((6, 50), "whole"), ((600, 1000), "chunked")):
        z = torch.randn(shape, requires_grad=True)
        y = torch.zeros(shape[0], dtype=torch.long)
        gradients = []
        for wanted in ((), ("chunked",), ("whole",), ("fused",)):
            with multismooth.implementation(*wanted) as ran:
                gradients += torch.autograd.grad(multismooth.torch.loss(z, y), z)
            assert ran == [wanted[0] if wanted and wanted != ("fused",) else name]
        for gradient in gradients:
            torch.testing.assert_close(gradient, gradients[0])


@pytest.mark.parametrize("name", ["fused", "whole", "chunked", "numba"])
def test_backward_of_per_element_losses_takes_any_upstream_gradient(name):
    """A kernel for numbers alone (columns) must not be kept for a backward whose coefficients are arrays."""
    torch = need("torch")
    if name == "numba":
        need("numba")
    z, y = torch.randn(6, 5, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 3, 4, 0])
    upstream = torch.rand(6, dtype=torch.float64)
    with multismooth.implementation(name):
        ours = torch.autograd.grad(multismooth.torch.loss(z, y, reduction="none"), z, upstream)[0]
    theirs = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(ours, torch.autograd.grad(theirs, z, upstream)[0], rtol=1e-12, atol=1e-14)


def test_a_named_implementation_is_never_substituted():
    z, y = problem((6, 5), 1)
    rows = np.full((6, 5), 0.2)
    with multismooth.implementation("columns"), pytest.raises(ValueError, match="computes this call here: chunked"):
        multismooth.numpy.loss(z, rows)
    with multismooth.implementation("whole"), pytest.raises(ValueError, match="implementation"):
        multismooth.numpy.loss(z, y)
    with pytest.raises(ValueError, match=r"some of .* got 'quick'"), multismooth.implementation("quick"):
        pass
    assert select("a", "b") == "a"


def test_without_numba_everything_works(monkeypatch):
    monkeypatch.setattr(choice, "numba", lambda: None)
    z, y = problem((600, 1000), 1)
    with multismooth.implementation() as ran:
        multismooth.numpy.loss(z, y)
    assert ran == ["chunked"]
    with multismooth.implementation("numba"), pytest.raises(ValueError, match="got numba"):
        multismooth.numpy.loss(z, y)


def test_calls_alike_are_checked_by_value_all_the_same():
    z, y = problem((6, 5), 1)
    first = multismooth.numpy.loss(z, y)
    assert multismooth.numpy.loss(z, y) == first
    for label in (5, -1):
        wrong = y.copy()
        wrong[2] = label
        with pytest.raises(multismooth.LabelError, match=str(label)):
            multismooth.numpy.loss(z, wrong)
    part = y.copy()
    part[2] = -100
    assert multismooth.numpy.loss(z, part) == pytest.approx(multismooth.numpy.loss(np.delete(z, 2, 0), np.delete(y, 2)))
    softmax = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    with pytest.raises(ValueError, match="look like probabilities"):
        multismooth.numpy.loss(softmax, y)
    with pytest.raises(ValueError, match="ignore_index"):
        multismooth.numpy.loss(z, y, ignore_index=True)
    spared = multismooth.conventions["torch"].__class__(exclude=(0,))
    y[:] = 1
    multismooth.numpy.loss(z, y, convention=spared)
    y[0] = 0
    for _ in range(2):
        with pytest.raises(multismooth.LabelError):
            multismooth.numpy.loss(z, y, convention=spared)


# --- threads and memory ---------------------------------------------------------------------------------------------


def test_work_is_shared_in_order_and_errors_come_out():
    seen = set()

    def work(part):
        seen.add(threading.get_ident())
        if part == 77:
            raise KeyError(part)
        return part**2

    for workers in (1, 2, 5):
        assert threads.share(work, list(range(40)), workers) == [k**2 for k in range(40)]
        assert threads.share(work, [], workers) == []
        with pytest.raises(KeyError):
            threads.share(work, [*range(30), 77, *range(30)], workers)
    assert threading.get_ident() in seen


def test_cores_listen_to_the_environment(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads.cores() == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert threads.cores() >= 1


def test_kept_memory_is_never_seen_twice():
    kept = buffers.BufferCache()
    first = kept.take(2**20)
    address = first.ctypes.data
    assert address % buffers.CACHE_LINE == 0
    second = kept.take(2**20)
    assert second.ctypes.data != address
    address, view = second.ctypes.data, second[5:9].view(np.uint16)
    del first, second
    third = kept.take(2**20)
    assert third.ctypes.data != address
    del view
    address = third.ctypes.data
    del third
    assert kept.take(100).ctypes.data == address
    assert kept.take(2**21).nbytes == 2**21
    kept.limit = 0
    kept.release()
    assert kept.take(10).nbytes == 10
    assert kept.size == 0


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_gradient_keeps_its_memory_as_long_as_anything_refers_to_it(framework):
    module = need(f"multismooth.{framework}") if need(framework) else None
    z, y = problem((600, 1000), 1)
    if framework == "torch":
        torch = need("torch")
        z, y = torch.from_numpy(z), torch.from_numpy(y)
    first = module.loss_and_grad(z, y)[1]
    part, before = first[3:5], np.asarray(first).copy()[3:5]
    del first
    for _ in range(3):
        module.loss_and_grad(-z, y)
    np.testing.assert_array_equal(np.asarray(part), before)


def test_released_buffers_are_given_back():
    multismooth.keep_buffers(False)
    try:
        z, y = problem((600, 1000), 1)
        multismooth.numpy.loss_and_grad(z, y)
        assert buffers.GRADIENTS.size == 0
    finally:
        multismooth.keep_buffers()
    multismooth.numpy.loss_and_grad(z, y)
    assert buffers.GRADIENTS.size >= z.nbytes


def test_the_gradient_is_all_the_memory_that_is_needed():
    buffers.GRADIENTS.release()
    z, y = problem((2000, 8000), 1, np.float32)
    with multismooth.implementation("chunked"):
        multismooth.numpy.loss_and_grad(z[:10], y[:10])
        tracemalloc.start()
        try:
            multismooth.numpy.loss_and_grad(z, y)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 1.1 * z.nbytes
