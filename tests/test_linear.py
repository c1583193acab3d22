"""A linear head's chunks, what its gradients are summed in, and the correction that smooths another library's head."""

from dataclasses import replace

import adapters
import numpy as np
import pytest
from requirements import need
from tolerance import assert_close

import multismooth
from multismooth import linear
from multismooth.problem import Settings

ROWS, FEATURES, CLASSES = 7, 3, 5
LABELS = np.array([1, 4, -100, 0, 2, 4, 4])
RNG = np.random.default_rng(3)
HIDDEN, CLASSIFIER, BIAS = (RNG.normal(size=shape) for shape in ((ROWS, FEATURES), (CLASSES, FEATURES), CLASSES))
HIDDEN[2] = np.nan  # ignored
PRIOR = np.array([0.1, 0.2, 0.3, 0.25, 0.15])
WEIGHTS = np.array([1.0, 0.5, 1.0, 2.0, 0.0, 1.5, 1.0])
BACKENDS = (adapters.NUMPY, adapters.TORCH, adapters.JAX, adapters.JIT)

# --- the correction of rank one -------------------------------------------------------------------------------------


def variants():
    """Conventions that the registry's names do not reach."""
    torch = multismooth.conventions["torch"]
    return {
        "kl": replace(torch, objective="kl"),
        "excluding": replace(torch, exclude=(3,), spread="others"),
        "scaled": replace(torch, scale=0.5, denominator="all", denominator_add=1.0),
    }


SETTINGS = {
    "plain": {},
    "others": {"convention": "others", "reduction": "sum"},
    "none": {"reduction": "none", "bias": BIAS},
    "bias": {"bias": BIAS, "convention": "others"},
    "prior": {"prior": PRIOR, "bias": BIAS},
    "epsilons": {"label_smoothing": np.linspace(0.0, 0.4, ROWS)},
    "samples": {"sample_weight": WEIGHTS, "prior": PRIOR},
    "normalizer": {"normalizer": 11.0, "bias": BIAS},
    "kl": {"convention": variants()["kl"], "prior": PRIOR},
    "excluding": {"convention": variants()["excluding"], "bias": BIAS},
    "scaled": {"convention": variants()["scaled"]},
}


def evaluated(adapter, function, **settings):
    """[value, gradients] with respect to the features and the classifier, where there is autodiff."""
    arrays = (HIDDEN, CLASSIFIER, LABELS)
    if not adapter.autodiff_every:
        return [adapter.call(function, *arrays, **settings)]
    cotangent = np.linspace(-1.0, 2.0, ROWS) if settings.get("reduction") == "none" else None
    value, gradients = adapter.value_and_grad(function, *arrays, wrt=(0, 1), cotangent=cotangent, **settings)
    return [value, *gradients]


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("adapter", BACKENDS, ids=lambda adapter: adapter.name)
def test_a_corrected_hard_loss_is_the_smoothed_one(adapter, name):
    settings = {"label_smoothing": 0.3} | SETTINGS[name]
    smoothed = evaluated(adapter, "linear_loss", **settings)
    added = evaluated(adapter, "smoothing_correction", **settings)
    settings = {key: value for key, value in settings.items() if key != "prior"} | {"label_smoothing": 0.0}
    for one, other, expected in zip(evaluated(adapter, "linear_loss", **settings), added, smoothed, strict=True):
        assert one.dtype == other.dtype == expected.dtype == np.float64
        assert_close(one + other, expected)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward-mode AD of torch itself
def test_the_bias_and_epsilon_have_gradients_too():
    torch = need("torch")
    ms = need("multismooth.torch")
    inputs = [torch.tensor(x, requires_grad=True) for x in (np.nan_to_num(HIDDEN), CLASSIFIER, BIAS, np.float64(0.2))]

    def correction(hidden, classifier, bias, epsilon):
        return ms.smoothing_correction(
            hidden, classifier, torch.tensor(LABELS), bias=bias, label_smoothing=epsilon, prior=torch.tensor(PRIOR)
        )

    assert torch.autograd.gradcheck(correction, inputs, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(correction, inputs)


@pytest.mark.parametrize("shape", [(2, 4), ()])
def test_the_correction_has_the_features_where_axis_says(shape):
    rng = np.random.default_rng(0)
    hidden, labels = rng.normal(size=(*shape[:1], FEATURES, *shape[1:])), rng.integers(0, CLASSES, shape)
    axis = 1 if shape else 0
    settings = {"bias": BIAS, "axis": axis, "reduction": "none"}
    hard = multismooth.linear_loss(hidden, CLASSIFIER, labels, label_smoothing=0.0, **settings)
    added = multismooth.smoothing_correction(hidden, CLASSIFIER, labels, **settings)
    assert_close(hard + added, multismooth.linear_loss(hidden, CLASSIFIER, labels, **settings))


@pytest.mark.filterwarnings("ignore:linear_cross_entropy")
@pytest.mark.parametrize("convention", ["torch", "others"])
def test_torchs_chunked_head_learns_to_smooth(convention):
    torch = need("torch")
    functional, ms = torch.nn.functional, need("multismooth.torch")
    if not hasattr(functional, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    head = [torch.tensor(x, requires_grad=True) for x in (np.nan_to_num(HIDDEN), CLASSIFIER, BIAS)]
    hidden, classifier, bias = head
    labels, options = torch.tensor(LABELS), torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
    smoothed = ms.linear_loss(hidden, classifier, labels, bias=bias, convention=convention)
    expected = torch.autograd.grad(smoothed, head)
    hard = functional.linear_cross_entropy(hidden, classifier, labels, linear_bias=bias, options=options)
    added = ms.smoothing_correction(hidden, classifier, labels, bias=bias, convention=convention)
    assert_close((hard + added).detach(), smoothed.detach())
    for ours, theirs in zip(torch.autograd.grad(hard + added, head), expected, strict=True):
        assert_close(ours, theirs)


def test_a_label_that_names_no_class_is_nan_where_nothing_can_raise():
    bad = np.array([5, -100, 1])
    for adapter in (adapters.NUMPY, adapters.TORCH, adapters.JIT):
        settings = {"validate": False, "reduction": "none"}
        found = adapter.call("smoothing_correction", HIDDEN[3:6], CLASSIFIER, bad, **settings)
        assert np.isnan(found).tolist() == [True, False, False], adapter.name
        assert found[1] == 0


@pytest.mark.parametrize(
    ("argument", "settings"),
    [
        ("targets", {"targets": np.full((ROWS, CLASSES), 1 / CLASSES)}),
        ("prior", {"prior": np.full((CLASSES, CLASSES), 1 / CLASSES)}),
        ("convention", {"convention": replace(multismooth.conventions["torch"], ignore_scope="nll_only")}),
        ("convention", {"convention": replace(multismooth.conventions["torch"], smooth_denominator="all")}),
    ],
)
def test_what_is_not_of_rank_one_is_refused(argument, settings):
    settings = {"targets": LABELS} | settings
    with pytest.raises(ValueError, match=f"`{argument}`.*linear_loss"):
        multismooth.smoothing_correction(np.nan_to_num(HIDDEN), CLASSIFIER, **settings)


def test_half_precision_is_computed_in_float32():
    for adapter in (adapters.TORCH, adapters.JAX):
        narrow = [x.astype(adapters.bfloat16()) for x in (np.nan_to_num(HIDDEN), CLASSIFIER, BIAS)]
        hidden, classifier, bias = (x.astype(np.float64) for x in narrow)
        for prior in (None, PRIOR):
            found = adapter.call("smoothing_correction", *narrow[:2], LABELS, bias=narrow[2], prior=prior)
            expected = multismooth.smoothing_correction(hidden, classifier, LABELS, bias=bias, prior=prior)
            assert_close(found, expected, "float32")


def test_the_correction_makes_nothing_of_the_logits_size():
    torch = need("torch")
    ms = need("multismooth.torch")

    class Largest(need("torch.utils._python_dispatch").TorchDispatchMode):
        entries = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, torch.Tensor):
                    self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
            return result

    hidden, classifier = (torch.randn(n, 4, requires_grad=True) for n in (300, 200))
    with Largest() as seen:
        ms.smoothing_correction(hidden, classifier, torch.arange(300) % 200, convention="others").backward()
    assert seen.entries == 300 * 4


# --- chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_keep_to_the_workspace_in_equal_round_parts():
    assert linear.chunk_size(0, 10, None) == 1
    assert linear.chunk_size(100, 10, 7) == 7
    assert linear.chunk_size(2048, 50257, None, 2**23) == 158  # thirteen chunks of at most 166
    assert linear.chunk_size(3, 2**30, None) == 1


@pytest.mark.parametrize(
    ("rows", "classes", "dtype", "expected"),
    [
        (4096, 128256, "bfloat16", 4096),  # all of them: 1.05 GB
        (8192, 128256, "bfloat16", 4096),
        (8400, 128256, "bfloat16", 2816),
        (8192, 128256, "float32", 2048),
        (4096, 10**6, "bfloat16", 1024),
        (300, 10**6, "bfloat16", 300),
        (0, 10, "float32", 1),
    ],
)
def test_on_a_gpu_chunks_have_rows_in_the_thousands(rows, classes, dtype, expected, monkeypatch):
    torch = need("torch")
    module = need("multismooth.torch.linear")
    monkeypatch.setattr(module.launch, "device", lambda tensor: True)
    hidden, classifier = (torch.empty((n, 16), dtype=getattr(torch, dtype), device="meta") for n in (rows, classes))
    settings = Settings(multismooth.conventions["torch"])
    assert module._chunk_rows(hidden, classifier, None, settings) == expected
    assert module._chunk_rows(hidden, classifier, 5, settings) == 5
    plain = module._chunk_rows(hidden, classifier, None)  # whose copies in float32 need room too
    assert plain <= expected
    assert plain >= min(rows, 1024)


@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_gradients_of_many_classifiers_at_once(chunk_rows):
    """Within `torch.func.vmap` only the classifier has a further axis, and a gradient that is written to has none."""
    torch, ms = need("torch"), need("multismooth.torch")
    hidden, labels = torch.from_numpy(np.nan_to_num(HIDDEN)), torch.from_numpy(LABELS)
    classifiers = torch.from_numpy(np.stack([CLASSIFIER, 2 * CLASSIFIER]))

    def gradients(classifier):
        return ms.linear_loss_and_grad(hidden, classifier, labels, chunk_rows=chunk_rows)[1][:2]

    found = torch.func.vmap(gradients)(classifiers)
    for ours, alone in zip(found, zip(*map(gradients, classifiers), strict=True), strict=True):
        torch.testing.assert_close(ours, torch.stack(alone), rtol=1e-12, atol=1e-15)


# --- sums -----------------------------------------------------------------------------------------------------------


def wide_buffers(**settings):
    """The gradient of a bfloat16 classifier, and how many float32 tensors of its size were made."""
    torch = need("torch")
    ms = need("multismooth.torch")

    class Watch(need("torch.utils._python_dispatch").TorchDispatchMode):
        made = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            own = isinstance(result, torch.Tensor) and result.shape == (600, 8) and result.dtype == torch.float32
            self.made += own and function.overloadpacket in (torch.ops.aten.empty_like, torch.ops.aten.zeros_like)
            return result

    generator = torch.Generator().manual_seed(0)
    hidden, classifier = (torch.randn(n, 8, generator=generator).bfloat16() for n in (512, 600))
    labels = torch.randint(0, 600, (512,), generator=generator)
    with Watch() as watch:
        _, (_, gradient, _) = ms.linear_loss_and_grad(hidden, classifier, labels, reduction="sum", **settings)
    exact = ms.linear_loss_and_grad(hidden.double(), classifier.double(), labels, reduction="sum")[1][1]
    return (gradient.double() - exact).norm() / exact.norm(), watch.made


def test_one_chunk_needs_no_float32_sum_and_several_may_do_without():
    single, made = wide_buffers(chunk_rows=512)
    assert made == 0
    several, made = wide_buffers(chunk_rows=8)
    assert made == 1
    narrow, made = wide_buffers(chunk_rows=8, accumulate="input")
    assert made == 0
    assert single < 0.006
    assert several < 0.006
    assert narrow > 2 * several


@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_in_float64_both_sums_are_the_same(name):
    adapter = {a.name: a for a in BACKENDS}[name]
    head = (HIDDEN, CLASSIFIER, LABELS)
    one, other = (
        adapter.call("linear_loss_and_grad", *head, chunk_rows=2, accumulate=how)[1] for how in ("float32", "input")
    )
    for ours, theirs in zip(one[:2], other[:2], strict=True):
        assert_close(ours, theirs, "float64")


@pytest.mark.parametrize("name", ["spec", "whole", "numba"])
def test_without_a_gradient_the_kernel_that_is_named_runs(name):
    torch = need("torch")
    ms = need("multismooth.torch")
    need("numba")
    head = [torch.tensor(x) for x in (HIDDEN, CLASSIFIER, LABELS)]
    with multismooth.implementation(name) as ran:
        found = ms.linear_loss(*head, chunk_rows=4, reduction="none")
    assert ran == [name, name]
    assert_close(found, multismooth.linear_loss(HIDDEN, CLASSIFIER, LABELS, reduction="none"), "float64")


def test_accumulate_is_one_of_two():
    with pytest.raises(ValueError, match=r'`accumulate`: expected "float32" or "input"'):
        multismooth.linear_loss(HIDDEN, CLASSIFIER, LABELS, accumulate="bfloat16")


@pytest.mark.parametrize("chunk_rows", [None, 1024])
@pytest.mark.parametrize("name", ["numpy", "torch", "jax"])
def test_in_float16_the_smoothed_mass_of_a_class_survives_the_mean(name, chunk_rows):
    adapter = {a.name: a for a in BACKENDS}[name]
    rows, classes = 2048, 4096
    hidden, classifier = np.ones((rows, 2), np.float16), np.zeros((classes, 2), np.float16)
    bias = np.zeros(classes, np.float16)
    bias[7] = -40  # a class that nobody predicts: ∂/∂z is −ε/K of every row, in float16 less than the smallest number
    settings = {"bias": bias, "chunk_rows": chunk_rows}
    loss, gradients = adapter.call("linear_loss_and_grad", hidden, classifier, np.zeros(rows, np.int64), **settings)
    expected = -0.1 / classes
    assert np.float16(expected / rows) == 0
    assert_close(gradients[1][7], np.full(2, expected), "float16", scale=np.abs(expected))
    assert_close(gradients[2][7], np.float64(expected), "float16", scale=np.abs(expected))
    exact = multismooth.linear_loss(*(x.astype(float) for x in (hidden, classifier)), np.zeros(rows, int), bias=bias)
    assert_close(loss, exact, "float32", classes=classes, scale=np.abs(exact))


@pytest.mark.parametrize("normalizer", [None, 1.0, 2.0**20])
def test_in_float16_nothing_becomes_infinite(normalizer):
    torch = need("torch")
    ms = need("multismooth.torch")
    hidden, classifier = torch.full((4096, 2), 4.0).half(), torch.tensor([[3.0, 3.0], [-3.0, -3.0]]).half()
    labels = torch.full((4096,), -100)
    labels[5] = 1  # one row has all of the mean, and is as wrong as can be
    settings = {"normalizer": normalizer, "label_smoothing": 0.0}
    _, (d_hidden, d_classifier, _) = ms.linear_loss_and_grad(hidden, classifier, labels, **settings)
    denominator = normalizer or 1.0
    assert_close(d_hidden[5], np.full(2, 6.0 / denominator), "float16", scale=1 / denominator)
    assert_close(d_classifier, np.array([[4.0, 4.0], [-4.0, -4.0]]) / denominator, "float16", scale=1 / denominator)


# --- autocast -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("incoming", ["float32", "bfloat16"])
def test_autocast_makes_the_head_what_it_makes_of_a_linear_layer(incoming):
    torch = need("torch")
    ms = need("multismooth.torch")
    hidden = torch.tensor(np.nan_to_num(HIDDEN)).to(getattr(torch, incoming))
    classifier, bias = (torch.tensor(x, dtype=torch.float32, requires_grad=True) for x in (CLASSIFIER, BIAS))
    labels = torch.tensor(LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = ms.linear_loss(hidden, classifier, labels, bias=bias)
        with torch.no_grad():
            assert torch.equal(ms.linear_loss(hidden, classifier, labels, bias=bias), loss)
        value, gradients = ms.linear_loss_and_grad(hidden, classifier, labels, bias=bias)
        added = ms.smoothing_correction(hidden, classifier, labels, bias=bias, prior=PRIOR)
    head = [x.detach().bfloat16() for x in (hidden, classifier, bias)]
    expected, found = ms.linear_loss_and_grad(head[0], head[1], labels, bias=head[2])
    assert loss == value == expected
    for ours, mine, theirs in zip(torch.autograd.grad(loss, (classifier, bias)), gradients[1:], found[1:], strict=True):
        assert ours.dtype == mine.dtype == torch.float32
        assert torch.equal(ours, theirs.float())
        assert torch.equal(mine, theirs.float())
    assert torch.equal(added, ms.smoothing_correction(hidden, classifier, labels, bias=bias, prior=PRIOR))


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.cuda(framework="torch")
@pytest.mark.parametrize("settings", [{}, {"chunk_rows": 128}, {"chunk_rows": 128, "accumulate": "input"}], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_on_a_gpu_the_head_is_the_cpus(dtype, settings):
    torch = need("torch")
    ms = need("multismooth.torch")
    dtype = getattr(torch, dtype)
    hidden, classifier, bias = torch.randn(1000, 64), torch.randn(3000, 64) / 8, torch.randn(3000)
    labels = torch.randint(0, 3000, (1000,))
    labels[::7] = -100
    head = [x.to("cuda", dtype).requires_grad_() for x in (hidden, classifier, bias)]
    loss = ms.linear_loss(*head[:2], labels.cuda(), bias=head[2], **settings)
    found = torch.autograd.grad(loss, head, retain_graph=True)
    for ours, again in zip(found, torch.autograd.grad(loss, head), strict=True):
        assert torch.equal(ours, again)
    exact = [x.detach().double().cpu().requires_grad_() for x in head]
    expected = ms.linear_loss(*exact[:2], labels, bias=exact[2])
    torch.testing.assert_close(loss.detach().double().cpu(), expected.detach(), rtol=1e-3, atol=0)
    for ours, theirs in zip(found, torch.autograd.grad(expected, exact), strict=True):
        assert (ours.double().cpu() - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.cuda(framework="torch")
def test_on_a_gpu_the_correction_repeats_its_bits():
    torch = need("torch")
    ms = need("multismooth.torch")
    hidden, classifier = (torch.randn(n, 64, device="cuda").requires_grad_() for n in (4096, 50))
    labels = torch.randint(0, 50, (4096,), device="cuda")
    first, second = (
        torch.autograd.grad(ms.smoothing_correction(hidden, classifier, labels), (hidden, classifier)) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
