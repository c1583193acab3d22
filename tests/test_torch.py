"""PyTorch: the one-node path equals the plain text, says when it ran, and steps aside whenever it must."""

import copy

import numpy as np
import problems
import pytest
from requirements import need

torch = need("torch")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward-mode AD of torch itself

import multismooth  # noqa: E402
import multismooth.torch as ms  # noqa: E402
from multismooth import backend  # noqa: E402
from multismooth.reduction import reduced_plan  # noqa: E402
from multismooth.spec import Plan  # noqa: E402
from multismooth.torch import plans  # noqa: E402
from multismooth.torch.namespace import XP  # noqa: E402

LABELS = torch.tensor([0, 1, -100, 3, 4, 0])


def logits(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


def plain(z, labels, **options):
    """The text of `spec`, differentiated by autograd alone."""
    call = ms._functions._call(z, labels, **options)
    return backend.total(call.problem, call.settings, XP)


def node(loss):
    return type(loss.grad_fn).__name__


def test_a_plan_made_in_numpy_is_the_plan_of_the_tensors():
    fields = set()
    for seed in range(300):
        case = problems.problem(seed, reckless=False, targets="hard")
        tensors = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in case.settings.items()}
        z, y = torch.tensor(case.logits, requires_grad=True), torch.tensor(case.targets)
        bound = ms._functions._call(z, y, **tensors)[:2]
        for name, ours, theirs in zip(Plan._fields, plans.planned(*bound), reduced_plan(*bound, XP), strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:  # numbers stand for arrays of one entry
                ours, theirs = torch.as_tensor(np.array(ours)), torch.as_tensor(theirs)
                torch.testing.assert_close(ours.expand_as(theirs), theirs, check_dtype=False, equal_nan=True)
                assert ours.ndim == 0 or ours.dtype is theirs.dtype
                fields.add(name)
    assert fields == set(Plan._fields) - {"u"}


SETTINGS = [
    {},
    {"label_smoothing": 0.0},
    {"ignore_index": None},
    {"convention": "others"},
    {"weight": torch.tensor([1.0, 0.5, 2.0, 1.5, 0.7]).double()},
    {"prior": torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25]).double()},
    {"class_mask": torch.tensor([True, True, False, True, True])},
    {"sample_weight": torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0]).double()},
    {"label_smoothing": torch.linspace(0, 0.4, 6).double()},
    {"z_loss": 0.3, "reduction": "sum"},
    {"reduction": "none"},
    {"reduction": "none", "ignore_index": None},
    {"normalizer": 11, "z_loss": 0.1},
]


@pytest.mark.parametrize("options", SETTINGS, ids=lambda options: ",".join(options) or "plain")
@pytest.mark.parametrize("shape", [(6, 5), (6, 40)])
def test_the_one_node_path_is_the_plain_text(options, shape):
    if shape[1] == 40:
        pad = {"weight": 1.0, "prior": 0.0, "class_mask": True}
        options = {
            k: torch.cat([v, torch.full((35,), pad[k], dtype=v.dtype)]) if k in pad else v for k, v in options.items()
        }
    labels = LABELS if options.get("ignore_index", -100) is not None else LABELS.clamp(min=0)
    z = logits(*shape)
    ours, theirs = ms.loss(z, labels, **options), plain(z, labels, **options)
    assert node(ours) == ("_ElementsBackward" if options.get("reduction") == "none" else "_SummedBackward")
    assert node(theirs) not in ("_ElementsBackward", "_SummedBackward")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(ours)
    found, expected = (torch.autograd.grad(loss, z, upstream, retain_graph=True)[0] for loss in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    again = torch.autograd.grad(ours, z, upstream)[0]
    assert torch.equal(found, again)
    assert torch.autograd.gradcheck(lambda z: ms.loss(z, labels, **options), z, fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda z: ms.loss(z, labels, **options), z, fast_mode=True)


@pytest.mark.parametrize("name", ["targets", "weight", "prior", "label_smoothing", "sample_weight"])
def test_what_else_wants_a_gradient_gets_it_from_the_plain_text(name):
    z = logits(4, 3)
    start = {
        "targets": torch.softmax(torch.randn(4, 3).double(), 1),
        "weight": torch.rand(3).double() + 0.5,
        "prior": torch.softmax(torch.randn(3).double(), 0),
        "label_smoothing": torch.tensor(0.2).double(),
        "sample_weight": torch.rand(4).double() + 0.5,
    }[name].requires_grad_()
    labels = torch.tensor([0, 1, -100, 2])

    def function(z, value):
        targets, options = (value, {}) if name == "targets" else (labels, {name: value})
        return ms.loss(z, targets, validate=False, **options)

    assert node(function(z, start)) != "_SummedBackward"
    assert torch.autograd.gradcheck(function, (z, start))
    assert torch.autograd.gradgradcheck(function, (z, start))


def test_torch_func():
    z = logits(6, 5).detach()

    def loss(z):
        return ms.loss(z, LABELS, z_loss=0.1)

    leaf = z.clone().requires_grad_()
    torch.testing.assert_close(torch.func.grad(loss)(z), torch.autograd.grad(loss(leaf), leaf)[0])
    stack = torch.stack([z, z + torch.randn_like(z)])
    torch.testing.assert_close(torch.func.vmap(loss)(stack), torch.stack([loss(part) for part in stack]))
    hessian = torch.func.hessian(loss)(z)
    torch.testing.assert_close(hessian, torch.autograd.functional.hessian(loss, z))
    tangent = torch.randn_like(z)
    moved = torch.func.jvp(loss, (z,), (tangent,))[1]
    torch.testing.assert_close(moved, (torch.func.grad(loss)(z) * tangent).sum())


@pytest.mark.parametrize("options", [{}, {"weight": torch.ones(5)}, {"reduction": "none"}, {"convention": "others"}])
def test_compile_makes_one_graph(options):
    z = logits(6, 5, dtype=torch.float32)
    compiled = torch.compile(multismooth.loss, fullgraph=True, backend="aot_eager")
    ours, eager = compiled(z, LABELS, **options), ms.loss(z, LABELS, **options)
    torch.testing.assert_close(ours, eager)
    found, expected = (torch.autograd.grad(loss.sum(), z)[0] for loss in (ours, eager))
    torch.testing.assert_close(found, expected)


MOST_OPERATIONS = {"loss": 66, "terms": 72, "cross_entropy": 72, "linear_loss": 51, "binary_loss": 29}


@pytest.mark.parametrize("name", MOST_OPERATIONS)
def test_a_compiler_gets_few_operations(name):
    """torch.compile takes about a millisecond for each, and their gradients come on top."""
    operations = []

    def backend(graph, inputs):
        operations.extend(node for node in graph.graph.nodes if node.op not in ("placeholder", "output"))
        return graph

    z = torch.randn(6, 5)
    tensors = {"linear_loss": (z, torch.randn(5, 5), LABELS), "binary_loss": (z, torch.rand(6, 5))}.get(
        name, (z, LABELS)
    )
    torch.compile(getattr(ms, name), fullgraph=True, backend=backend)(*tensors, label_smoothing=0.1)
    assert 0 < len(operations) <= MOST_OPERATIONS[name]


SIZES = (  # (N, K, what else is given): each of another size than the one before, and of another kind
    (4, 3, ()),
    (5, 4, ("weight",)),
    (6, 7, ("weight",)),
    (6, 5, ("prior",)),
    (7, 6, ("weight", "prior", "sample_weight")),
    (3, 8, ("class_mask",)),
)


@pytest.mark.parametrize("name", ["loss", "terms", "linear_loss", "smoothing_correction"])
def test_compiled_with_open_sizes(name):
    """Every check holds where sizes are a compiler's symbols, of which some arguments have had other ones."""

    def call(logits, labels, **more):
        if name in ("linear_loss", "smoothing_correction"):
            return getattr(ms, name)(logits, torch.eye(logits.shape[1], dtype=logits.dtype), labels, **more)
        found = getattr(ms, name)(logits, labels, **more)
        return found.loss if name == "terms" else found

    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True)
    for n, k, given in SIZES:
        every = {
            "weight": torch.rand(k, dtype=torch.float64) + 0.5,
            "prior": torch.softmax(torch.randn(k, dtype=torch.float64), 0),
            "sample_weight": torch.rand(n, dtype=torch.float64),
            "class_mask": torch.arange(k) < k - 1,
        }
        if name == "smoothing_correction":
            given = [x for x in given if x in ("prior", "sample_weight")]
        more = {argument: every[argument] for argument in given}
        logits, labels = torch.randn(n, k, dtype=torch.float64), torch.arange(n) % (k - 1)
        torch.testing.assert_close(
            compiled(logits, labels, **more), call(logits, labels, **more), rtol=1e-12, atol=1e-12
        )


def test_compiled_schedules_stay_in_one_graph():
    """A plain ε that changes becomes a symbol after the first call; a tensor never recompiles."""
    z = logits(6, 5, dtype=torch.float32)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ms.loss, fullgraph=True, backend=counter)
    for epsilon in (0.1, 0.2, 0.3, 0.4):
        ours, eager = (loss(z, LABELS, label_smoothing=epsilon) for loss in (compiled, ms.loss))
        torch.testing.assert_close(ours, eager)
    before = counter.frame_count
    for epsilon in torch.tensor([0.1, 0.2, 0.3]):
        ours, eager = (loss(z, LABELS, label_smoothing=epsilon) for loss in (compiled, ms.loss))
        torch.testing.assert_close(ours, eager)
    assert counter.frame_count == before + 1


def test_linear_loss_compiles():
    hidden, classifier = logits(6, 3, dtype=torch.float32), logits(5, 3, dtype=torch.float32)
    compiled = torch.compile(ms.linear_loss, fullgraph=True, backend="aot_eager")
    for epsilon in (0.1, 0.2):
        options = {"label_smoothing": epsilon, "chunk_rows": 4}
        ours, eager = (f(hidden, classifier, LABELS, **options) for f in (compiled, ms.linear_loss))
    torch.testing.assert_close(ours, eager)
    for found, expected in zip(*(torch.autograd.grad(x, (hidden, classifier)) for x in (ours, eager)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_autocast_half_precision_and_modes(dtype):
    z = torch.randn(6, 50).to(dtype).requires_grad_()
    exact = ms.loss(z.double(), LABELS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = ms.loss(z, LABELS)
    loss = ms.loss(z, LABELS)
    loss.backward()
    assert loss.dtype == inside.dtype == torch.float32
    assert z.grad.dtype == dtype
    for value in (loss, inside):
        assert abs(value.item() - exact.item()) < 1e-6 * exact.item()
    with torch.no_grad():
        assert not ms.loss(z, LABELS).requires_grad
    with torch.inference_mode():
        torch.testing.assert_close(ms.loss(z, LABELS), loss.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", [(2, 5, 3, 4), (2, 40, 3)])
def test_the_class_axis_may_be_anywhere_and_strided(shape):
    z = logits(*shape)
    labels = torch.randint(0, shape[1], (shape[0], *shape[2:]))
    last = z.movedim(1, -1)
    ours, moved = ms.loss(z, labels, axis=1), ms.loss(last, labels, axis=-1)
    torch.testing.assert_close(ours, moved)
    torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in (ours, moved)))
    torch.testing.assert_close(ms.loss(last.contiguous(), labels, axis=-1), ours)


def test_the_gradient_has_one_owner():
    """A gradient handed out, changed by its owner, and asked for again over a retained graph."""
    z = logits(6, 5)
    loss = ms.loss(z, LABELS)
    (first,) = torch.autograd.grad(loss, z, retain_graph=True)
    kept = first.clone()
    first.zero_()
    assert torch.equal(torch.autograd.grad(loss, z)[0], kept)


def test_minus_infinity_without_smoothing_mass_costs_nothing():
    for classes in (4, 40):
        z = torch.randn(3, classes)
        z[:, -1] = -float("inf")
        labels = torch.tensor([0, 1, 2])
        expected = torch.nn.functional.cross_entropy(z, labels)
        torch.testing.assert_close(ms.loss(z.requires_grad_(), labels, label_smoothing=0.0), expected)
        assert ms.loss(z, labels, label_smoothing=0.1).isinf()
        mask = torch.arange(classes) < classes - 1
        loss = ms.loss(z, labels, label_smoothing=0.1, class_mask=mask)
        loss.backward()
        assert loss.isfinite()
        assert (z.grad[:, -1] == 0).all()


# --- linear head ----------------------------------------------------------------------------------------------------


def head(dtype=torch.float64):
    return logits(6, 3, dtype=dtype), logits(5, 3, dtype=dtype), logits(5, dtype=dtype)


@pytest.mark.parametrize(
    "wanted", [(True, True, True), (True, False, False), (False, True, False), (False, False, True)]
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_linear_loss_is_the_loss_of_its_logits(wanted, reduction):
    tensors = [tensor.detach().requires_grad_(bool(want)) for tensor, want in zip(head(), wanted, strict=True)]
    hidden, classifier, bias = tensors
    options = {"reduction": reduction, "label_smoothing": 0.2, "z_loss": 0.1}
    ours = ms.linear_loss(hidden, classifier, LABELS, bias=bias, chunk_rows=4, **options)
    dense = ms.loss(hidden @ classifier.T + bias, LABELS, **options)
    torch.testing.assert_close(ours, dense, rtol=1e-12, atol=1e-12)
    upstream, moving = torch.randn_like(ours), [tensor for tensor in tensors if tensor.requires_grad]
    found = torch.autograd.grad(ours, moving, upstream, retain_graph=True)
    for mine, other in zip(found, torch.autograd.grad(dense, moving, upstream), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-12)
    for mine, again in zip(found, torch.autograd.grad(ours, moving, upstream), strict=True):
        assert torch.equal(mine, again)


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the matrix products made under it."""

    made = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.made += function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True), (False, False)])
def test_linear_loss_makes_only_the_products_that_are_needed(wanted):
    tensors = head()
    hidden, classifier = (tensor.detach().requires_grad_(want) for tensor, want in zip(tensors, wanted, strict=False))
    with Products() as seen:
        loss = ms.linear_loss(hidden, classifier, LABELS, bias=tensors[2], chunk_rows=6)
        loss.backward()
    assert node(loss) == "_LinearLossBackward"
    assert seen.made == 1 + sum(wanted)
    ms.linear_loss(*tensors[:2], LABELS, bias=tensors[2].detach(), chunk_rows=6).backward()
    for mine, full, want in zip((hidden, classifier), tensors, wanted, strict=False):
        assert torch.equal(mine.grad, full.grad) if want else mine.grad is None


def test_linear_loss_differentiates_twice():
    def function(hidden, classifier, bias):
        return ms.linear_loss(hidden, classifier, LABELS, bias=bias, chunk_rows=4)

    assert node(function(*head())) == "_LinearLossBackward"
    assert torch.autograd.gradcheck(function, head(), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(function, head())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_linear_loss_in_half_precision(dtype):
    hidden, classifier, bias = head(dtype)
    loss = ms.linear_loss(hidden, classifier, LABELS, bias=bias)
    loss.backward()
    assert loss.dtype == torch.float32
    assert {tensor.grad.dtype for tensor in (hidden, classifier, bias)} == {dtype}
    wide = [tensor.detach().float().requires_grad_() for tensor in (hidden, classifier, bias)]
    ms.linear_loss(wide[0], wide[1], LABELS, bias=wide[2]).backward()
    for tensor, exact in zip((hidden, classifier, bias), wide, strict=True):
        torch.testing.assert_close(tensor.grad.float(), exact.grad, rtol=0.05, atol=0.02)


class LargestTensor(torch.utils._python_dispatch.TorchDispatchMode):
    """Remembers the most entries that any tensor made under it had."""

    entries = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.entries = max(self.entries, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_linear_loss_never_makes_the_logits(reduction):
    rows, features, classes = 64, 4, 100
    hidden, classifier = logits(rows, features), logits(classes, features)
    labels = torch.randint(0, classes, (rows,))
    with LargestTensor() as seen:
        ms.linear_loss(hidden, classifier, labels, chunk_rows=8, reduction=reduction).sum().backward()
    assert seen.entries == 8 * classes


def test_results_do_not_depend_on_what_ran_before():
    z = logits(6, 5)
    first = ms.loss_and_grad(z, LABELS)
    copies = [ms.loss_and_grad(copy.deepcopy(z), LABELS) for _ in range(3)]
    assert all(torch.equal(a, b) for pair in copies for a, b in zip(first, pair, strict=True))
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(ms.loss_and_grad(z, LABELS)[1], first[1])
    finally:
        torch.use_deterministic_algorithms(False)


def test_numbers_and_numpy_arrays_are_welcome_beside_tensors():
    z = logits(6, 5)
    expected = ms.loss(z, LABELS, weight=torch.ones(5).double() * 2)
    assert ms.loss(z, LABELS.numpy(), weight=np.full(5, 2.0)) == expected
    assert ms.loss(z, LABELS.tolist(), weight=[2.0] * 5) == expected


@pytest.mark.cuda
def test_on_a_gpu_the_same_numbers_and_a_living_context():
    z = logits(64, 1000, dtype=torch.float32)
    labels = torch.randint(0, 1000, (64,))
    loss = ms.loss(z, labels)
    loss.backward()
    moved = z.detach().cuda().requires_grad_()
    there = ms.loss(moved, labels.cuda())
    there.backward()
    torch.testing.assert_close(there.cpu(), loss)
    torch.testing.assert_close(moved.grad.cpu(), z.grad, rtol=1e-5, atol=1e-8)
    labels[3] = 5000
    bad = ms.loss(moved.detach(), labels.cuda(), reduction="none")
    assert bad.isnan().sum() == 1
    assert ms.loss(moved.detach(), labels.clamp(max=999).cuda()).isfinite()
