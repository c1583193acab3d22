"""`terms` and `linear_terms`: their values and gradients against the oracle, and in every mode of the frameworks."""

import re
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import oracle
import pytest
from adapters import COMPILED, suites
from oracle import floats
from problems import problem, solved_head
from requirements import need
from test_conformance import along, each, warnings_deserved
from tolerance import assert_close

import multismooth
import multismooth.numpy
from multismooth.parity.doctor import jax_x64

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward-mode AD of torch itself

STRUCTURE = {"convention": False, "reduction": "none", "normalizer": False}  # one denominator, and rows that are known
FIELDS = ("loss", "nll", "lse")
DERIVED = ("element", "nll", "share", "lse", "predicted")  # of the oracle's Answer, in the order of Terms


def unreduced(settings):
    return {name: value for name, value in settings.items() if name not in ("reduction", "normalizer")}


def settings_of_mean(head):
    return unreduced(head.settings) | {"bias": head.bias}


def simple(settings):
    """Whether Terms.loss is the element's own loss, and nll the oracle's."""
    rules = settings.get("convention")
    split = any(getattr(rules, f"{term}_denominator", None) is not None for term in ("smooth", "z_loss"))
    return not split and getattr(rules, "objective", "") != "kl"


class LinearTerms:
    """A subclass names its `adapter`."""

    adapter = None

    def test_linear_terms(self):
        self.adapter.functions()

        def check(seed):
            head, (answer, *_) = solved_head(seed)
            settings = unreduced(head.settings) | ({} if head.bias is None else {"bias": head.bias})
            settings |= {} if seed // 10 % 2 else {"chunk_rows": 2}
            with warnings_deserved(head.quiet):
                found = self.adapter.call("linear_terms", head.hidden, head.classifier, head.targets, **settings)
            for name, value in zip(DERIVED, found, strict=True):
                if name == "predicted":
                    assert np.array_equal(value, answer.predicted)
                elif name == "lse" or (name != "share" and simple(head.settings)):
                    assert_close(value, floats(getattr(answer, name)), "float64")
            rules, (loss, _, weight, *_) = head.settings.get("convention"), found
            whole = getattr(rules, "denominator_floor", None) is None and not getattr(rules, "denominator_add", 0)
            if whole and weight.sum():
                mean = oracle.evaluate_linear(head.hidden, head.classifier, head.targets, **settings_of_mean(head))[0]
                assert_close(loss.sum() / weight.sum(), floats(mean.loss), "float64")

        each(range(0, max(20, 3 * self.adapter.heads), 10), check, lambda seed: solved_head(seed)[0])


suites(globals(), lambda adapter: LinearTerms)
del globals()["TestNumpyFloat32"]


# --- gradients: any upstream gradient of loss, nll and lse, each element its own -------------------------------------


def upstream(seed, shape):
    return [np.asarray(x) for x in np.random.default_rng(seed).normal(size=(3, *shape))]


def exact_gradient(logits, targets, settings, given):
    """Σ given·(loss, nll, lse), differentiated by the logits; the answers of the oracle."""
    plain = {k: v for k, v in settings.items() if k not in ("label_smoothing", "z_loss")}
    own, hard = (
        oracle.evaluate(logits, targets, **kind, reduction="none")
        for kind in (settings, plain | {"label_smoothing": 0.0})
    )
    axis, cap = settings.get("axis"), settings.get("logit_softcap")
    with np.errstate(over="ignore", invalid="ignore"):
        slope = 1.0 if cap is None else np.nan_to_num(1 / np.cosh(logits / cap) ** 2)
    by_lse = floats(own.p) * slope
    return sum(
        along(axis, x, g) for x, g in zip(given, (floats(own.gradient), floats(hard.gradient), by_lse), strict=True)
    )


def by_torch(function, arrays, targets, given, settings):
    torch = need("torch")
    leaves = [torch.tensor(x, requires_grad=True) for x in arrays]
    options = {k: torch.tensor(v) if isinstance(v, np.ndarray) else v for k, v in settings.items()}
    found = getattr(multismooth, function)(*leaves, torch.tensor(targets), **options)
    total = sum((torch.from_numpy(x) * getattr(found, name)).sum() for x, name in zip(given, FIELDS, strict=True))
    return [g.numpy() for g in torch.autograd.grad(total, leaves)]


def by_jax(function, arrays, targets, given, settings):
    jax = need("jax")
    with jax_x64(True):

        @jax.jit
        def gradients(*arrays):
            def total(*arrays):
                found = getattr(multismooth, function)(*arrays, jax.numpy.asarray(targets), **settings)
                return sum((x * getattr(found, name)).sum() for x, name in zip(given, FIELDS, strict=True))

            return jax.grad(total, tuple(range(len(arrays))))(*arrays)

        return [np.asarray(g) for g in gradients(*map(jax.numpy.asarray, arrays))]


@pytest.mark.parametrize(("backend", "count"), [(by_torch, 40), (by_jax, 3)], ids=["torch", "jax"])
def test_gradients_of_terms(backend, count):
    def check(seed):
        drawn = problem(seed, **STRUCTURE)
        settings, targets = unreduced(drawn.settings), np.asarray(drawn.targets)
        shape = np.moveaxis(drawn.logits, settings.get("axis", -1), -1).shape[:-1]
        given = upstream(seed, shape)
        with warnings_deserved(drawn.quiet):
            (found,) = backend("terms", [drawn.logits], targets, given, settings)
        expected = exact_gradient(drawn.logits, targets, settings, given)
        assert_close(found, expected, "float64")
        silent = floats(oracle.evaluate(drawn.logits, targets, **settings).p) == 0
        assert not found[silent].any()

    each(range(0, 10 * count, 10), check)


@pytest.mark.parametrize(("backend", "count"), [(by_torch, 40), (by_jax, 2)], ids=["torch", "jax"])
def test_gradients_of_linear_terms(backend, count):
    """Through each chunk's logits, for hidden, classifier and bias."""

    def check(seed):
        drawn, rng = problem(seed, axis=None, nonfinite=False, **STRUCTURE), np.random.default_rng(seed)
        settings, targets = unreduced(drawn.settings), np.asarray(drawn.targets)
        axis = settings.get("axis", -1)
        rows = np.moveaxis(drawn.logits, axis, -1)
        hidden, classifier = rng.normal(size=(*rows.shape[:-1], 3)), rng.normal(size=(rows.shape[-1], 3))
        given = upstream(seed, rows.shape[:-1])
        logits = np.ascontiguousarray(np.moveaxis(hidden @ classifier.T, -1, axis))
        g = np.moveaxis(exact_gradient(logits, targets, settings, given), axis, -1)
        features = np.ascontiguousarray(np.moveaxis(hidden, -1, axis))
        with warnings_deserved(drawn.quiet):
            found = backend("linear_terms", [features, classifier], targets, given, settings | {"chunk_rows": 2})
        assert_close(found[0], np.moveaxis(g @ classifier, -1, axis), "float64", scale=10.0)
        flat = g.reshape(-1, g.shape[-1]), hidden.reshape(-1, 3)
        assert_close(found[1], flat[0].T @ flat[1], "float64", scale=10.0)

    each(range(0, 10 * count, 10), check)


# --- predictions ----------------------------------------------------------------------------------------------------


TIES = np.array([[1.0, 5.0, 5.0, 5.0], [np.nan, np.inf, np.nan, 0.0], [2.0, 2.0, -np.inf, 2.0], [0.0, 1.0, 7.0, 7.0]])
TIED_LABELS = np.array([1, -100, 0, 2])
EXISTING = np.array([True, False, True, True])


def called(framework, function, *arrays, **settings):
    """The Terms of a framework as NumPy arrays."""
    module = __import__(f"multismooth.{framework}", fromlist=["terms"])
    convert = {"numpy": np.asarray, "torch": lambda x: need("torch").from_numpy(x)}.get(framework)
    convert = convert or need("jax.numpy").asarray
    with jax_x64(True) if framework == "jax" else nullcontext():
        settings = {k: convert(v) if isinstance(v, np.ndarray) else v for k, v in settings.items()}
        return [np.asarray(x) for x in getattr(module, function)(*map(convert, arrays), **settings)]


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_the_first_of_equal_logits_is_predicted_among_the_classes_that_exist(framework):
    need(framework)
    for settings, expected in (({}, [1, -1, 0, 2]), ({"class_mask": EXISTING}, [2, -1, 0, 2])):
        labels = np.where(TIED_LABELS == 1, expected[0], TIED_LABELS)
        loss, nll, weight, lse, predicted = called(framework, "terms", TIES, labels, **settings)
        assert predicted.tolist() == expected
        assert np.isfinite([nll, weight, lse]).all()
        assert loss[1] == nll[1] == weight[1] == lse[1] == 0.0
        identity = called(framework, "linear_terms", np.nan_to_num(TIES, neginf=-9.0), np.eye(4), labels, **settings)
        assert identity[4].tolist() == expected


@pytest.mark.parametrize("framework", ["numpy", "torch", "jax"])
def test_what_is_made_of_terms(framework):
    """Perplexity, token accuracy and the z-loss, from the sums of two batches."""
    need(framework)
    rng = np.random.default_rng(0)
    hidden, classifier, labels = rng.normal(size=(9, 3)), rng.normal(size=(7, 3)), rng.integers(0, 7, 9)
    labels[[2, 5]] = -100
    counted, logits = labels != -100, hidden @ classifier.T
    parts = [called(framework, "linear_terms", hidden[i], classifier, labels[i]) for i in (slice(4), slice(4, 9))]
    loss, nll, weight, lse, predicted = (np.concatenate(column) for column in zip(*parts, strict=True))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    exact = -log_p[counted, labels[counted]]
    assert_close(np.exp(nll.sum() / weight.sum()), np.exp(exact.mean()), "float64")
    accuracy = (logits.argmax(1) == labels)[counted].mean()
    assert_close((predicted == labels).sum() / weight.sum(), accuracy, "float64")
    smoothed = oracle.evaluate(logits, labels, z_loss=0.3)
    assert_close((loss + 0.3 * lse**2).sum() / weight.sum(), floats(smoothed.loss), "float64")


# --- layers ---------------------------------------------------------------------------------------------------------


def test_layers_return_terms():
    torch, jax = need("torch"), need("jax")
    nnx, linen = need("flax.nnx"), need("flax.linen")
    from multismooth.flax import linen as own_linen
    from multismooth.flax import nnx as own_nnx
    from multismooth.torch import LinearLoss

    rng = np.random.default_rng(0)
    hidden, classifier, labels = (x for x in (rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.integers(0, 4, 5)))
    hidden, classifier = hidden.astype(np.float32), classifier.astype(np.float32)
    weight = np.array([1.0, 0.5, 1.5, 1.0], np.float32)
    expected = multismooth.numpy.linear_terms(hidden, classifier, labels, label_smoothing=0.2, weight=weight)
    layer = LinearLoss(3, 4, bias=False, return_terms=True, label_smoothing=0.2, weight=torch.from_numpy(weight))
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(classifier))
    found = {"torch": layer(torch.from_numpy(hidden), torch.from_numpy(labels))}
    assert "return_terms=True" in repr(layer)
    head = own_nnx.LinearLoss(
        3, 4, use_bias=False, rngs=nnx.Rngs(0), return_terms=True, label_smoothing=0.2, weight=weight
    )
    head.kernel[...] = classifier.T
    found["nnx"] = nnx.jit(lambda head, x, y: head(x, y))(head, jax.numpy.asarray(hidden), jax.numpy.asarray(labels))
    module = own_linen.LinearLoss(4, use_bias=False, return_terms=True, label_smoothing=0.2, weight=weight)
    assert isinstance(module, linen.Dense)
    found["linen"] = module.apply({"params": {"kernel": classifier.T}}, hidden, labels)
    for terms in found.values():
        for value, exact in zip(terms, expected, strict=True):
            value = value.detach() if isinstance(value, torch.Tensor) else value
            assert_close(np.asarray(value, np.float32), np.asarray(exact, np.float32), "float32", scale=4.0)


def test_a_layer_that_returns_terms_takes_no_reduction():
    torch, nnx, jax = need("torch"), need("flax.nnx"), need("jax")
    from multismooth.flax.nnx import LinearLoss as NnxLinearLoss
    from multismooth.torch import LinearLoss

    with pytest.raises(TypeError, match="reduction"):
        LinearLoss(3, 4, return_terms=True, reduction="sum")
    head = NnxLinearLoss(3, 4, rngs=nnx.Rngs(0), return_terms=True, reduction="sum")
    with pytest.raises(TypeError, match="reduction"):
        head(jax.numpy.zeros((2, 3)), jax.numpy.array([0, 1]))
    assert torch.is_grad_enabled()


# --- modes ----------------------------------------------------------------------------------------------------------


def test_torch_modes():
    """torch.func, forward mode, second derivatives, autocast and an input that changed before backward."""
    torch = need("torch")
    generator = torch.Generator().manual_seed(0)
    hidden, classifier = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (5, 4))
    labels, ones = torch.tensor([0, 3, -100, 1, 2]), torch.ones_like(hidden)

    def total(hidden, function=multismooth.linear_terms):
        found = function(hidden, classifier, labels, chunk_rows=2)
        return (found.loss + 2 * found.nll + found.lse**2).sum()

    def plain(hidden):
        found = multismooth.terms(hidden @ classifier.T, labels)
        return (found.loss + 2 * found.nll + found.lse**2).sum()

    expected = torch.func.grad(plain)(hidden)
    assert_close(torch.func.grad(total)(hidden).numpy(), expected.numpy(), "float64", scale=10.0)
    leaf = hidden.clone().requires_grad_()
    assert torch.autograd.gradcheck(total, leaf)
    assert torch.autograd.gradgradcheck(total, leaf)
    tangent = torch.func.jvp(total, (hidden,), (ones,))[1]
    assert_close(tangent.numpy(), expected.sum().numpy(), "float64", scale=10.0)
    each_row = torch.func.vmap(lambda x: multismooth.linear_terms(x, classifier, labels).predicted)
    assert torch.equal(
        each_row(torch.stack([hidden, -hidden]))[1], multismooth.linear_terms(-hidden, classifier, labels)[4]
    )
    value = total(leaf)
    with torch.no_grad():
        leaf += 1
    with pytest.raises(RuntimeError, match="modified by an in-place operation"):
        value.backward()
    narrow = hidden.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = multismooth.linear_terms(narrow, classifier.float(), labels)
    assert found.loss.dtype == found.lse.dtype == torch.float32
    found.lse.sum().backward()
    assert narrow.grad.dtype == torch.float32


def test_compiled_terms_have_no_graph_break():
    torch = need("torch")
    COMPILED.functions()
    hidden, classifier = torch.randn(5, 3).double().requires_grad_(), torch.randn(4, 3).double()
    labels = torch.tensor([0, 3, -100, 1, 2])

    def both(hidden):
        ours = multismooth.linear_terms(hidden, classifier, labels, chunk_rows=2)
        return ours, multismooth.terms(hidden @ classifier.T, labels)

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True)(hidden)
    gradients = []
    for head, whole in (compiled, both(hidden)):
        for one, other in zip(head[:4], whole[:4], strict=True):
            assert_close(one.detach().numpy(), other.detach().numpy(), scale=10.0)
        assert torch.equal(head.predicted, whole.predicted)
        gradients.append(torch.autograd.grad((head.nll + head.lse + whole.loss).sum(), hidden)[0])
    assert_close(gradients[0].numpy(), gradients[1].numpy(), "float64", scale=10.0)


def test_half_precision_terms_are_float32():
    torch, jnp = need("torch"), need("jax.numpy")
    z, labels = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32), np.array([0, 1, 4])
    for narrow in ("bfloat16", "float16"):
        exact = multismooth.numpy.terms(np.asarray(jnp.asarray(z, narrow), np.float32), labels)
        for found in (
            multismooth.terms(torch.from_numpy(z).to(getattr(torch, narrow)), torch.from_numpy(labels)),
            multismooth.terms(jnp.asarray(z, narrow), jnp.asarray(labels)),
        ):
            for value, expected in zip(found[:4], exact, strict=False):
                assert_close(np.asarray(value), np.asarray(expected), "float32", scale=4.0)
            assert np.array_equal(np.asarray(found.predicted), exact.predicted)


def test_a_head_makes_no_more_than_a_chunk_of_logits():
    """Forward and backward with 64 chunks allocate far less than the (N, K) logits."""
    torch = need("torch")
    from torch.profiler import ProfilerActivity, profile

    rows, width, classes = 512, 4, 4096
    hidden, classifier = torch.randn(rows, width, requires_grad=True), torch.randn(classes, width, requires_grad=True)
    labels = torch.arange(rows)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        found = multismooth.linear_terms(hidden, classifier, labels, chunk_rows=8)
        (found.loss.sum() + found.lse.mean()).backward()
    level = most = 0
    for event in measured.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            most = max(most, level)
    assert 0 < most < rows * classes * 4 / 4, most


# --- the page -------------------------------------------------------------------------------------------------------


def test_the_recipes_hold():
    """The code of docs/recipes.md, from top to bottom, with its asserts."""
    need("torch")
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
    programs = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    names = {}
    for number, code in enumerate(programs):
        assert number == 0 or "assert " in code
        exec(code, names)
    assert len(programs) == 8
