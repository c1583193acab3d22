"""Every drop-in beside its original in every mode of PyTorch's: results, derivatives, graphs, copies."""

import io
import pickle
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from requirements import need

torch = need("torch")
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402 torch may be missing
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch_calls import COPIES, close, drawn, labels, like  # noqa: E402

import multismooth.torch as ms  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:linear_cross_entropy",  # torch says that its own is a prototype
    "ignore:.torch.jit.script. is deprecated",
)
N, K, D = 6, 5, 4
HALVES = (torch.float16, torch.bfloat16)


def rows(*shape):
    return torch.softmax(drawn(*shape, seed=1), 1)


def joined(input, linear_weight, target, *, linear_bias=None, ignore_index=-100, **settings):
    """What linear_cross_entropy is by definition (and torch's own before 2.13 lacks)."""
    return F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, ignore_index=ignore_index, **settings)


@dataclass(frozen=True, eq=False)
class Call:
    """A call of both functions: its tensors by name, of which `moving` are differentiated, and its other settings."""

    ours: object
    theirs: object
    tensors: dict
    settings: dict = field(default_factory=dict)
    moving: tuple = ("input",)

    def of(self, function, tensors):
        return function(**tensors, **self.settings)

    def leaves(self, tensors=None):
        """Copies of the tensors, leaves of their own where they are differentiated."""
        made = {name: value.clone() for name, value in (tensors or self.tensors).items()}
        return {name: value.requires_grad_(name in self.moving) for name, value in made.items()}

    def results(self, function, tensors):
        """(loss, its gradients)"""
        loss = self.of(function, tensors)
        return loss, *torch.autograd.grad(loss, [tensors[name] for name in self.moving], torch.ones_like(loss))


def plain(name, tensors, **settings):
    soft = tensors["target"].is_floating_point()
    moving = ("input", "target") if soft else ("input",)
    return name, Call(ms.cross_entropy, F.cross_entropy, tensors, settings, moving)


def linear(name, target, *moving, **settings):
    tensors = {"input": drawn(N, D), "linear_weight": drawn(K, D, seed=2), "target": target}
    if "linear_bias" in moving:
        tensors["linear_bias"] = drawn(K, seed=3)
    moving = ("input", "linear_weight", *moving)
    return name, Call(ms.linear_cross_entropy, joined, tensors, settings, moving)


def weighted(logits, target):
    return {"input": logits, "target": target, "weight": drawn(K, seed=4).exp()}


CALLS = dict([
    plain("labels", {"input": drawn(N, K), "target": labels(N)}),
    plain("smoothed", {"input": drawn(N, K), "target": labels(N, ignored=-100)}, label_smoothing=0.1),
    plain("weighted", weighted(drawn(N, K), labels(N, ignored=3)), label_smoothing=0.1, ignore_index=3),
    plain("each", {"input": drawn(N, K), "target": labels(N)}, label_smoothing=0.1, reduction="none"),
    plain("summed images", weighted(drawn(2, K, 3, 3), labels(2, 3, 3, ignored=-100)), reduction="sum"),
    plain("probabilities", {"input": drawn(N, K), "target": rows(N, K)}, label_smoothing=0.2),
    plain("weighted one-hot rows", weighted(drawn(N, K), F.one_hot(labels(N), K).float()), label_smoothing=0.2),
    linear("a layer", labels(N, ignored=-100), label_smoothing=0.1),
    linear("a layer with a bias", labels(N), "linear_bias", reduction="none"),
    linear("a layer to probabilities", rows(N, K), "linear_bias", "target", label_smoothing=0.1),
])  # fmt: skip


@pytest.fixture(params=CALLS)
def call(request):
    torch._dynamo.reset()
    return CALLS[request.param]


def longer(tensors):
    """The same call of twice as many elements."""
    return {name: torch.cat([x, x]) if name in ("input", "target") else x for name, x in tensors.items()}


# --- dtypes: autocast, GradScaler -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", HALVES)
@pytest.mark.parametrize("given", [torch.float32, *HALVES])
def test_autocast(call, inside, given):
    tensors = {k: x.to(given) if x.is_floating_point() and k != "weight" else x for k, x in call.tensors.items()}
    with torch.autocast("cpu", inside):
        found, expected = (call.results(f, call.leaves(tensors)) for f in (call.ours, call.theirs))
    like(found, expected)
    half = call.ours is ms.linear_cross_entropy or given in HALVES
    torch.testing.assert_close(found[0], expected[0], rtol=1e-2 if half else 2e-6, atol=2e-2 if half else 2e-6)
    if call.ours is ms.cross_entropy:  # no product before it
        torch.testing.assert_close(found[0], expected[0], rtol=2e-6, atol=1e-6)
        one = 2.0**-10 if given is torch.float16 else 2.0**-7 if given is torch.bfloat16 else 2e-6
        close(found[1:], expected[1:], rtol=one, atol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_a_grad_scaler_over_30_steps(soft):
    """Its scale grows to where gradients overflow, and falls, at the same steps."""

    def trained(criterion):
        torch.manual_seed(0)
        layer = torch.nn.Linear(D, K)
        optimizer = torch.optim.SGD(layer.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=65_536.0, growth_interval=4)
        scales = []
        for step in range(30):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = criterion(layer(3 * drawn(N, D, seed=step)), rows(N, K) if soft else labels(N))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            scales.append(scaler.get_scale())
        return scales, [x.detach() for x in layer.parameters()]

    (scales, found), (their_scales, expected) = (
        trained(module.CrossEntropyLoss(label_smoothing=0.1)) for module in (ms, torch.nn)
    )
    assert scales == their_scales
    assert {after > before for before, after in pairwise(scales) if after != before} == {True, False}
    close(found, expected, rtol=2e-3, atol=2e-4)


# --- without numbers: fake, meta, traced, exported, compiled ----------------------------------------------------------


def test_fake_tensors(call):
    with FakeTensorMode() as mode:
        tensors = {k: mode.from_tensor(x) for k, x in call.tensors.items()}
        found, expected = (
            call.results(f, {k: x.detach().requires_grad_(k in call.moving) for k, x in tensors.items()})
            for f in (call.ours, call.theirs)
        )
    like(found, expected)


def test_meta_tensors(call):
    tensors = {k: x.to("meta") for k, x in call.tensors.items()}
    found, expected = (
        call.results(f, {k: x.detach().requires_grad_(k in call.moving) for k, x in tensors.items()})
        for f in (call.ours, call.theirs)
    )
    like(found, expected)


@pytest.mark.compiles
def test_make_fx_with_symbols(call):
    names = list(call.tensors)

    def function(*tensors):
        return call.results(call.ours, dict(zip(names, tensors, strict=True)))

    program = make_fx(function, tracing_mode="symbolic")(*call.leaves().values())
    for tensors in (call.tensors, longer(call.tensors)):
        found = program(*call.leaves(tensors).values())
        close(found, call.results(call.theirs, call.leaves(tensors)), rtol=2e-6, atol=2e-6)


@pytest.mark.compiles
def test_export_with_open_sizes(call):
    class Module(torch.nn.Module):
        def forward(self, tensors):
            return call.of(call.ours, tensors)

    n, k = torch.export.Dim("n", min=2), torch.export.Dim("k", min=2)
    soft, layer = "target" in call.moving, call.ours is ms.linear_cross_entropy
    shapes = {
        "input": {0: n} if layer else {0: n, 1: k},
        "target": {0: n, 1: k} if soft else {0: n},
        "weight": {0: k},
        "linear_weight": {0: k},
        "linear_bias": {0: k},
    }
    open_sizes = {name: shapes[name] for name in call.tensors}
    program = torch.export.export(Module(), (call.tensors,), dynamic_shapes=(open_sizes,))
    wider = longer(call.tensors)
    for name, x in wider.items():
        for axis, size in shapes[name].items():
            wider[name] = torch.cat([x, x], axis) / (2 if name == "target" else 1) if size is k else wider[name]
    for tensors in (call.tensors, longer(call.tensors), wider):
        close([program.module()(tensors)], [call.of(call.theirs, tensors)], rtol=2e-6, atol=2e-6)


def test_compiled_with_open_sizes(call):
    compiled = torch.compile(call.ours, backend="aot_eager", fullgraph=True, dynamic=True)
    for tensors in (call.tensors, longer(call.tensors)):
        found, expected = (call.results(f, call.leaves(tensors)) for f in (compiled, call.theirs))
        close(found, expected, rtol=2e-6, atol=2e-6)


# --- transformed ------------------------------------------------------------------------------------------------------


def test_torch_func(call):
    moving, fixed = {k: call.tensors[k] for k in call.moving}, call.tensors
    tangents = {k: drawn(*x.shape, seed=7) for k, x in moving.items()}
    batch = {k: torch.stack([x, 2 * x]) if k != "target" else torch.stack([x, x]) for k, x in moving.items()}

    def transformed(function):
        def of(moving):
            return call.of(function, fixed | moving)

        def total(moving):
            return of(moving).sum()

        yield from torch.func.grad(total)(moving).values()
        yield from torch.func.jvp(of, (moving,), (tangents,))
        yield torch.func.vmap(of)(batch)
        yield from torch.func.vmap(torch.func.grad(total))(batch).values()
        yield from torch.func.jvp(torch.func.grad(total), (moving,), (tangents,))[1].values()

    close(transformed(call.ours), transformed(call.theirs), rtol=2e-5, atol=2e-6)


# --- objects ----------------------------------------------------------------------------------------------------------


def saved(module):
    """A module through a file."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = COPIES | {"torch.save": saved}


@pytest.mark.parametrize("through", COPIES)
def test_a_module_is_copied(through):
    arguments = {"weight": drawn(K).exp(), "ignore_index": 3, "label_smoothing": 0.1, "reduction": "sum"}
    module = COPIES[through](ms.CrossEntropyLoss(**arguments)).half().float()
    original = torch.nn.CrossEntropyLoss(**arguments | {"weight": arguments["weight"].half().float()})
    assert type(module) is ms.CrossEntropyLoss
    assert repr(module) == repr(original)
    original.load_state_dict(module.state_dict())
    module.load_state_dict(original.state_dict())
    logits = drawn(N, K)
    torch.testing.assert_close(module(logits, labels(N)), original(logits, labels(N)))
    assert module.to("meta")(logits.to("meta"), labels(N).to("meta")).device.type == "meta"


@pytest.mark.parametrize("through", ["deepcopy", "pickle"])
@pytest.mark.parametrize("name", ["cross_entropy", "linear_cross_entropy", "loss", "linear_loss", "binary_loss"])
def test_a_function_is_known_by_its_name(through, name):
    function = getattr(ms, name)
    assert COPIES[through](function) is function
    assert len(pickle.dumps(function)) < 100


KEPT = [(name, k) for name, call in CALLS.items() if call.ours is ms.cross_entropy for k in call.tensors]


@pytest.mark.parametrize(("name", "written"), KEPT)
def test_what_is_written_to_between_forward_and_backward(name, written):
    """The gradient is that of the old numbers, or an error; an error only where torch's own has one, but for logits,
    which torch needs no more, and we only for what is differentiated twice."""
    call = CALLS[name]
    moving = [k for k in call.moving if k != written or written == "input"]
    answers = []
    for function in (call.ours, call.theirs):
        tensors = {k: x.clone().requires_grad_(k in moving) for k, x in call.tensors.items()}
        given = dict(tensors)
        if written == "input":
            given["input"] = tensors["input"] * 1.0  # a leaf cannot be written to
        loss = call.of(function, given).sum()
        with torch.no_grad():
            given[written].copy_(given[written].flip(0))
        try:
            answers.append(torch.autograd.grad(loss, [tensors[k] for k in moving]))
        except RuntimeError as error:
            assert "modified by an inplace operation" in str(error)  # noqa: PT017 either answer is right
            answers.append(None)
    right = call.results(call.theirs, call.leaves())[1:]
    right = [gradient for k, gradient in zip(call.moving, right, strict=True) if k in moving]
    if answers[0] is not None:
        close(answers[0], right, rtol=2e-6, atol=1e-6)
    elif answers[1] is not None:
        assert written == "input"
        assert call.settings.get("reduction") == "none" or "target" in call.moving
