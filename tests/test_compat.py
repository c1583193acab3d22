"""Each private interface of PyTorch that is used is there, and does what it is used for, under every release tested."""

import ast
import warnings
from pathlib import Path

import pytest
from requirements import need

torch = need("torch")
import multismooth.torch  # noqa: E402 torch may be missing
from multismooth.torch import compat  # noqa: E402

ROOM = Path(multismooth.torch.__file__).parent
PRIVATE = ("torch._C", "torch._log", "torch.nn._", "torch.autograd.forward_ad._", "torch._dynamo", "torch._functorch")


def names(path):
    """Every dotted name that begins with torch in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        parts = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "torch" and parts:
            yield ".".join(["torch", *reversed(parts)])


@pytest.mark.parametrize("path", sorted(ROOM.rglob("*.py")), ids=lambda path: str(path.relative_to(ROOM)))
def test_private_names_stand_in_one_file(path):
    if path.name != "compat.py":
        assert not [name for name in names(path) if name.startswith(PRIVATE)]


def test_nothing_follows_a_plain_call():
    assert not compat.transforming()
    assert not compat.watched()
    assert not compat.functorch_active()
    assert not compat.forward_mode()


def test_modes_can_be_left_for_a_while():
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        assert type(torch.ones(1)) is not torch.Tensor
        with compat.without_modes():
            assert torch.ones(1).item() == 1


def test_what_follows_a_call_is_noticed():
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils.flop_counter import FlopCounterMode

    seen = []

    def function(x):
        seen.append((compat.transforming(), compat.watched(), compat.functorch_active()))
        return x.sum()

    x = torch.ones(3)
    torch.func.grad(function)(x)
    assert seen.pop() == (True, True, True)
    make_fx(function)(x)
    assert seen.pop()[:2] == (True, True)
    with torch.autograd.forward_ad.dual_level():
        assert compat.transforming()
        assert compat.watched()
        assert compat.forward_mode()
    with FlopCounterMode(display=False):
        assert compat.watched()
        assert not compat.transforming()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # which it is, and still in use
        torch.jit.trace(function, x, check_trace=False)
    assert seen.pop()[:2] == (True, True)


def test_a_batched_gradient_is_noticed():
    seen = []

    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, upstream):
            seen.append(compat.differentiates_backward(upstream))
            return 2 * ctx.saved_tensors[0] * upstream

    x = torch.ones(3, requires_grad=True)
    y = compat.apply_of(Square)(x)
    torch.autograd.grad(y, x, torch.eye(3), is_grads_batched=True, retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(3), retain_graph=True)
    torch.autograd.grad(y, x, torch.ones(3), create_graph=True)
    assert seen == [True, False, True]


@pytest.mark.parametrize(("shape", "axis"), [((64, 100), 1), ((3, 7, 5), 1), ((2, 5000), 1)])
def test_the_backward_kernel_of_log_softmax_may_write_over_its_argument(shape, axis):
    z, g = torch.randn(shape, dtype=torch.float64, requires_grad=True), torch.randn(shape, dtype=torch.float64)
    lp = torch.log_softmax(z, axis)
    (expected,) = torch.autograd.grad(lp, z, g)
    lp = lp.detach()
    found = compat.log_softmax_backward(g, lp, axis, lp.dtype)
    assert torch.equal(found, expected)
    out = g.clone()
    assert compat.log_softmax_backward(out, lp, axis, lp.dtype, out=out) is out
    assert torch.equal(out, expected)
    over = z.detach().clone()
    assert torch.equal(torch.log_softmax(over, axis, dtype=over.dtype, out=over), lp)


def test_a_constant_result_is_marked_as_torch_marks_it():
    def ours():
        return 0

    def theirs():
        return 0

    assert vars(compat.constant_result(ours)) == vars(torch.compiler.assume_constant_result(theirs)) != {}


def test_retired_reductions_warn_as_in_torch():
    with pytest.warns(UserWarning, match="size_average"):
        assert compat.legacy_reduction(False, None) == "sum"
    with pytest.warns(UserWarning, match="elementwise_mean"):
        compat.warn_of_reduction("elementwise_mean")


def test_plain_tensors_are_no_subclasses():
    class Own(torch.Tensor):
        pass

    x = torch.ones(2)
    assert compat.plain_tensor(x)
    assert compat.plain_tensor(torch.nn.Parameter(x))
    assert not compat.plain_tensor(x.as_subclass(Own))
    assert compat.eligible(x, others=(x, 1.0, None))
    assert not compat.eligible(x, others=(x.clone().requires_grad_(),))
