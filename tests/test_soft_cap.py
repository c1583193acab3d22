"""The soft cap: what c may be, logits without bound, every derivative, half precision, and its memory in a head.

Values and gradients of random calls, by every kernel, are in test_conformance, test_kernels and test_alternatives.
"""

from contextlib import nullcontext

import numpy as np
import oracle
import pytest
from adapters import bfloat16
from oracle import floats
from requirements import need
from tolerance import assert_close

import multismooth
import multismooth.numpy
from multismooth.parity.doctor import jax_x64

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward-mode AD of torch itself

LOGITS = np.random.default_rng(0).normal(size=(5, 4)) * 6
LABELS = np.array([0, 3, 1, -100, 2])
FRAMEWORKS = ("numpy", "torch", "jax")


def own(framework, value):
    if not isinstance(value, np.ndarray) or framework == "numpy":
        return value
    return need("torch").tensor(value) if framework == "torch" else need("jax.numpy").asarray(value)


def called(framework, name, *arrays, **settings):
    """A function of a framework's module, on NumPy arrays of float64."""
    function = getattr(__import__(f"multismooth.{framework}", fromlist=[name]), name)
    with jax_x64(True) if framework == "jax" else nullcontext():
        found = function(*(own(framework, x) for x in arrays), **{k: own(framework, v) for k, v in settings.items()})
        return tuple(map(np.asarray, found)) if isinstance(found, tuple) else np.asarray(found)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_cap_is_a_finite_number_above_0(framework):
    need(framework)
    for bad in (0, -1.0, np.inf, np.nan, np.array(0.0), np.ones(2), True, "30"):
        with pytest.raises(ValueError, match="logit_softcap"):
            called(framework, "loss", LOGITS, LABELS, logit_softcap=bad)
    expected = called(framework, "loss", LOGITS, LABELS, logit_softcap=30.0)
    for same in (30, np.float32(30), np.array(30.0), np.array(30)):
        assert_close(called(framework, "loss", LOGITS, LABELS, logit_softcap=same), expected)
    for _ in range(2):  # the second call is one like the first
        with pytest.raises(ValueError, match="logit_softcap"):
            called(framework, "loss", LOGITS, LABELS, logit_softcap=np.array(-2.0))
        called(framework, "loss", LOGITS, LABELS, logit_softcap=np.array(2.0))


def test_a_bad_cap_that_no_check_can_see_gives_nan():
    jax = need("jax")
    capped = jax.jit(lambda c: multismooth.jax.loss(jax.numpy.asarray(LOGITS), LABELS, logit_softcap=c))
    assert np.isfinite(capped(3.0))
    for bad in (0.0, -1.0, np.inf, np.nan):
        assert np.isnan(capped(bad))


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_infinite_logit_is_c(framework):
    need(framework)
    z = np.array([[np.inf, 0.5, -np.inf], [1.0, -np.inf, 2.0], [np.nan, np.inf, np.nan], [1.0, 2.0, 1e300]])
    labels = np.array([1, 1, -100, 2])
    answer = oracle.evaluate(z, labels, logit_softcap=3.0)
    loss, gradient = called(framework, "loss_and_grad", z, labels, logit_softcap=3.0)
    assert_close(loss, floats(answer.loss), "float64")
    assert_close(gradient, floats(answer.gradient), "float64")
    assert not any(gradient[2].tobytes())


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_a_large_cap_is_none_and_an_offset_counts(framework):
    need(framework)
    plain = called(framework, "loss", LOGITS, LABELS)
    assert_close(called(framework, "loss", LOGITS, LABELS, logit_softcap=1e9), plain, "float64", scale=10.0)
    capped, moved = (called(framework, "loss", z, LABELS, logit_softcap=5.0) for z in (LOGITS, LOGITS + 4))
    assert abs(capped - moved) > 0.01


def test_a_teacher_is_not_capped():
    teacher, settings = LOGITS[::-1].copy(), {"temperature": 2.0, "label_smoothing": 0.0}
    capped = 5.0 * np.tanh(LOGITS / 5.0)
    expected = multismooth.distillation_loss(capped, teacher, LABELS, **settings)
    for framework in FRAMEWORKS:
        need(framework)
        found = called(framework, "distillation_loss", LOGITS, teacher, LABELS, logit_softcap=5.0, **settings)
        assert_close(found, np.asarray(expected), "float64", scale=10.0)


def test_what_is_linear_in_the_logits_takes_no_cap():
    with pytest.raises(TypeError, match="logit_softcap"):
        multismooth.smoothing_correction(LOGITS, np.eye(4), LABELS, logit_softcap=5.0)
    with pytest.raises(TypeError, match="Did you mean logit_softcap"):
        multismooth.loss(LOGITS, LABELS, softcap=5.0)


# --- derivatives ----------------------------------------------------------------------------------------------------

CALLS = (
    ("loss", {}),
    ("loss", {"z_loss": 0.1, "reduction": "none", "class_mask": np.array([True, True, True, False])}),
    ("focal_loss", {"label_smoothing": 0.1}),
    ("confidence_penalty", {}),
)


def test_torch_derivatives_of_any_order():
    """Of the logits and of c, beside the loss of logits that are capped by hand; torch.func's too."""
    torch = need("torch")
    z, labels = torch.tensor(LOGITS[:3, :], requires_grad=True), torch.tensor([0, 2, -100])
    cap = torch.tensor(4.0, dtype=torch.float64, requires_grad=True)
    for name, given in CALLS:
        function = getattr(multismooth, name)
        given = {k: own("torch", v) for k, v in given.items()}

        def ours(z, c, function=function, given=given):
            return function(z, labels, logit_softcap=c, **given).sum()

        def by_hand(z, c, function=function, given=given):
            return function(c * torch.tanh(z / c), labels, **given).sum()

        assert torch.autograd.gradcheck(ours, (z, cap))
        assert torch.autograd.gradgradcheck(lambda z, ours=ours: ours(z, 4.0), z)
        for c in (cap, 4.0):
            mine, exact = (torch.func.grad(f)(z, c) for f in (ours, by_hand))
            assert_close(mine.detach().numpy(), exact.detach().numpy(), "float64")
    rows = torch.func.vmap(lambda row, y: multismooth.loss(row, y, logit_softcap=4.0))(z, labels)
    assert_close(rows.sum().item() / 2, multismooth.loss(z, labels, logit_softcap=4.0).item())


def test_jax_derivatives_of_any_order():
    jax = need("jax")
    with jax_x64(True):
        z, labels = jax.numpy.asarray(LOGITS).at[3].set(np.nan), jax.numpy.asarray(LABELS)

        def ours(z, c):
            return multismooth.loss(z, labels, z_loss=0.1, logit_softcap=c)

        def by_hand(z, c):
            return multismooth.loss(c * jax.numpy.tanh(z / c), labels, z_loss=0.1)

        @jax.jit
        def both(z, c):
            clean = jax.numpy.nan_to_num(z)
            hessians = jax.hessian(ours)(z, c), jax.hessian(by_hand)(clean, c)
            return hessians, (jax.grad(ours, 1)(z, c), jax.grad(by_hand, 1)(clean, c))

        for mine, exact in both(z, 4.0):
            assert_close(np.asarray(mine), np.asarray(exact), "float64")


# --- precision, heads, memory ---------------------------------------------------------------------------------------


def test_half_precision_is_rounded_once():
    torch, jnp = need("torch"), need("jax.numpy")
    for narrow in ("bfloat16", "float16"):
        z = np.asarray(jnp.asarray(LOGITS, narrow), np.float64)
        answer = oracle.evaluate(z, LABELS, logit_softcap=5.0, reduction="sum")
        leaf = torch.tensor(z).to(getattr(torch, narrow)).requires_grad_()
        loss = multismooth.loss(leaf, torch.tensor(LABELS), logit_softcap=5.0, reduction="sum")
        (1024 * loss).backward()
        assert_close(loss.detach().numpy(), floats(answer.loss), "float32", scale=20.0)
        gradient = (leaf.grad.float() / 1024).numpy()  # which is exact
        assert_close(jnp.asarray(gradient, narrow), floats(answer.gradient), narrow, scale=5.0)
        loss, gradient = multismooth.jax.loss_and_grad(
            jnp.asarray(z, narrow), jnp.asarray(LABELS), logit_softcap=5.0, reduction="sum"
        )
        assert_close(np.asarray(loss), floats(answer.loss), "float32", scale=20.0)
        assert_close(gradient, floats(answer.gradient), narrow, scale=5.0)


def test_autocast_caps_in_float32():
    torch = need("torch")
    hidden, classifier = torch.tensor(LOGITS).float().requires_grad_(), torch.eye(4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = multismooth.linear_loss(hidden, classifier, torch.tensor(LABELS), logit_softcap=5.0)
    loss.backward()
    answer = oracle.evaluate(hidden.detach().bfloat16().double().numpy(), LABELS, logit_softcap=5.0)
    assert_close(loss.detach().numpy(), floats(answer.loss), "float32", scale=10.0)
    assert torch.equal(hidden.grad, hidden.grad.bfloat16().float())
    found = hidden.grad.numpy().astype(bfloat16())
    assert_close(found, floats(answer.gradient), "bfloat16", scale=10.0)


def allocated(run):
    """The most bytes that PyTorch has allocated within, above those before."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        run()
    level = most = 0
    for event in measured.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            most = max(most, level)
    return most


def test_a_capped_head_needs_at_most_a_tenth_more_memory():
    torch = need("torch")
    rows, width, classes = 1024, 256, 16_384
    hidden, classifier = (torch.randn(n, width, requires_grad=True) for n in (rows, classes))
    labels = torch.arange(rows)

    def step(cap):
        multismooth.linear_loss(hidden, classifier, labels, logit_softcap=cap).backward()
        hidden.grad = classifier.grad = None

    plain, capped = (allocated(lambda cap=cap: step(cap)) for cap in (None, 30.0))
    assert classes * width * 4 < capped <= 1.1 * plain, (plain, capped)


def test_a_capped_head_in_jax_needs_no_more_memory():
    jax = need("jax")
    rows, width, classes = 1024, 8, 16_384
    operands = [jax.ShapeDtypeStruct((n, width), "float32") for n in (rows, classes)]

    def temporaries(cap):
        def loss(hidden, classifier):
            labels = jax.numpy.arange(rows)
            return multismooth.jax.linear_loss(hidden, classifier, labels, logit_softcap=cap, chunk_rows=128)

        compiled = jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*operands).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(30.0) <= 1.1 * temporaries(None)
