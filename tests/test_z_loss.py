"""What a z-loss divides by, where it has a denominator of its own: against the formula, and at the edges."""

from dataclasses import replace

import adapters
import numpy as np
import pytest
from requirements import need
from tolerance import assert_close

import multismooth
from multismooth import Convention

LIGER = multismooth.conventions["liger"]
LOGITS = np.random.default_rng(0).normal(size=(7, 5))
LABELS = np.array([4, 0, -100, 2, 1, 0, -100])
WEIGHT = np.array([0.5, 1.5, 1.0, 0.75, 1.25])
BACKENDS = (adapters.NUMPY, adapters.TORCH, adapters.JAX, adapters.JIT)


def lse(z):
    return np.log(np.exp(z).sum(-1))


def by_hand(denominator):
    """Liger's loss: the smoothed one over Σ w_y, ζ·Σ lse² of the counted elements over `denominator`."""
    plain = multismooth.loss(LOGITS, LABELS, convention="torch", weight=WEIGHT)
    return plain + 0.1 * (lse(LOGITS) ** 2)[LABELS != -100].sum() / denominator


@pytest.mark.parametrize("adapter", BACKENDS, ids=lambda adapter: adapter.name)
def test_ligers_is_a_plain_mean_whatever_the_class_weights(adapter):
    call = LOGITS, LABELS
    value, _ = adapter.call("loss_and_grad", *call, weight=WEIGHT, z_loss=0.1, convention="liger")
    assert_close(value, by_hand(5), "float64")
    value, _ = adapter.call("loss_and_grad", *call, weight=WEIGHT, z_loss=0.1, convention="torch")
    assert_close(value, by_hand(WEIGHT[LABELS[LABELS >= 0]].sum()), "float64")


def test_liger_is_pytorchs_loss_and_a_mean_of_squares():
    torch = need("torch")
    ms = need("multismooth.torch")
    z, weight = torch.tensor(LOGITS, requires_grad=True), torch.tensor(WEIGHT, requires_grad=True)
    labels = torch.tensor(LABELS)

    def theirs():
        plain = torch.nn.functional.cross_entropy(z, labels, weight.detach(), label_smoothing=0.1)
        return plain + 0.1 * z.logsumexp(1).square()[labels != -100].mean()

    ours = ms.loss(z, labels, weight=weight, z_loss=0.1, convention="liger")
    assert_close(ours.detach(), theirs().detach(), "float64")
    slope, of_weights = torch.autograd.grad(ours, (z, weight))
    assert_close(slope, torch.autograd.grad(theirs(), z)[0], "float64")
    without = ms.loss(z, labels, weight=weight, convention="liger")
    assert_close(of_weights, torch.autograd.grad(without, weight)[0], "float64")  # no weight is in the z-loss


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_what_is_no_mean_divides_by_nothing(reduction):
    call = {"weight": WEIGHT, "z_loss": 0.1, "reduction": reduction}
    same = multismooth.loss(LOGITS, LABELS, convention="torch", **call)
    assert_close(multismooth.loss(LOGITS, LABELS, convention="liger", **call), same, "float64")


@pytest.mark.parametrize("adapter", BACKENDS, ids=lambda adapter: adapter.name)
def test_a_normalizer_divides_everything(adapter):
    call = {"weight": WEIGHT, "z_loss": 0.1, "convention": "liger"}
    summed = multismooth.loss(LOGITS, LABELS, reduction="sum", **call)
    assert_close(adapter.call("loss", LOGITS, LABELS, normalizer=8.0, **call), summed / 8, "float64")


@pytest.mark.parametrize("adapter", BACKENDS, ids=lambda adapter: adapter.name)
def test_terms_have_the_mean_as_their_ratio(adapter):
    call = {"weight": WEIGHT, "z_loss": 0.1}
    terms = adapter.call("terms", LOGITS, LABELS, convention="liger", **call)
    assert_close(terms[0].sum() / terms[2].sum(), by_hand(5), "float64")
    assert_close(terms[1], adapter.call("terms", LOGITS, LABELS, convention="torch", **call)[1], "float64")


@pytest.mark.filterwarnings("ignore::multismooth.SmoothingWarning")
@pytest.mark.parametrize("adapter", BACKENDS, ids=lambda adapter: adapter.name)
def test_labels_of_weight_0_leave_the_z_loss(adapter):
    """Σ w_y = 0 without smoothing: that loss is a mean over nothing, the z-loss is not."""
    labels, weight = np.array([0, 0, -100]), np.array([0.0, 1.0, 1.0, 1.0, 1.0])
    call = {"weight": weight, "z_loss": 0.1, "convention": "liger", "label_smoothing": 0.0}
    value, gradient = adapter.call("loss_and_grad", LOGITS[:3], labels, **call)
    assert_close(value, 0.1 * (lse(LOGITS[:2]) ** 2).mean(), "float64")
    assert np.isfinite(gradient).all()
    assert np.isfinite(adapter.call("terms", LOGITS[:3], labels, **call)[0]).all()


def test_one_that_only_the_caller_knows_is_asked_for_where_there_is_a_z_loss():
    convention = Convention(z_loss_denominator="caller")
    plain = multismooth.loss(LOGITS, LABELS)
    assert multismooth.loss(LOGITS, LABELS, convention=convention) == plain
    with pytest.raises(ValueError, match=r"`normalizer`: .*Pass normalizer="):
        multismooth.loss(LOGITS, LABELS, convention=convention, z_loss=0.1)
    value = multismooth.loss(LOGITS, LABELS, convention=convention, z_loss=0.1, normalizer=2.0)
    assert_close(value, multismooth.loss(LOGITS, LABELS, z_loss=0.1, reduction="sum") / 2, "float64")


@pytest.mark.parametrize("kind", ["all", "classes", "counted"])
def test_a_heads_correction_leaves_the_z_loss_as_it_is(kind):
    convention = replace(multismooth.conventions["torch"], denominator="nonzero", z_loss_denominator=kind)
    classifier = np.random.default_rng(1).normal(size=(5, 5))
    call, samples = (LOGITS, classifier, LABELS), np.array([1.0, 2.0, 1.0, 0.5, 0.0, 1.0, 3.0])
    settings = {"convention": convention, "sample_weight": samples}
    hard, smoothed = (multismooth.linear_loss(*call, label_smoothing=eps, z_loss=0.1, **settings) for eps in (0.0, 0.3))
    added = multismooth.smoothing_correction(*call, label_smoothing=0.3, **settings)
    assert_close(hard + added, smoothed, "float64")


def test_a_traced_z_loss_has_the_same_denominator():
    jax = need("jax")
    with jax.enable_x64(True):
        z, labels, weight = (jax.device_put(x) for x in (LOGITS, LABELS, WEIGHT))
        value, slope = jax.jit(jax.value_and_grad(
            lambda z_loss: multismooth.loss(z, labels, weight=weight, z_loss=z_loss, convention="liger")
        ))(0.1)  # fmt: skip
        assert_close(value, by_hand(5), "float64")
        assert_close(slope, (lse(LOGITS) ** 2)[LABELS != -100].mean(), "float64")


def test_it_is_told_in_words():
    text = LIGER.explain(0.1, 5)
    assert "z_loss_denominator = counted: the counted elements" in text
    assert "z_loss_denominator" not in multismooth.conventions["torch"].explain(0.1, 5)
    assert hash(LIGER) != hash(multismooth.conventions["torch"])
    assert replace(LIGER, z_loss_denominator=None) == multismooth.conventions["torch"]
    assert multismooth.conventions["flash-attn"].z_loss_denominator is None
