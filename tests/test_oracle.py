"""The oracle itself: its gradients are the derivatives of its loss, and PyTorch agrees where it can speak."""

import numpy as np
import oracle
import pytest
from mpmath import mpf
from oracle import floats
from problems import problem, solved_binary, solved_head
from requirements import need
from tolerance import assert_close, tolerance

import multismooth


def test_gradient_is_the_derivative_of_the_loss():
    checked = 0
    for seed in range(5000, 5300, 5):
        drawn = problem(seed)
        gradient = oracle.evaluate(drawn.logits, drawn.targets, digits=50, **drawn.settings).gradient
        for index in list(np.ndindex(gradient.shape))[:: 1 + gradient.size // 8]:
            if not np.isfinite(drawn.logits[index]):
                assert gradient[index] == 0
                continue
            slope = oracle.derivative(
                lambda z, drawn=drawn: oracle.total(z, drawn.targets, digits=60, **drawn.settings), drawn.logits, index
            )
            assert abs(slope - gradient[index]) < mpf(10) ** -28, (drawn, index)
            checked += 1
    assert checked > 200


def test_binary_gradients_are_derivatives():
    for seed in range(30):
        (logits, targets, settings), (_, gradient, slope) = solved_binary(seed)
        settings = settings | {"reduction": "mean" if settings["reduction"] == "mean" else "sum", "digits": 60}

        def of_logits(z, targets=targets, settings=settings):
            return oracle.evaluate_binary(z, targets, **settings)[0]

        def of_targets(t, logits=logits, settings=settings):
            return oracle.evaluate_binary(logits, t, **settings)[0]

        for index in np.ndindex(logits.shape):
            if np.isfinite(logits[index]):
                assert abs(oracle.derivative(of_logits, logits, index) - gradient[index]) < mpf(10) ** -28
            if np.isfinite(logits[index]) and targets[index] != settings.get("ignore_index"):
                assert abs(oracle.derivative(of_targets, targets, index) - slope[index]) < mpf(10) ** -28


def test_linear_gradients_are_derivatives():
    for seed in range(0, 80, 10):
        head, (_, d_hidden, d_classifier, d_bias) = solved_head(seed)
        hidden, bias = np.nan_to_num(head.hidden), np.zeros(len(head.classifier)) if head.bias is None else head.bias

        def loss(hidden, classifier, bias, head=head):
            answer = oracle.evaluate_linear(hidden, classifier, head.targets, bias=bias, digits=60, **head.settings)[0]
            return np.sum(answer.loss)

        arrays = (hidden, head.classifier, bias)
        for which, gradient in enumerate((d_hidden, d_classifier, d_bias)):
            if gradient is None:
                continue
            for index in list(np.ndindex(gradient.shape))[:4]:

                def changed(value, which=which, arrays=arrays):
                    return loss(*(value if i == which else a for i, a in enumerate(arrays)))

                assert abs(oracle.derivative(changed, arrays[which], index) - gradient[index]) < mpf(10) ** -28


def test_rows_of_the_contract():
    for name, row in (("torch", [14 / 15, 1 / 30, 1 / 30]), ("others", [0.9, 0.05, 0.05])):
        answer = oracle.evaluate(np.zeros((1, 3)), np.array([0]), convention=name)
        assert_close(floats(answer.q)[0], row)
        assert_close(floats(answer.loss), np.log(3))


def test_pytorch_agrees():
    torch = need("torch")
    for seed in range(6000, 6150):
        drawn = problem(
            seed, convention=False, prior=False, class_mask=False, sample_weight=False, z_loss=False, normalizer=False,
            logit_softcap=False, smoothing_array=False, nonfinite=False, shape=((6,), 4, None),
        )  # fmt: skip
        settings = drawn.settings
        logits = torch.from_numpy(drawn.logits).requires_grad_()
        index = settings.get("ignore_index", -100)
        theirs = torch.nn.functional.cross_entropy(
            logits,
            torch.from_numpy(drawn.targets.astype(np.float64 if drawn.soft else np.int64)),
            torch.from_numpy(settings["weight"]) if "weight" in settings else None,
            ignore_index=-100 if index is None else index,
            label_smoothing=settings["label_smoothing"],
            reduction=settings.get("reduction", "mean"),
        )
        theirs.sum().backward()
        answer = oracle.evaluate(drawn.logits, drawn.targets, **settings)
        if np.isfinite(theirs.detach().numpy()).all():
            assert_close(floats(answer.loss), theirs.detach().numpy())
            assert_close(floats(answer.gradient), logits.grad.numpy())


def test_large_agrees_with_mpmath():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 50)).astype(np.float32) * 5, np.array([4, 49])
    for spread, name in (("all", "torch"), ("others", "others")):
        loss, gradient = oracle.exact_loss_large(logits, labels, 0.1, spread)
        answer = oracle.evaluate(logits.astype(np.float64), labels, convention=name, reduction="none")
        assert np.max(np.abs(loss / floats(answer.loss) - 1)) < 1e-15
        assert np.max(np.abs(gradient - floats(answer.gradient))) < 1e-16


def test_generator_covers_the_contract():
    drawn = [problem(seed) for seed in range(800)]
    for name in (
        "weight",
        "prior",
        "class_mask",
        "sample_weight",
        "ignore_index",
        "z_loss",
        "normalizer",
        "convention",
    ):
        assert sum(name in p.settings for p in drawn) >= 40, name
    assert sum(p.quiet for p in drawn) >= 300
    assert sum(np.isnan(p.logits).any() for p in drawn) >= 80
    assert any(p.logits.size == 0 for p in drawn)
    half_ignored = [p for p in drawn if getattr(p.settings.get("convention"), "ignore_scope", "all") == "nll_only"]
    assert sum((p.targets == p.settings.get("ignore_index", -100)).any() for p in half_ignored) >= 5
    changed = [p.settings["convention"] for p in drawn if not isinstance(p.settings.get("convention", ""), str)]
    for name, value in vars(multismooth.conventions["torch"]).items():
        if name not in ("name", "source", "notes", "ignore_index"):
            assert any(getattr(c, name) != value for c in changed), name


def test_tolerance_rejects():
    for dtype in ("float64", "float32"):
        one = np.ones(1, dtype)
        assert_close(one, one, dtype)
        with pytest.raises(AssertionError, match="differ"):
            assert_close(one + one.dtype.type(2 * tolerance(dtype)), one, dtype)
    with pytest.raises(AssertionError, match="shape"):
        assert_close(np.ones(1), np.ones((1, 1)))
    with pytest.raises(AssertionError, match="dtype"):
        assert_close(np.ones(1), np.ones(1), "float32")
    with pytest.raises(AssertionError, match="differ"):
        assert_close(np.array([np.nan]), np.ones(1))
