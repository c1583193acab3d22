"""Half-precision gradients are rounded once, after the upstream gradient, by every kernel and in the head.

GradScaler sends 65,536: a mean's gradient that was rounded to float16 before would mostly be 0.
"""

import numpy as np
import pytest
from adapters import TORCH
from requirements import interpreted, need
from tolerance import assert_close

import multismooth

torch = need("torch")
import multismooth.torch as ms  # noqa: E402 torch may be missing

KERNELS = (("whole", "spec"), ("chunked", "whole", "spec"), ("numba", "chunked", "whole", "spec"), ())
UPSTREAM = (1.0, 65_536.0, 0.3, 3.0)


def made(shape, dtype, ignored=True):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(*shape, generator=generator) * 2).to(dtype)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    if ignored:
        labels.view(-1)[1] = -100
    return logits, labels


def exact(logits, labels, upstream, reduction="mean"):
    z = logits.detach().double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(z, labels, label_smoothing=0.1, reduction=reduction)
    loss.backward(torch.full(loss.shape, upstream, dtype=torch.float64))
    return z.grad


def gradient(logits, labels, upstream, kernels=(), times=1, **settings):
    z = logits.clone().requires_grad_()
    with np.errstate(all="ignore"):  # Triton's interpreter computes in NumPy
        with multismooth.implementation(*kernels):
            loss = ms.loss(z, labels, **settings)
        for _ in range(times):
            z.grad = None
            loss.backward(torch.full(loss.shape, upstream), retain_graph=True)
    return z.grad


def assert_rounded_once(found, true, share=0.99):
    """Entries are the correctly rounded ones, but for what float32 loses on the numbers that they are made of."""
    assert (found == true.to(found.dtype)).double().mean() >= share
    narrow = {torch.float16: "float16", torch.bfloat16: "bfloat16"}[found.dtype]
    scale = true.abs() + true.abs().amax() / true.shape[1]
    assert_close(TORCH.back(found), true.numpy(), narrow, true.shape[1], scale.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kernels", KERNELS, ids=lambda names: "-".join(names[:1]))
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_every_kernel_rounds_once(dtype, kernels, reduction):
    if "numba" in kernels:
        need("numba")
    for shape in ((64, 300), (4, 17, 5, 6)):
        logits, labels = made(shape, dtype)
        for upstream in UPSTREAM:
            settings = {"axis": 1, "reduction": reduction}
            true = exact(logits, labels, upstream, reduction)
            for times in (1, 2):  # the second one meets an upstream gradient that it knows, or a graph that was used
                assert_rounded_once(gradient(logits, labels, upstream, kernels, times, **settings), true)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_tritons_kernels_round_once(dtype):
    interpreted()
    logits, labels = made((8, 40), dtype)
    for upstream in UPSTREAM:
        found = gradient(logits, labels, upstream, ("triton", "whole", "spec"))
        true = exact(logits, labels, upstream)
        if dtype is torch.float16:
            assert_rounded_once(found, true)
        else:
            torch.testing.assert_close(found.double(), true, rtol=1e-5, atol=1e-6 * upstream)


def test_a_gradient_that_is_there_is_computed_again_unless_the_upstream_gradient_is_1():
    """What bfloat16 does on a GPU, whose kernel alone sees the upstream gradient; in float32, which the interpreter
    casts rightly."""
    interpreted()
    from multismooth.torch import autograd
    from multismooth.torch.choice import plan_and_kernel
    from multismooth.torch.cpu_kernels import plan_as_tensors

    logits, labels = made((8, 40), torch.float32, ignored=False)
    for upstream in (1.0, 0.3):
        z = logits.clone().requires_grad_()
        with multismooth.implementation("triton"), np.errstate(all="ignore"):
            call = ms._functions._call(z, labels)
            plan = plan_as_tensors(plan_and_kernel(call)[0])
            loss = autograd._GuardedSummed.apply(z, call.problem, plan, 1, torch.float32)
            loss.backward(torch.tensor(upstream), retain_graph=True)
            first, z.grad = z.grad, None
            loss.backward(torch.tensor(upstream))
        assert torch.equal(first, z.grad)
        torch.testing.assert_close(first.double(), exact(logits, labels, upstream), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(512, 1000), (256, 4000)])
def test_float16_under_a_grad_scaler_loses_nothing(shape):
    logits, labels = made(shape, torch.float16)
    z = logits.clone().requires_grad_()
    with torch.autocast("cpu", torch.float16):
        torch.nn.functional.cross_entropy(z, labels, label_smoothing=0.1).backward(torch.tensor(65_536.0))
    true = exact(logits, labels, 65_536.0)
    for kernels in KERNELS[:2]:
        found = gradient(logits, labels, 65_536.0, kernels)
        assert not bool(((found == 0) & (z.grad != 0) & (true.abs() >= 2.0**-24)).any())  # float16's smallest number
        assert (found.double() - true).norm() / true.norm() < 3e-4


def test_the_same_inputs_give_the_same_bits_whatever_the_upstream_gradient_was_before():
    for dtype in (torch.float16, torch.bfloat16):
        logits, labels = made((32, 100), dtype)
        first = {upstream: gradient(logits, labels, upstream) for upstream in UPSTREAM}
        losses = {ms.loss(logits.clone().requires_grad_(), labels).item() for _ in UPSTREAM}
        assert len(losses) == 1
        for upstream in reversed(UPSTREAM):
            assert torch.equal(gradient(logits, labels, upstream), first[upstream])


@pytest.mark.parametrize("upstream", [0.0, float("nan"), float("inf")])
def test_an_upstream_gradient_that_is_no_number_to_learn_from(upstream):
    logits, labels = made((4, 5), torch.float16, ignored=False)
    for _ in range(2):
        found = gradient(logits, labels, upstream)
        assert torch.equal(found.isnan() | found.isinf(), torch.full_like(found, upstream != 0, dtype=torch.bool))
    assert_rounded_once(gradient(logits, labels, 1.0), exact(logits, labels, 1.0))


@pytest.mark.parametrize("chunk_rows", [None, 6000])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_a_float16_head_under_a_grad_scaler_loses_nothing(chunk_rows, compiled):
    generator = torch.Generator().manual_seed(0)
    hidden, classifier = (torch.randn(rows, 8, generator=generator) for rows in (20_000, 60))
    classifier, bias, labels = classifier / 4, torch.zeros(60), torch.randint(60, (20_000,), generator=generator)

    def run(dtype, call):
        leaves = [x.half().to(dtype).requires_grad_() for x in (hidden, classifier, bias)]
        loss = call(*leaves[:2], labels, bias=leaves[2], chunk_rows=chunk_rows)
        loss.backward(torch.tensor(65_536.0, dtype=loss.dtype))
        return [leaf.grad.double() for leaf in leaves]

    true = run(torch.float64, ms.linear_loss)
    call = torch.compile(ms.linear_loss, backend="aot_eager", fullgraph=True) if compiled else ms.linear_loss
    for _ in range(2):
        for found, expected in zip(run(torch.float16, call), true, strict=True):
            assert (found - expected).norm() / expected.norm() < 2e-3
            assert (found == 0).double().mean() < 1e-3


@pytest.mark.parametrize("chunk_rows", [None, 600])
def test_a_float16_head_in_jax_loses_nothing(chunk_rows):
    jax, jnp = need("jax"), need("jax.numpy")
    import multismooth.jax as mj

    rng = np.random.default_rng(0)
    hidden, classifier = (
        rng.normal(size=(2000, 4)).astype(np.float16),
        rng.normal(size=(20, 4)).astype(np.float16) / 256,
    )
    labels = rng.integers(20, size=2000)

    def run(dtype, **settings):
        def scaled(hidden, classifier):
            loss = mj.linear_loss(hidden, classifier, jnp.asarray(labels), chunk_rows=chunk_rows, **settings)
            return 65_536 * loss

        found = jax.grad(scaled, argnums=(0, 1))(jnp.asarray(hidden, dtype), jnp.asarray(classifier, dtype))
        return [np.asarray(x, np.float64) for x in found]

    with jax.enable_x64(True):
        true = run(np.float64)
    for found, expected in zip(run(np.float16), true, strict=True):
        assert np.linalg.norm(found - expected) < 2e-3 * np.linalg.norm(expected)
        assert ((found == 0) & (np.abs(expected) > 2.0**-24)).mean() < 1e-3
