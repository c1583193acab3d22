"""Losses in every layout, form of targets, order and precision: what identify, check and compare say of each."""

from functools import partial

import numpy as np
import pytest
from requirements import need

from multismooth import parity

ENTROPY = {"label_smoothing": 0.1}


def functional():
    return need("torch").nn.functional


# --- layouts ----------------------------------------------------------------------------------------------------------


def mean_of_sentence_means(z, y):
    """EasyLM's loss, with padding −100: the mean of every sentence, then the mean of these."""
    torch = need("torch")
    valid = y != -100
    own = z.log_softmax(-1).gather(-1, torch.where(valid, y, 0)[..., None])[..., 0]
    return -(torch.where(valid, own, 0.0).sum(-1) / valid.sum(-1).clamp(min=1)).mean()


def summed_over_tokens(z, y):
    """T5X's: the sum over tokens, z-loss included, and the mean over sentences."""
    own = z.log_softmax(-1).gather(-1, y[..., None])[..., 0]
    return (1e-3 * z.logsumexp(-1) ** 2 - own).sum(-1).mean()


def summed_over_pixels(z, y):
    return functional().cross_entropy(z, y, reduction="sum") / len(y)


def of_images(z, y):
    _, _, _, _ = z.shape
    return functional().cross_entropy(z, y, **ENTROPY)


def test_a_mean_of_sentence_means_is_no_mean_over_tokens():
    found = parity.identify(mean_of_sentence_means)
    assert (found.reduction, found.ignore_index, found.normalizer) == ("sentence means", -100, None)
    assert {"big_vision", "allennlp"} <= set(found.names)
    assert "torch" not in found.names
    report = parity.check(mean_of_sentence_means, label_smoothing=0)
    assert not report
    assert (report.first.trial, report.first.case) == ("layouts", "ignored labels: 12 × 5 as (B, T, K)")
    assert "fn reduces by 'sentence means'" in str(report)
    assert parity.check(
        mean_of_sentence_means, "allennlp", label_smoothing=0, reduction="sentence means", normalizer=1.0
    )
    assert parity.check(mean_of_sentence_means, label_smoothing=0, layouts=["rows"])


def test_sentences_without_an_element_count_or_do_not():
    def of_the_others(z, y):
        full = (y != -100).any(-1).sum().clamp(min=1)
        return mean_of_sentence_means(z, y) * (len(y) / full if y.ndim > 1 else 1)

    assert parity.identify(of_the_others).normalizer == "sentences that count"


def test_the_means_of_sentences_are_summed():
    """The mean over a sentence's tokens, summed over the sentences: with a mask, and without one."""

    def summed(z, y):
        return mean_of_sentence_means(z, y) * (len(y) if y.ndim > 1 else 1)

    def unmasked(z, y):
        own = z.log_softmax(-1).gather(-1, y[..., None])[..., 0]
        return -own.mean(-1).sum()

    for fn, ignored in ((summed, -100), (unmasked, None)):
        found = parity.identify(fn)
        assert (found.reduction, found.normalizer, found.ignore_index) == ("sentence means", "nothing", ignored)
        assert "the sum of the sentences' means" in str(found)
        settings = {"label_smoothing": 0, "reduction": "sentence means", "ignore_index": ignored}
        assert parity.check(fn, "allennlp", normalizer="nothing", skip=["bad labels"], **settings)
        assert not parity.check(fn, "allennlp", normalizer=1.0, skip=["bad labels"], **settings)
        z, y = need("torch").randn(3, 4, 6, dtype=need("torch").float64), need("torch").arange(12).reshape(3, 4) % 6
        np.testing.assert_allclose(pasted(found, logits=z, labels=y), fn(z, y), rtol=1e-9)


@pytest.mark.parametrize(("fn", "z_loss"), [(summed_over_tokens, 1e-3), (summed_over_pixels, 0)])
def test_a_sum_over_tokens_or_pixels_is_divided_by_the_sentences_or_images(fn, z_loss):
    found = parity.identify(fn)
    assert (found.normalizer, found.reduction, found.z_loss) == ("sentences", "mean", z_loss)
    assert "the sum over tokens, the mean over sentences" in str(found)
    report = parity.check(fn, label_smoothing=0, z_loss=z_loss, ignore_index=found.ignore_index)
    assert not report
    assert report.first.trial in ("values", "layouts")


def test_images_are_found_and_checked():
    found = parity.identify(of_images)
    assert (found.names[0], found.form.layout) == ("torch", "images")
    report = parity.check(of_images)
    assert report, str(report)
    assert "logits.reshape(1, 1, 1, 2).transpose(0, 3, 1, 2)" in parity.check(of_images, "others").code


def test_a_loss_that_is_written_for_rows_alone_is_not_refused_for_other_shapes():
    def over_axis_1(z, y):
        torch = need("torch")
        q = 0.9 * torch.nn.functional.one_hot(y, z.shape[-1]).to(z.dtype) + 0.1 / z.shape[-1]
        return -(q * z.log_softmax(-1)).sum(1).mean()

    assert "timm" in parity.identify(over_axis_1).names
    report = parity.check(over_axis_1, "timm")
    assert report, str(report)
    assert any("not written for this layout" in outcome.message for outcome in report.outcomes)


# --- targets, order, scores -------------------------------------------------------------------------------------------


def soft_targets(x, target):
    """timm's SoftTargetCrossEntropy."""
    return (-target * x.log_softmax(-1)).sum(-1).mean()


def test_losses_of_distributions_are_asked_with_distributions():
    found = parity.identify(soft_targets)
    assert (found.form.targets, found.label_smoothing) == ("rows", 0.0)
    assert {"timm", "optax"} <= set(found.names)
    report = parity.check(soft_targets, "timm", label_smoothing=0)
    assert report, str(report)
    assert any(outcome.case.startswith("soft rows") and outcome.status == "pass" for outcome in report.outcomes)
    assert "rows of K probabilities" in str(report)


def test_soft_rows_of_which_the_largest_entry_is_taken_are_a_failure():
    def hardened(x, target):
        return functional().cross_entropy(x, target.argmax(-1) if target.ndim == x.ndim else target, **ENTROPY)

    report = parity.check(hardened, layouts=["rows"])
    assert (report.first.trial, report.first.case) == ("targets", "soft rows: 12 × 5")


def test_arguments_in_the_other_order_are_named():
    def keras_order(y_true, y_pred):
        return functional().cross_entropy(y_pred, y_true, **ENTROPY)

    found = parity.identify(keras_order)
    assert found.names[0] == "torch"
    assert "the targets come first" in str(found)
    assert parity.check(keras_order)


def test_scores_that_are_no_logits_are_named_and_what_to_wrap():
    found = parity.identify(functional().nll_loss)
    assert (found.names[0], found.form.scores) == ("torch", "log-probabilities")
    assert "fn(log_softmax(z), targets)" in str(found)
    report = parity.check(functional().nll_loss, label_smoothing=0)
    assert not report
    assert "it takes log-probabilities, not logits" in report.advice[0]

    def of_probabilities(p, y):
        return -p.gather(-1, y[..., None])[..., 0].log().mean()

    assert parity.identify(of_probabilities).form.scores == "probabilities"
    report = parity.check(of_probabilities, "timm", label_smoothing=0)
    assert not report
    assert "it takes probabilities" in str(report.first)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_sigmoid_losses_are_named_with_both_ways_of_smoothing(eps):
    def half(z, t):
        return functional().binary_cross_entropy_with_logits(z, t * (1 - eps) + eps / 2)

    def over_classes(z, t):
        return functional().binary_cross_entropy_with_logits(z, t * (1 - eps) + eps / z.shape[-1])

    found = parity.identify(half)
    assert not found
    assert f"binary_loss(logits, rows, label_smoothing={eps:g}" in found.call
    said = str(parity.identify(over_classes))
    assert "sigmoid cross-entropy" in said
    assert ("(1 − ε)·t + ε/K" in said) == (eps > 0)


# --- what is returned -------------------------------------------------------------------------------------------------


def test_what_is_returned_is_named():
    def in_a_dict(z, y):
        return {"loss": functional().cross_entropy(z, y), "accuracy": 0}

    with pytest.raises(ValueError, match=r"a dict with 'loss', 'accuracy'. Return its loss"):
        parity.identify(in_a_dict)
    with pytest.raises(ValueError, match="End the function with return loss"):
        parity.check(lambda z, y: None, framework="numpy")

    def with_count(z, y):
        return functional().cross_entropy(z, y, reduction="sum"), (y != -100).sum()

    assert "the second value is the number of counted elements" in str(parity.identify(with_count))


def test_noise_is_said_to_be_noise():
    torch = need("torch")

    def jittered(z, y):
        return torch.nn.functional.cross_entropy(z + 1e-3 * torch.randn_like(z), y)

    found = parity.identify(jittered)
    assert not found
    assert "two calls with the same arguments differ by" in found.why


def test_one_number_of_classes_is_kept_to():
    seen = set()

    def only_ten(z, y):
        seen.update({10} & {*z.shape} or {0})
        assert 10 in z.shape
        return functional().cross_entropy(z, y, **ENTROPY)

    found = parity.identify(only_ten, num_classes=10)
    assert (found.names[0], found.label_smoothing, seen) == ("torch", 0.1, {10})


# --- precision --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_half_precision_is_a_reading(name):
    torch = need("torch")

    def cast(z, y):
        return torch.nn.functional.cross_entropy(z.to(getattr(torch, name)), y, **ENTROPY).float()

    found = parity.identify(cast)
    assert (found.names[0], found.label_smoothing, found.asked["in"]) == ("torch", 0.1, name)
    assert f"computed in about {name}" in str(found)
    report = parity.check(cast)
    failed = [outcome for outcome in report.outcomes if outcome.status == "fail"]
    assert [outcome.trial for outcome in failed if "4096" not in outcome.case] == ["precision"]  # 4096 overflow float16
    assert any(f"computed in about {name}" in sentence for sentence in report.advice)
    assert parity.check(cast, skip=["precision"] + ["dtypes"] * (name == "float16"))
    assert not parity.check(partial(cast_with_other_smoothing, name), skip=["precision"])
    exact = partial(torch.nn.functional.cross_entropy, **ENTROPY)
    assert f"computed in about {name}" in str(parity.compare(cast, exact, ignore_index=-100))


def cast_with_other_smoothing(name, z, y):
    torch = need("torch")
    return torch.nn.functional.cross_entropy(z.to(getattr(torch, name)), y, label_smoothing=0.15).float()


def test_half_precision_inside_and_single_precision_are_readings():
    torch = need("torch")

    def rounded_inside(z, y):
        return torch.nn.functional.nll_loss(z.log_softmax(-1).half().double(), y)

    found = parity.identify(rounded_inside)
    assert (found.names[0], found.asked["in"]) == ("torch", "float16")

    def with_float32_targets(z, y):
        q = (0.9 * torch.nn.functional.one_hot(y, z.shape[-1]) + 0.1 / z.shape[-1]).float()
        return -(q.double() * z.log_softmax(-1)).sum(-1).mean()

    found = parity.identify(with_float32_targets)
    assert "timm" in found.names
    assert "float32 numbers" in str(found)
    report = parity.check(with_float32_targets, "timm")
    assert report, "a reading, not a refusal"
    assert "a cast is in float32" in str(report)
    assert not parity.check(with_float32_targets, "timm", strict=True)
    assert parity.compare(with_float32_targets, partial(torch.nn.functional.cross_entropy, **ENTROPY))
    assert not parity.check(lambda z, y: (1 + 1e-6) * with_float32_targets(z, y), "timm")


def test_a_bend_at_large_logits_in_half_precision_is_caught():
    torch = need("torch")

    def capped_in_half(z, y):
        z = z if z.dtype == torch.float64 or z.dtype == torch.float32 else 30 * torch.tanh(z / 30)
        return torch.nn.functional.cross_entropy(z.float() if z.dtype.itemsize == 2 else z, y, **ENTROPY)

    report = parity.check(capped_in_half)
    assert not report
    assert "half precision" in report.first.case


# --- losses beyond the family -----------------------------------------------------------------------------------------


def log_p(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def strangers():
    """(loss per element of (z, y), what is said): formulas of their own, in NumPy and without gradients."""

    def own(z, y):
        return log_p(z)[np.arange(len(y)), y]

    def smoothed(z, y):
        return -0.9 * own(z, y) - 0.1 * log_p(z).mean(-1)

    def by_class(z, y):
        q, lp = 0.9 * np.eye(z.shape[-1])[y] + 0.1 / z.shape[-1], log_p(z)
        return -(q * (1 - np.exp(lp)) ** 1.5 * lp).sum(-1)

    def penalised(z, y):
        return smoothed(z, y) + 0.3 * (np.exp(log_p(z)) * log_p(z)).sum(-1)

    def margins(z, y):
        return -own(z, y) + 0.1 * np.maximum(0, z.max(-1, keepdims=True) - z - 1.5).mean(-1)

    def sigmoid_focal(z, y):
        t, p = np.eye(z.shape[-1])[y], 1 / (1 + np.exp(-z))
        at = np.where(t == 1, p, 1 - p)
        return -(np.where(t == 1, 0.25, 0.75) * (1 - at) ** 2 * np.log(at)).sum(-1)

    def hinge(z, y):
        return (np.maximum(0, 1 + z - z[np.arange(len(y)), y][:, None])).sum(-1) - 1

    yield (
        lambda z, y: (1 - np.exp(own(z, y))) ** 2 * smoothed(z, y),
        "multismooth.focal_loss(logits, labels, gamma=2.0, modulation='label', label_smoothing=0.1",
    )
    yield by_class, "focal_loss(logits, labels, gamma=1.5, modulation='class', label_smoothing=0.1"
    yield lambda z, y: -0.25 * (1 - np.exp(own(z, y))) ** 2 * own(z, y), "0.25 times"
    yield penalised, "confidence_penalty(logits, labels, beta=0.3, label_smoothing=0.1"
    yield margins, "margin_smoothing(logits, labels, margin=1.5, strength=0.1"
    yield lambda z, y: -own(z, y) + 2 * (1 - np.exp(own(z, y))), "(poly-1), a = 2"
    yield lambda z, y: 1 - np.exp(own(z, y)), "1 − p_y (mean absolute error"
    yield lambda z, y: (1 - np.exp(0.7 * own(z, y))) / 0.7, "generalised cross-entropy (1 − p_y^q)/q, q = 0.7"
    yield lambda z, y: ((np.exp(log_p(z)) - np.eye(z.shape[-1])[y]) ** 2).sum(-1), "Brier score"
    yield lambda z, y: ((z - np.eye(z.shape[-1])[y]) ** 2).sum(-1), "squared error of the logits"
    yield hinge, "hinge loss Σ max(0, m + z_k − z_y), m = 1"
    yield lambda z, y: smoothed(z / 4, y), "softmax(z/T), T = 4, ε = 0.1"
    yield lambda z, y: smoothed(20 * np.tanh(z / 20), y), "multismooth.loss(logits, labels, logit_softcap=20.0"
    yield sigmoid_focal, "sigmoid focal loss of every class, γ = 2, α = 0.25"


@pytest.mark.parametrize("number", range(14))
def test_losses_beyond_the_family_are_named(number):
    loss, said = list(strangers())[number]
    for reduce in (np.mean, np.asarray):
        found = parity.identify(lambda z, y, reduce=reduce: reduce(loss(z, y)), "numpy", num_classes=5)
        assert not found
        assert said in str(found), str(found)


def test_changed_logits_are_named():
    torch = need("torch")
    entropy = torch.nn.functional.cross_entropy

    def said(fn):
        return str(parity.identify(fn, "torch"))

    assert "lowered by a margin, 0.35" in said(lambda z, y: entropy(z - 0.35 * torch.eye(z.shape[-1])[y], y))
    assert "b = [-0.2, -0.1, " in said(lambda z, y: entropy(z + 0.1 * torch.arange(z.shape[-1]), y))
    assert "without the columns [4]" in said(lambda z, y: entropy(z[:, :-1], y.clamp(max=z.shape[-1] - 2)))


def test_distillation_is_named():
    torch = need("torch")

    def distilled(z, teacher):
        return (
            9
            * torch.nn.functional.kl_div((z / 3).log_softmax(-1), (teacher / 3).softmax(-1), reduction="none")
            .sum(-1)
            .mean()
        )

    found = parity.identify(distilled)
    assert "distillation: T² times the KL divergence" in found.family
    assert "T = 3" in found.family
    z, teacher = torch.randn(2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(pasted(found, logits=z, teacher_logits=teacher), distilled(z, teacher))


def pasted(found, **arrays):
    """What the call gives in which an Identification ends."""
    last = str(found).split("\n")[-1].removeprefix("call").strip()
    return eval(last, {"multismooth": need("multismooth"), **arrays})


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_the_calls_of_losses_beyond_the_family_give_the_same(reduction, factor):
    torch = need("torch")
    nn = torch.nn.functional

    def reduced(loss):
        return factor * (loss if reduction == "none" else getattr(loss, reduction)())

    def focal(z, y):
        own = nn.cross_entropy(z, y, reduction="none")
        return reduced((1 - (-own).exp()) ** 2 * own)

    def tempered(z, y):
        return reduced(nn.cross_entropy(z / 3, y, reduction="none", **ENTROPY))

    def penalised(z, y):
        return reduced(nn.cross_entropy(z, y, reduction="none") + 0.1 * (z.softmax(-1) * z.log_softmax(-1)).sum(-1))

    def of_entries(z, y):
        rows = 0.9 * nn.one_hot(y, z.shape[-1]).to(z.dtype) + 0.05
        return reduced(nn.binary_cross_entropy_with_logits(z, rows, reduction="none").mean(-1))

    def of_classes(z, y):
        return of_entries(z, y) * z.shape[-1]

    z, y = torch.randn(7, 5, dtype=torch.float64), torch.randint(5, (7,))
    for fn in (focal, tempered, penalised, of_entries, of_classes):
        found = parity.identify(fn, "torch", layouts=["rows"])
        got = pasted(found, logits=z, labels=y, rows=nn.one_hot(y, 5).to(z.dtype))
        torch.testing.assert_close(got, fn(z, y), rtol=1e-5, atol=0)


def test_what_is_nothing_known_is_said_to_be_that():
    def rooted(z, y):
        return np.sqrt(1 + (log_p(z)[np.arange(len(y)), y]) ** 2).mean()

    found = parity.identify(rooted, "numpy")
    assert not found
    assert not found.family
    assert "nor is it a loss that is known here" in found.why


def test_compare_says_what_both_are_and_shows_the_digits_that_differ():
    torch = need("torch")
    entropy = torch.nn.functional.cross_entropy

    def one(z, y):
        return entropy(z, y, ignore_index=1, reduction="sum") + 1e-6 * z.logsumexp(-1)[y != 1].square().sum()

    def other(z, y):
        return entropy(z, y)

    text = str(parity.compare(one, other, layouts=["rows"]))
    assert "(1 times it)" not in text
    assert "one reduces by 'sum'; other by 'mean'" in text
    assert "other as it is" in text
    assert "z_loss=1e-06" in text
    near = parity.compare(lambda z, y: entropy(z, y) * (1 + 1e-6), other)
    assert "off by 1.0e-06 of it" in str(near)


def test_the_last_line_is_a_call_to_paste_that_gives_the_same():
    torch = need("torch")
    z, y = torch.randn(3, 4, 6, dtype=torch.float64), torch.randint(2, 6, (3, 4))
    y[0, :2] = -100

    def by_padding(z, y):
        return torch.nn.functional.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1), **ENTROPY)

    for fn, more in ((mean_of_sentence_means, 0), (by_padding, 0), (summed_over_tokens, 1)):
        labels = y.clamp(min=2) if more else y
        np.testing.assert_allclose(pasted(parity.identify(fn), logits=z, labels=labels), fn(z, labels), rtol=1e-9)


def test_keras_own_losses_are_read_in_their_order():
    need("jax")
    losses = need("keras").losses
    expected = {
        losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1): ("keras", "logits", ""),
        losses.CategoricalCrossentropy(label_smoothing=0.1): ("keras", "probabilities", ""),
        losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1): ("", "logits", "targets 0.95 and 0.05"),
        losses.CategoricalFocalCrossentropy(from_logits=True): ("", "logits", "focal loss, "),
    }
    for loss, (name, scores, said) in expected.items():
        found = parity.identify(loss, "jax")
        assert name in found.names or not name, str(found)
        assert (found.form.swapped, found.form.scores) == (True, scores), str(found)
        assert said in found.family, str(found)
