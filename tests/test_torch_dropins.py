"""The drop-ins pass the sample inputs that PyTorch ships for its functions, and differ only where those are wrong."""

import copy
import functools
import pickle
from itertools import islice

import pytest
from requirements import need

torch = need("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward-mode AD of torch itself
need("expecttest")
from torch.nn import functional as F  # noqa: E402

import multismooth.torch as ms  # noqa: E402
from multismooth import LabelError, SmoothingError  # noqa: E402

OURS = {
    "nn.functional.cross_entropy": ms.cross_entropy,
    "nn.functional.linear_cross_entropy": ms.linear_cross_entropy,
}
LINEAR = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2]) >= (2, 13)
VARIANTS = [
    "cross_entropy",
    "linear_cross_entropy",
    "linear_cross_entropy chunked",
    "linear_cross_entropy chunked_none",
]
EXACT = {"rtol": 1e-12, "atol": 1e-12, "equal_nan": True}


@functools.cache
def records():
    """PyTorch's samples of our functions, by name and variant. Their module takes 5 s to import, so a test does it."""
    from torch.testing._internal.common_methods_invocations import op_db

    named = {f"{op.name} {op.variant_test_name}".strip(): op for op in op_db if op.name in OURS}
    return {name.removeprefix("nn.functional."): op for name, op in named.items()}


@pytest.fixture(params=VARIANTS if LINEAR else VARIANTS[:1])
def op(request):
    return records()[request.param]


def samples(op):
    return op.sample_inputs("cpu", torch.float64, requires_grad=True)


def differentiable(sample):
    return [x for x in (sample.input, *sample.args) if isinstance(x, torch.Tensor) and x.requires_grad]


def as_function(op, sample):
    """The drop-in as a function of the sample's differentiable tensors alone."""
    wanted = [isinstance(x, torch.Tensor) and x.requires_grad for x in (sample.input, *sample.args)]

    def function(*moving):
        moving = iter(moving)
        arguments = [next(moving) if want else x for want, x in zip(wanted, (sample.input, *sample.args), strict=True)]
        return OURS[op.name](*arguments, **sample.kwargs)

    return function


def original(op, sample):
    """torch's own result; without `options`, whose chunked path lacks second derivatives."""
    return op.op(sample.input, *sample.args, **{k: v for k, v in sample.kwargs.items() if k != "options"})


def test_there_are_samples():
    assert list(records()) == (VARIANTS if LINEAR else VARIANTS[:1])
    assert all(sum(1 for _ in samples(op)) >= 20 for op in records().values())


@pytest.mark.filterwarnings("ignore:linear_cross_entropy")
def test_values_and_gradients_are_torchs(op):
    for sample in samples(op):
        ours, theirs = as_function(op, sample)(*differentiable(sample)), original(op, sample)
        torch.testing.assert_close(ours, theirs, **EXACT)
        if not theirs.numel():
            continue
        inputs = [x for x in (sample.input, *sample.args, *sample.kwargs.values()) if isinstance(x, torch.Tensor)]
        inputs = [x for x in inputs if x.requires_grad]
        upstream = torch.linspace(0.5, 1.5, theirs.numel(), dtype=theirs.dtype).reshape(theirs.shape)
        found = torch.autograd.grad(ours, inputs, upstream, allow_unused=True)
        for mine, other in zip(found, torch.autograd.grad(theirs, inputs, upstream, allow_unused=True), strict=True):
            if other is None:
                assert mine is None or not mine.any()
            else:
                torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12, equal_nan=True)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:linear_cross_entropy")
def test_first_derivatives_forward_backward_and_batched(op):
    """Every sample in gradcheck's fast mode (random projections of both Jacobians)."""
    for sample in samples(op):
        if sample.input.numel():
            function = as_function(op, sample)
            settings = {"check_forward_ad": True, "check_batched_grad": True, "check_batched_forward_grad": True}
            assert torch.autograd.gradcheck(function, differentiable(sample), fast_mode=True, **settings)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:linear_cross_entropy")
def test_second_derivatives(op):
    """Every second sample: their second derivatives take the one plain path, whatever the shapes."""
    for sample in islice(samples(op), 0, None, 2):
        if sample.input.numel():
            assert torch.autograd.gradgradcheck(as_function(op, sample), differentiable(sample), fast_mode=True)


def test_full_jacobians_of_cross_entropy():
    """The slow mode compares every entry; the first samples are small enough for it."""
    op = records()["cross_entropy"]
    checked = 0
    for sample in samples(op):
        if 0 < sample.input.numel() <= 120:
            function, inputs = as_function(op, sample), differentiable(sample)
            assert torch.autograd.gradcheck(function, inputs, check_forward_ad=True, check_batched_grad=True)
            assert torch.autograd.gradgradcheck(function, inputs)
            checked += 1
    assert checked >= 5


@pytest.mark.parametrize("training", [True, False])
def test_module_samples(training):
    from torch.testing._internal.common_modules import module_db

    (info,) = (info for info in module_db if info.name == "nn.CrossEntropyLoss")
    count = 0
    for sample in info.module_inputs_func(info, "cpu", torch.float64, requires_grad=True, training=training):
        construct, forward = sample.constructor_input, sample.forward_input
        ours = ms.CrossEntropyLoss(*construct.args, **construct.kwargs)
        theirs = torch.nn.CrossEntropyLoss(*construct.args, **construct.kwargs)
        mine, other = (module(*forward.args, **forward.kwargs) for module in (ours, theirs))
        torch.testing.assert_close(mine, other, **EXACT)
        inputs = [x for x in forward.args if x.requires_grad]
        slopes = [torch.autograd.grad(result.sum(), inputs) for result in (mine, other)]
        torch.testing.assert_close(*slopes, rtol=1e-11, atol=1e-12, equal_nan=True)
        count += 1
    assert count >= 10


def test_module_is_torchs_in_all_but_the_arithmetic():
    weight = torch.rand(5)
    ours, theirs = (
        module(weight=weight, ignore_index=2, reduction="sum", label_smoothing=0.1)
        for module in (ms.CrossEntropyLoss, torch.nn.CrossEntropyLoss)
    )
    assert repr(ours) == repr(theirs)
    assert isinstance(ours, torch.nn.CrossEntropyLoss)
    assert dict(ours.named_buffers()).keys() == dict(theirs.named_buffers()).keys() == {"weight"}
    ours.load_state_dict(theirs.state_dict())
    logits, labels = torch.randn(4, 5), torch.tensor([0, 1, 2, 4])
    for copied in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert copied(logits, labels) == ours(logits, labels)
    assert ours.double().weight.dtype == torch.float64


def test_the_mean_over_nothing_is_nan_with_no_gradient_as_in_torch():
    for labels in (torch.full((3,), -100), torch.tensor([], dtype=torch.int64)):
        logits = torch.randn(len(labels), 4, requires_grad=True)
        loss = ms.cross_entropy(logits, labels, label_smoothing=0.1)
        assert loss.isnan()
        assert F.cross_entropy(logits, labels, label_smoothing=0.1).isnan()
        loss.backward()
        assert not logits.grad.any()


def test_half_precision_does_not_overflow():
    """torch sums log-probabilities in float16: infinite from 3,000 classes on."""
    logits, labels = torch.randn(4, 5000).half(), torch.arange(4)
    exact = F.cross_entropy(logits.double(), labels, label_smoothing=0.1)
    ours = ms.cross_entropy(logits, labels, label_smoothing=0.1)
    assert ours.dtype == torch.float16
    assert abs(ours.double() - exact) <= 2**-10 * exact


def test_an_ignored_row_leaks_nothing():
    logits = torch.randn(3, 4)
    logits[1] = float("nan")
    logits.requires_grad_()
    loss = ms.cross_entropy(logits, torch.tensor([0, -100, 2]), label_smoothing=0.1)
    loss.backward()
    assert loss.isfinite()
    assert (logits.grad[1] == 0).all()
    assert logits.grad[0].isfinite().all()


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_a_smoothing_outside_its_range_is_refused(value):
    for call in (
        ms.cross_entropy,
        lambda *args, **options: ms.linear_cross_entropy(args[0], torch.ones(4, 4), args[1], **options),
    ):
        with pytest.raises(SmoothingError, match="label_smoothing"):
            call(torch.randn(2, 4), torch.tensor([0, 1]), label_smoothing=value)


def test_a_boolean_smoothing_is_refused():
    with pytest.raises(TypeError, match="label_smoothing"):
        ms.cross_entropy(torch.randn(2, 4), torch.tensor([0, 1]), label_smoothing=True)


def test_labels_out_of_range_raise_what_torch_raises():
    for error in (IndexError, LabelError):
        with pytest.raises(error, match=r"\[0, 4\)"):
            ms.cross_entropy(torch.randn(2, 4), torch.tensor([0, 4]))


def test_probability_targets_take_no_ignore_index():
    rows = torch.softmax(torch.randn(2, 4), 1)
    for call in (
        lambda: ms.cross_entropy(torch.randn(2, 4), rows, ignore_index=0),
        lambda: ms.linear_cross_entropy(torch.randn(2, 3), torch.randn(4, 3), rows, ignore_index=-100),
    ):
        with pytest.raises(RuntimeError, match="ignore_index"):
            call()


@pytest.mark.filterwarnings("ignore:size_average")
def test_the_retired_flags_still_win():
    logits, labels = torch.randn(3, 4), torch.tensor([0, 1, 2])
    for flags in ({"size_average": False}, {"reduce": False}, {"size_average": True, "reduce": True}):
        torch.testing.assert_close(ms.cross_entropy(logits, labels, **flags), F.cross_entropy(logits, labels, **flags))
