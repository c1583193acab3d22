"""PyTorch's `LinearLoss` beside `nn.Linear` and the loss, in every mode: autocast, graphs, copies, moves, options."""

import numpy as np
import pytest
from requirements import need

torch = need("torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402 torch may be missing
from torch_calls import COPIES, close, like  # noqa: E402

import multismooth.torch as ms  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
N, D, K = 6, 4, 5
GENERATOR = torch.Generator().manual_seed(0)
HIDDEN = torch.randn(N, D, generator=GENERATOR)
LABELS = torch.tensor([0, 1, -100, 3, 4, 2])
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "convention": "others"},
    "arrays": {"label_smoothing": 0.2, "weight": torch.arange(1.0, K + 1), "prior": torch.full((K,), 1 / K)},
    "a mask": {"class_mask": torch.tensor([True] * K), "label_smoothing": 0.1, "z_loss": 0.1},
    "each": {"reduction": "none", "chunk_rows": 2},
}


class Pair:
    """A head, and the layer with the same parameters followed by the loss of its logits."""

    def __init__(self, options, **layer):
        torch.manual_seed(0)
        self.options = options
        self.head, self.layer = ms.LinearLoss(D, K, **layer, **options), torch.nn.Linear(D, K, **layer)
        self.head.load_state_dict(self.layer.state_dict(), strict=False)

    def composed(self, hidden, labels, **more):
        options = {name: value for name, value in (self.options | more).items() if name != "chunk_rows"}
        return ms.loss(self.layer(hidden), labels, **options)

    def results(self, hidden=HIDDEN, labels=LABELS, head=None):
        """((loss, gradients) of the head, the same of the layer)"""
        found = []
        for call, module in ((self.head if head is None else head, self.head), (self.composed, self.layer)):
            x = hidden.detach().requires_grad_()
            loss = call(x, labels)
            found.append((loss, *torch.autograd.grad(loss, [x, *module.parameters()], torch.ones_like(loss))))
        return found


@pytest.fixture(params=OPTIONS)
def pair(request):
    torch._dynamo.reset()
    return Pair(OPTIONS[request.param])


def test_values_and_gradients(pair):
    close(*pair.results())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(pair, dtype):
    with torch.autocast("cpu", dtype):
        found, expected = pair.results()
    like(found, expected)
    close(found, expected, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(pair, dtype):
    pair.head.to(dtype)
    pair.layer.to(dtype)
    found, expected = pair.results(HIDDEN.to(dtype))
    like(found, expected)
    close(found, expected, **({} if dtype is torch.float64 else {"rtol": 2e-2, "atol": 2e-2}))


def test_fake_and_meta_tensors(pair):
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        like(*pair.results(mode.from_tensor(HIDDEN), mode.from_tensor(LABELS)))
    pair.head.to("meta")
    pair.layer.to("meta")
    pair.options = {k: x.to("meta") if isinstance(x, torch.Tensor) else x for k, x in pair.options.items()}
    like(*pair.results(HIDDEN.to("meta"), LABELS.to("meta")))


def test_compiled_with_open_sizes(pair):
    compiled = torch.compile(pair.head, backend="aot_eager", fullgraph=True, dynamic=True)
    for times in (1, 2):
        hidden, labels = HIDDEN.repeat(times, 1), LABELS.repeat(times)
        close(*pair.results(hidden, labels, compiled))


def test_exported_with_an_open_batch(pair):
    n = torch.export.Dim("n", min=2)
    program = torch.export.export(pair.head, (HIDDEN, LABELS), dynamic_shapes=({0: n}, {0: n})).module()
    for times in (1, 2):
        hidden, labels = HIDDEN.repeat(times, 1), LABELS.repeat(times)
        close([program(hidden, labels)], [pair.composed(hidden, labels)])


def test_torch_func(pair):
    parameters = {name: x.detach() for name, x in pair.head.named_parameters()}

    def head(parameters, hidden):
        return torch.func.functional_call(pair.head, parameters, (hidden, LABELS)).sum()

    def layer(parameters, hidden):
        logits = torch.func.functional_call(pair.layer, parameters, (hidden,))
        options = {name: value for name, value in pair.options.items() if name != "chunk_rows"}
        return ms.loss(logits, LABELS, **options).sum()

    batch = torch.stack([HIDDEN, -HIDDEN])
    ours = torch.func.vmap(torch.func.grad(head), (None, 0))(parameters, batch)
    theirs = torch.func.vmap(torch.func.grad(layer), (None, 0))(parameters, batch)
    close(ours.values(), theirs.values())
    ours, theirs = (torch.func.jvp(lambda x, f=f: f(parameters, x), (HIDDEN,), (HIDDEN,)) for f in (head, layer))
    close(ours, theirs)


@pytest.mark.parametrize("through", COPIES)
def test_copies(pair, through):
    twin = COPIES[through](pair.head)
    assert repr(twin) == repr(pair.head)
    close([twin(HIDDEN, LABELS)], [pair.head(HIDDEN, LABELS)], rtol=0, atol=0)
    with torch.no_grad():
        twin.weight += 1
    assert not torch.equal(twin.weight, pair.head.weight)


def test_the_state_has_the_arrays_and_those_of_the_caller_are_left_alone():
    weight = torch.ones(K)
    head, other = (ms.LinearLoss(D, K, weight=value, label_smoothing=0.1) for value in (weight, np.arange(1.0, K + 1)))
    assert sorted(head.state_dict()) == ["bias", "class_weight", "weight"]
    head.load_state_dict(other.state_dict())
    close([head(HIDDEN, LABELS)], [other(HIDDEN, LABELS)])
    assert [name for name, _ in head.named_parameters()] == ["weight", "bias"]
    assert head.half().class_weight.dtype is torch.float32
    assert head.to("meta").class_weight.device.type == "meta"


def test_loading_a_state_leaves_the_caller_s_array_alone():
    weight = np.ones(K, np.float32)
    head = ms.LinearLoss(D, K, weight=weight)
    head.load_state_dict(ms.LinearLoss(D, K, weight=np.full(K, 7, np.float32)).state_dict())
    assert (weight == 1).all()


def test_options_of_a_call_win(pair):
    close([pair.head(HIDDEN, LABELS, label_smoothing=0.3)], [pair.composed(HIDDEN, LABELS, label_smoothing=0.3)])


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"smoothing": 0.1}, TypeError),
        ({"convention": "tourch"}, ValueError),
        ({"reduction": "average"}, ValueError),
        ({"weight": [1.0, 2.0]}, ValueError),
        ({"prior": np.ones((K, K + 1))}, ValueError),
    ],
)
def test_what_no_call_could_mean_is_refused_when_the_head_is_made(options, error):
    with pytest.raises(error, match=r"label_smoothing|torch|mean|weight|prior"):
        ms.LinearLoss(D, K, **options)


def test_without_a_bias_on_a_device_in_a_dtype():
    pair = Pair(OPTIONS["arrays"], bias=False, dtype=torch.float64)
    close(*pair.results(HIDDEN.double()), rtol=1e-12, atol=1e-12)
    assert ms.LinearLoss(D, K, device="meta", weight=torch.ones(K)).class_weight.device.type == "meta"


# --- Loss -------------------------------------------------------------------------------------------------------------

LOGITS = torch.randn(N, K, generator=GENERATOR)
CRITERIA = {name: {k: v for k, v in options.items() if k != "chunk_rows"} for name, options in OPTIONS.items()}


@pytest.fixture(params=CRITERIA)
def criterion(request):
    torch._dynamo.reset()
    options = CRITERIA[request.param]
    return ms.Loss(**options), lambda *arguments, **more: ms.loss(*arguments, **options | more)


def loss_and_slope(function, dtype=torch.float32, **more):
    z = LOGITS.to(dtype).requires_grad_()
    loss = function(z, LABELS, **more)
    return loss, *torch.autograd.grad(loss, [z], torch.ones_like(loss))


def test_the_module_is_the_loss(criterion):
    module, loss = criterion
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        close(loss_and_slope(module, dtype), loss_and_slope(loss, dtype), rtol=0, atol=0)
    close(
        loss_and_slope(module, label_smoothing=0.3, reduction="sum"),
        loss_and_slope(loss, label_smoothing=0.3, reduction="sum"),
        rtol=0,
        atol=0,
    )


def test_the_module_compiles_and_is_exported(criterion):
    module, loss = criterion
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    close(loss_and_slope(compiled), loss_and_slope(loss))
    program = torch.export.export(module, (LOGITS, LABELS)).module()
    close([program(LOGITS, LABELS)], [loss(LOGITS, LABELS)])


@pytest.mark.parametrize("through", COPIES)
def test_copies_of_the_module(criterion, through):
    module, _ = criterion
    twin = COPIES[through](module)
    assert repr(twin) == repr(module)
    close([twin(LOGITS, LABELS)], [module(LOGITS, LABELS)], rtol=0, atol=0)


def test_the_module_s_arrays_are_buffers_and_those_of_the_caller_are_left_alone():
    weight = np.ones(K, np.float32)
    module, other = ms.Loss(weight=weight, convention="fairseq"), ms.Loss(weight=np.full(K, 7, np.float32))
    assert list(module.state_dict()) == ["weight"]
    assert not list(module.parameters())
    module.load_state_dict(other.state_dict())
    assert (weight == 1).all()
    assert (module.weight == 7).all()
    assert module.half().weight.dtype is torch.float32
    assert module.to("meta").weight.device.type == "meta"
    assert repr(module) == f"Loss(convention='fairseq', weight=({K},))"


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"smoothing": 0.1}, TypeError),
        ({"chunk_rows": 2}, TypeError),
        ({"convention": "tourch"}, ValueError),
        ({"reduction": "average"}, ValueError),
    ],
)
def test_what_no_call_could_mean_is_refused_when_the_module_is_made(options, error):
    with pytest.raises(error, match=r"label_smoothing|torch|mean"):
        ms.Loss(**options)


def test_a_misspelt_option_of_a_call_is_refused():
    for module, first in ((ms.Loss(), LOGITS), (ms.LinearLoss(D, K), HIDDEN)):
        with pytest.raises(TypeError, match="label_smoothing"):
            module(first, LABELS, smoothing=0.1)
