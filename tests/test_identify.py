"""parity.identify: random conventions are recovered from their answers alone, real functions named, others refused."""

import json
import re
import time
from dataclasses import fields, replace
from functools import cache, partial

import numpy as np
import pytest
from random_conventions import draws, jax_draws
from requirements import need

import multismooth
from multismooth import Convention, parity
from multismooth.parity.doctor import jax_x64

pytestmark = pytest.mark.filterwarnings("ignore::multismooth.SmoothingWarning")

# --- random conventions -----------------------------------------------------------------------------------------------


def disagreement(settings, found, k, seed):
    """The largest difference of two calls on fresh problems, of several K where the loss takes several."""
    rng, worst = np.random.default_rng(seed), 0.0
    for classes in [k] if "weight" in settings or "prior" in settings else [3, k, 11]:
        ignored, exclude = settings["ignore_index"], settings["convention"].exclude
        counting = [c for c in range(classes) if c not in exclude and c != ignored]
        for n in (2, 9, 25) if counting else ():
            y = rng.choice(counting, n)
            if ignored is not None and not (ignored >= classes and ignored < 40):
                y[n // 2 : n // 2 + (n > 2) * n // 5] = ignored
            z = 2 * rng.normal(size=(n, classes))
            pairs = zip(
                *(multismooth.numpy.loss_and_grad(z, y, validate=False, **s) for s in (settings, found)), strict=True
            )
            worst = max(worst, *(np.abs(a - b).max() / max(1.0, np.abs(a).max()) for a, b in pairs))
    return worst


def recovered(cases, identify):
    """Identify every numbered case; return (seconds, how many had the very convention among their readings)."""
    seconds, exact, failures = [], 0, []
    for number, (k, settings, hints) in cases:
        started = time.perf_counter()
        found = identify(settings, hints)
        seconds.append(time.perf_counter() - started)
        if not found:
            failures.append((settings, found.why))
            continue
        gap = disagreement(settings, found.settings(), k, number)
        if not gap <= 1e-9 or not found.residual < 1e-9:
            failures.append((settings, found.settings(), gap))
        exact += any(reading.convention == settings["convention"] for reading in found.readings)
    assert not failures, (len(failures), failures[:3])
    return np.median(seconds), exact


def report(capsys, what, number, result):
    with capsys.disabled():
        print(
            f"\n  {what}: {number} of {number} recovered, {result[1]} to the field, median {result[0]:.3f} s", end=" "
        )


def one_part(cases, part, parts):
    """[(number, case)] of one of as many parts, one after the other."""
    numbered = list(enumerate(cases))
    size = -(-len(numbered) // parts)
    return numbered[part * size : (part + 1) * size]


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(5))
def test_random_conventions_in_torch_are_recovered(part, capsys):
    torch = need("torch")

    def identify(settings, hints):
        mine = {name: torch.tensor(v) if isinstance(v, np.ndarray) else v for name, v in settings.items()}
        return parity.identify(lambda z, y: multismooth.loss(z, y, **mine), "torch", **hints)

    cases = one_part(draws(250, 1), part, 5)
    assert len(cases) == 50
    report(capsys, "torch", len(cases), recovered(cases, identify))


@pytest.mark.thorough
@pytest.mark.parametrize("shape", range(6))
def test_random_conventions_in_jax_are_recovered(shape, capsys):
    jax = need("jax")

    @cache
    def kernel(convention, reduction, ignore_index):
        function = partial(
            multismooth.loss, convention=convention, reduction=reduction, ignore_index=ignore_index, validate=False
        )
        return lambda values, z, y: function(z, y, **values)

    def identify(settings, hints):
        settings = dict(settings)
        shape = (settings.pop("convention"), settings.pop("reduction"), settings.pop("ignore_index"))
        return parity.identify(jax.tree_util.Partial(kernel(*shape), settings), "jax", **hints)

    cases = one_part(jax_draws(6, 42, 2), shape, 6)
    assert len(cases) == 42
    with jax_x64(True):
        report(capsys, "jax", len(cases), recovered(cases, identify))


@pytest.mark.thorough
@pytest.mark.parametrize("part", range(2))
def test_random_conventions_are_recovered_from_values_alone(part, capsys):
    def identify(settings, hints):
        return parity.identify(lambda z, y: multismooth.numpy.loss(z, y, **settings), "numpy", **hints)

    cases = [case for case in draws(16, 3) if not set(case[1]["convention"].exclude) - set(range(5))]
    cases = [case for case in cases if case[1]["ignore_index"] not in (5, 6)]
    cases = one_part(cases, part, 2)
    report(capsys, "values", len(cases), recovered(cases, identify))


# --- functions as people write them -----------------------------------------------------------------------------------


def torch_losses():
    """(function, ε, reduction, ignored label, names that must be found, names that must not)."""
    torch = need("torch")
    functional = torch.nn.functional

    def fairseq_style(z, y):
        log_p, pad, off = z.log_softmax(-1), y == 1, 0.1 / (z.shape[-1] - 1)
        own = -log_p.gather(-1, y[:, None]).squeeze(-1).masked_fill(pad, 0)
        every = -log_p.sum(-1).masked_fill(pad, 0)
        return (0.9 - off) * own.sum() + off * every.sum()

    def divergence(z, y):
        q = torch.full_like(z, 0.2 / (z.shape[1] - 1)).scatter(1, y[:, None], 0.8)
        return functional.kl_div(z.log_softmax(1), q, reduction="batchmean")

    def timm_like(z, y):
        log_p = z.log_softmax(-1)
        return -(0.9 * log_p[torch.arange(len(y)), y] + 0.1 * log_p.mean(-1)).mean()

    def per_utterance(z, y):
        _, _, _ = z.shape
        return -(0.9 * z.log_softmax(-1).gather(-1, y[..., None]).sum() + 0.1 * z.log_softmax(-1).mean(-1).sum()) / len(
            y
        )

    def channels(z, y):
        _, _, _ = z.shape
        return functional.cross_entropy(z, y, ignore_index=255, label_smoothing=0.1)

    entropy = partial(functional.cross_entropy, label_smoothing=0.1)
    yield partial(entropy), 0.1, "mean", -100, {"torch", "liger"}, {"others", "fairseq", "keras"}
    yield partial(entropy, ignore_index=2, reduction="sum"), 0.1, "sum", 2, {"torch", "opennmt-py"}, {"fairseq"}
    yield (
        partial(functional.cross_entropy, reduction="none"),
        0.0,
        "none",
        -100,
        {"torch", "fairseq", "torch-kl-div"},
        set(),
    )
    yield lambda z, y: entropy(z.half(), y), 0.1, "mean", -100, {"torch"}, {"fairseq", "torch-kl-div"}
    yield lambda z, y: entropy(z.float(), y), 0.1, "mean", -100, {"torch"}, {"fairseq", "keras"}
    yield fairseq_style, 0.1, "sum", 1, {"fairseq", "others"}, {"fairseq-0.10", "torch"}
    yield divergence, 0.2, "mean", None, {"wenet", "espnet"}, {"torch-kl-div", "others", "tensor2tensor"}
    yield timm_like, 0.1, "mean", None, {"timm", "keras", "optax"}, {"others"}
    yield per_utterance, 0.1, "mean", None, {"marian", "espnet-chainer"}, {"torch", "espnet"}
    yield channels, 0.1, "mean", 255, {"torch"}, {"timm"}


def jax_losses():
    jax = need("jax")
    jnp = jax.numpy

    def one_hot(z, y):
        q = 0.9 * jax.nn.one_hot(y, z.shape[-1]) + 0.1 / z.shape[-1]
        return -(q * jax.nn.log_softmax(z)).sum(-1).mean()

    def translation(z, y):
        k = z.shape[-1]
        low = 0.1 / (k - 1)
        least = -(0.9 * jnp.log(0.9) + (k - 1) * low * jnp.log(low + 1e-20))
        q = jax.nn.one_hot(y, k) * (0.9 - low) + low
        each = -(q * jax.nn.log_softmax(z)).sum(-1) - least
        return (each * (y > 0)).sum(), (y > 0).sum()

    yield one_hot, 0.1, "mean", None, {"optax", "optax-one-hot", "keras"}, {"others", "optax-kl"}
    yield translation, 0.1, "sum", 0, {"flax-examples", "tensor2tensor"}, {"optax", "others"}


def numpy_losses():
    def log_softmax(z):
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    def values(z, y):
        log_p, counted = log_softmax(z), y != -1
        each = -0.9 * log_p[np.arange(len(y)), np.where(counted, y, 0)] - 0.1 * log_p.mean(-1)
        return (each * counted).sum() / counted.sum()

    def with_gradient(z, y):
        log_p, q = log_softmax(z), 0.9 * np.eye(z.shape[1])[y] + 0.1 / z.shape[1]
        return -(q * log_p).sum(), np.exp(log_p) - q

    yield values, 0.1, "mean", -1, {"icefall", "torch"}, {"timm"}
    yield with_gradient, 0.1, "sum", None, {"torch", "optax"}, {"others"}


@pytest.mark.parametrize("losses", [torch_losses, jax_losses, numpy_losses])
def test_functions_as_people_write_them_are_named(losses):
    for fn, eps, reduction, ignored, names, others in losses():
        found = parity.identify(fn)
        assert found, (fn, str(found))
        assert (found.label_smoothing, found.reduction, found.ignore_index) == (eps, reduction, ignored), (fn, found)
        assert names <= set(found.names), (fn, names - set(found.names))
        assert not others & set(found.names), (fn, others & set(found.names))


def test_names_with_the_same_ignored_label_come_first():
    functional = need("torch").nn.functional
    assert parity.identify(partial(functional.cross_entropy, label_smoothing=0.1)).names[0] == "torch"
    minus_one = partial(functional.cross_entropy, label_smoothing=0.1, ignore_index=-1)
    assert parity.identify(minus_one).names[0] == "icefall"


def test_class_weights_and_z_loss_are_found():
    torch = need("torch")
    weight = torch.tensor([0.2, 1.0, 3.0, 0.7, 10.0, 2.0], dtype=torch.float64)

    def fn(z, y):
        return (
            torch.nn.functional.cross_entropy(z, y, weight, label_smoothing=0.2, reduction="sum")
            + 0.01 * (z.logsumexp(1) ** 2 * (y != -100)).sum()
        )

    found = parity.identify(fn)
    np.testing.assert_allclose(found.weight, weight, rtol=1e-9)
    assert (found.z_loss, found.convention.class_weights, found.reduction) == (0.01, "per_term", "sum")
    assert {reading.label_smoothing for reading in found.readings} >= {0.2, 0.25}  # one K: "classy" and more


@pytest.mark.parametrize("told", [True, False])
def test_what_a_z_loss_divides_by_is_found(told):
    """Liger's by the count beside class weights; the same with Σ w_y is PyTorch's and no name of Liger's."""
    weight = np.array([0.2, 1.0, 3.0, 0.7, 10.0])
    for name, denominator in (("liger", "counted"), ("torch", "target_weight")):
        fn = partial(multismooth.numpy.loss_and_grad, convention=name, weight=weight, z_loss=0.01)
        found = parity.identify(fn, "numpy", weight=weight if told else None)
        convention = found.convention
        assert (convention.z_loss_denominator or convention.denominator) == denominator
        assert convention.denominator == "target_weight"
        assert {"liger", "torch"} & set(found.names) == {name}
        assert ("lse² by the counted elements" in str(found)) == (name == "liger")
        if told or name == "liger":  # else only up to the factor of the weights
            assert found.z_loss == 0.01


def test_a_z_loss_has_one_denominator_with_the_rest_where_nothing_tells_another():
    fn = partial(multismooth.numpy.loss_and_grad, convention="liger", z_loss=0.01)
    found = parity.identify(fn, "numpy")
    assert found.convention.z_loss_denominator is None
    assert {"liger", "torch", "flash-attn"} <= set(found.names)


def test_a_small_z_loss_in_single_precision_is_not_taken_for_another_denominator():
    torch = need("torch")

    def fn(z, y):
        z = z.float()
        plain = torch.nn.functional.cross_entropy(z, y, label_smoothing=0.1)
        return plain + 1e-3 * z.logsumexp(1).square()[y != -100].mean()

    found = parity.identify(fn, "torch")
    assert found, str(found)
    assert found.convention.z_loss_denominator is None
    assert abs(found.z_loss - 1e-3) < 1e-6
    assert "torch" in found.names


@pytest.mark.thorough
@pytest.mark.parametrize("spread", ["all", "others"])
def test_several_k_tell_the_spreads_apart_and_one_k_cannot(spread):
    def fn(z, y, only=None):
        if only not in (None, z.shape[1]):
            raise ValueError(f"{only} classes")
        return multismooth.numpy.loss(z, y, convention=spread)

    free, fixed = parity.identify(fn), parity.identify(partial(fn, only=6), num_classes=6)
    assert {reading.convention.spread for reading in free.readings} == {spread}
    assert {reading.convention.spread for reading in fixed.readings} == {"all", "others"}
    assert fixed.convention.spread == spread
    assert parity.identify(partial(fn, only=6)).convention == fixed.convention


def test_a_second_ignored_label_is_told():
    functional = need("torch").nn.functional

    def fn(z, y):
        return functional.cross_entropy(z, y, label_smoothing=0.1, reduction="none").masked_fill(y == 1, 0).mean()

    found = parity.identify(fn, "torch")
    assert (found.ignore_index, found.convention.denominator) == (1, "all")
    assert "the label -100 is ignored in the same way" in found.notes


def test_many_classes_take_no_more_calls_than_few():
    functional = need("torch").nn.functional
    fn = partial(functional.cross_entropy, label_smoothing=0.1)
    few, many = (parity.identify(fn, "torch", num_classes=k).asked["calls"] for k in (10, 1000))
    assert many <= few + 5


# --- what is not of the family ----------------------------------------------------------------------------------------


def strangers():
    """(function, what the answer must say)."""
    torch = need("torch")
    functional = torch.nn.functional

    def own(z, y):
        return z.log_softmax(1).gather(1, y[:, None]).squeeze(1)

    def hybrid(z, y):
        return -(0.9 * own(z, y) + 0.1 / (z.shape[1] - 1) * z.log_softmax(1).sum(1)).mean()

    def value_only(z, y):
        loss = functional.cross_entropy(z, y)
        return 2 * loss - loss.detach()

    yield lambda z, y: -((1 - own(z, y).exp()) ** 2 * own(z, y)).mean(), r"focal loss, .* γ = 2"
    yield (
        lambda z, y: ((z.softmax(1) - functional.one_hot(y, z.shape[1])) ** 2).sum(1).mean(),
        "squared error of the probabilities",
    )
    yield lambda z, y: (z.logsumexp(1).detach() - z.gather(1, y[:, None]).squeeze(1)).mean(), "sum to 0"
    yield hybrid, r"1\.025 at K = 5 and 1\.05 at K = 3"
    yield value_only, "do not belong together"
    yield lambda z, y: functional.cross_entropy(z / 2, y), r"softmax\(z/T\), T = 2"
    yield (
        lambda z, y: (functional.cross_entropy(z, y, reduction="none") * torch.arange(len(y))).sum(),
        "by their place",
    )
    yield lambda z, y: functional.multi_margin_loss(z, y), r"hinge loss .* m = 1"


def test_what_is_not_of_the_family_is_refused_with_the_reason():
    for fn, reason in strangers():
        found = parity.identify(fn, "torch")
        assert not found
        assert found.convention is None
        assert found.names == ()
        assert re.search(reason, str(found)), (reason, str(found))
        with pytest.raises(ValueError, match="`settings`"):
            found.settings()


# --- the object, and calls that cannot be made ------------------------------------------------------------------------


def test_an_identification_reads_as_text_html_and_json():
    found = parity.identify(lambda z, y: multismooth.numpy.loss(z, y, convention="fairseq"), "numpy")
    text, page, plain = str(found), found._repr_html_(), json.loads(json.dumps(found.to_dict()))
    assert "ε′ = 0.1·K/(K − 1)" in text
    assert "fairseq" in text
    assert page.startswith("<table>")
    assert plain["names"] == list(found.names)
    assert replace(Convention(**plain["readings"][0]["convention"])) == found.convention
    assert set(found.settings()) == {"convention", "label_smoothing", "reduction", "ignore_index"}
    assert {f.name for f in fields(parity.Identification)} >= {"readings", "names", "residual", "why"}


def test_a_function_that_cannot_be_called_is_told_what_was_tried():
    def fn(z, y):
        raise RuntimeError("no such thing")

    with pytest.raises(ValueError, match=r"`fn`: (?s:.)*numpy: .*\(N, K\), \(N,\), K = 5: RuntimeError: no such thing"):
        parity.identify(fn, "numpy")
    with pytest.raises(ValueError, match=r"`framework`: .* got 'tf'"):
        parity.identify(fn, "tf")
    with pytest.raises(ValueError, match="`fn`: expected a function"):
        parity.identify(3)
    with pytest.raises(ValueError, match="`weight`"):
        parity.identify(fn, weight=np.ones(3), num_classes=4)
