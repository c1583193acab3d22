"""docs/pitfalls.md: every cell of its table is what happens, and each of its claims is a number."""

import math
import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pitfalls
import pytest
from pitfall_columns import KL, SMOOTHED, Y, Z
from requirements import need

from multismooth import SmoothingWarning, conventions

PAGE = next(iter(pitfalls.PAGES))
TEXT = PAGE.read_text(encoding="utf-8")
HEADER, ROWS = pitfalls.read_table(PAGE)
EXACT = 1e-12
LOGITS = np.random.default_rng(1).normal(size=(6, 5))
LABELS = np.array([0, 4, 2, 2, 1, 3])


@pytest.fixture(autouse=True)
def on_the_cpu():
    """The table speaks of CPUs, also where JAX would choose a GPU."""
    if not any(backend.framework == "jax" for backend in pitfalls.BACKENDS):
        yield
        return
    jax = need("jax")
    with jax.default_device(jax.devices("cpu")[0]):
        yield


@pytest.fixture(params=pitfalls.BACKENDS, ids=lambda backend: backend.name)
def call(request):
    """call("loss", logits, targets, …) of one backend after the other."""
    return request.param.call


def entropy(q):
    return -np.sum(q * np.log(q), axis=-1)


# --- the tables -----------------------------------------------------------------------------------------------------


def test_the_page_has_the_row_of_every_case():
    assert list(ROWS) == [case.name for case in pitfalls.CASES]


@pytest.mark.parametrize("case", pitfalls.CASES, ids=lambda case: case.name)
def test_multismooth_does_what_the_table_says(case):
    assert pitfalls.our_cell(case) == ROWS[case.name][2]


@pytest.mark.parametrize("place", [0, 1], ids=["torch", "optax"])
@pytest.mark.parametrize("case", pitfalls.CASES, ids=lambda case: case.name)
def test_the_peers_do_what_the_table_says(case, place):
    peer = ("torch", "optax")[place]
    need(peer)
    installed = pitfalls.header()[place + 1]
    if installed != HEADER[place + 1]:
        pytest.skip(f"the table describes {HEADER[place + 1]}, installed is {installed}")
    assert pitfalls.cell(case, peer) == ROWS[case.name][place]


def test_the_short_table_of_the_readme_is_part_of_the_long_one():
    header, rows = pitfalls.read_table(pitfalls.ROOT / "README.md")
    assert header == HEADER
    assert rows == {case.name: ROWS[case.name] for case in pitfalls.CASES if case.short}


def test_a_wrong_cell_would_be_noticed():
    case = pitfalls.CASES[0]
    changed = replace(case, multismooth=pitfalls.ours(Z, Y, label_smoothing=0.11))
    assert pitfalls.our_cell(changed) != ROWS[case.name][2]


def test_backends_that_disagree_would_be_noticed():
    if len(pitfalls.BACKENDS) < 2:
        pytest.skip("one backend cannot disagree")
    with pytest.raises(AssertionError, match="the backends differ"):
        pitfalls.our_cell(replace(pitfalls.CASES[0], multismooth=lambda backend: backend.name))


# --- the KLDivLoss path ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", ["torch", "others"])
def test_kl_divergence_has_the_same_gradient_and_lacks_the_entropy(convention):
    torch = need("torch")
    from multismooth.torch import loss, smooth_targets

    z, y = torch.from_numpy(LOGITS).requires_grad_(), torch.from_numpy(LABELS)
    q = smooth_targets(y, 5, convention=convention, dtype=torch.float64)
    kl = torch.nn.functional.kl_div(torch.log_softmax(z, -1), q, reduction="batchmean")
    whole = loss(z, y, convention=convention)
    (slope,), (expected,) = torch.autograd.grad(kl, z), torch.autograd.grad(whole, z)
    assert (slope - expected).abs().max() < 1e-16
    assert abs((whole - kl).item() - entropy(q.numpy())[0]) < EXACT


def test_the_mean_of_kl_divergence_is_k_times_too_small():
    torch = need("torch")
    log_p, q = torch.log_softmax(torch.from_numpy(LOGITS), -1), torch.softmax(torch.from_numpy(LOGITS[::-1].copy()), -1)
    with pytest.warns(UserWarning, match="batchmean"):
        mean = torch.nn.functional.kl_div(log_p, q, reduction="mean")
    assert abs(torch.nn.functional.kl_div(log_p, q, reduction="batchmean") / mean - 5) < EXACT
    cube = torch.nn.functional.kl_div(log_p.reshape(2, 3, 5), q.reshape(2, 3, 5), reduction="batchmean")
    assert abs(cube / torch.nn.functional.kl_div(log_p, q, reduction="batchmean") - 3) < EXACT


def test_objective_kl_is_the_cross_entropy_without_the_entropy(call):
    difference = call("loss", LOGITS, LABELS) - call("loss", LOGITS, LABELS, convention=KL)
    assert abs(difference - entropy(np.asarray(conventions["torch"].target_row(0.1, 5)))) < EXACT


# --- what ε means ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_two_spreads_and_the_bridge_between_them(call, classes):
    z, y = LOGITS[:, :classes], LABELS % classes
    converted = conventions["others"].smoothing_for(conventions["torch"], 0.1, classes)
    assert abs(converted - 0.1 * classes / (classes - 1)) < EXACT
    others = call("loss", z, y, convention="others")
    assert abs(others - call("loss", z, y, label_smoothing=converted)) < EXACT
    assert abs(others - call("loss", z, y)) > 1e-4


@pytest.mark.parametrize("convention", ["torch", "others"])
def test_smoothing_twice_is_a_larger_smoothing(call, convention):
    mass = conventions[convention].mass(0.1, 5)
    q = (1 - mass) * np.eye(5)[LABELS] + mass / 5
    twice = call("loss", LOGITS, q, convention=convention)
    once = call("loss", LOGITS, LABELS, label_smoothing=1 - (1 - mass) ** 2)
    assert abs(twice - once) < EXACT
    assert (
        abs(call("loss", LOGITS, q, label_smoothing=0.0) - call("loss", LOGITS, LABELS, convention=convention)) < EXACT
    )


@pytest.mark.parametrize(("label_smoothing", "warned"), [(0.5, False), (0.51, True), (1.0, True)])
def test_above_one_half_a_warning_says_so(call, label_smoothing, warned):
    with pytest.warns(SmoothingWarning, match="0.1 are usual") if warned else nullcontext():
        call("loss", LOGITS, LABELS, label_smoothing=label_smoothing)


def test_others_beyond_its_range_warns_that_the_label_is_no_longer_the_largest(call):
    row = conventions["others"].target_row(0.7, 3)
    assert max(row) > row[0]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        call("loss", LOGITS[:, :3], LABELS % 3, label_smoothing=0.7, convention="others")
    assert any("predicts the wrong class" in str(warning.message) for warning in said)


@pytest.mark.parametrize("classes", [2, 3, 10, 1000, 32000])
def test_the_loss_cannot_go_below_the_entropy_of_the_target(call, classes):
    q = np.full(classes, 0.1 / classes)
    q[0] += 0.9
    lowest, slope = call("loss_and_grad", np.log(q)[None] + 1, np.array([0]))
    assert abs(lowest - entropy(q)) < EXACT
    assert np.abs(slope).max() < EXACT
    assert f"{lowest:.3f} for K = {classes}" in " ".join(TEXT.replace("32,000", "32000").split())
    other = np.log(q)[None] + np.random.default_rng(classes).normal(size=(1, classes))
    assert call("loss", other, np.array([0])) > lowest


def test_perplexity_comes_from_the_unsmoothed_loss(call):
    confident = LOGITS + 5 * np.eye(5)[LABELS]
    loss, nll, weight, *_ = call("terms", confident, LABELS)
    assert abs(nll.sum() / weight.sum() - call("loss", confident, LABELS, label_smoothing=0.0)) < EXACT
    assert math.exp(loss.mean()) > 1.3 * math.exp(nll.mean())


# --- class weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label_smoothing", [0.1, 0.3])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("convention", ["torch", "others"])
def test_class_weights_flip_the_prediction_above_the_threshold_and_the_warning_says_when(
    call, convention, classes, label_smoothing
):
    mass = conventions[convention].mass(label_smoothing, classes)
    limit = 1 + classes * (1 - mass) / mass
    q = np.asarray(conventions[convention].target_row(label_smoothing, classes))
    for ratio, flips in ((0.999 * limit, False), (1.001 * limit, True)):
        weight = np.array([1.0] + [ratio] * (classes - 1))
        optimum = weight * q / np.sum(weight * q)
        assert (np.argmax(optimum) != 0) == flips
        with pytest.warns(SmoothingWarning, match=r"1 \+ K\(1 − ε′\)/ε′") if flips else nullcontext():
            settings = {"weight": weight, "label_smoothing": label_smoothing, "convention": convention}
            _, slope = call("loss_and_grad", np.log(optimum)[None] + 1, np.array([0]), **settings)
        assert np.abs(slope).max() < EXACT * ratio


def test_labels_and_one_hot_rows_agree_with_a_denominator_that_is_told(call):
    settings = {"weight": np.array([1.0, 5.0, 0.2, 2.0, 1.0])}
    one_hot = np.eye(5)[LABELS]
    assert abs(call("loss", LOGITS, LABELS, **settings) - call("loss", LOGITS, one_hot, **settings)) > 0.1
    for denominator in ("counted", "mixture_weight"):
        settings["convention"] = replace(conventions["torch"], denominator=denominator)
        assert abs(call("loss", LOGITS, LABELS, **settings) - call("loss", LOGITS, one_hot, **settings)) < EXACT


# --- classes and elements that do not count -------------------------------------------------------------------------


def test_a_class_mask_is_the_loss_without_these_columns(call):
    exists = np.array([True, True, False, True, False])
    labels = np.array([0, 1, 3, 3, 1, 0])
    z = np.where(exists, LOGITS, -np.inf)
    loss, slope = call("loss_and_grad", z, labels, class_mask=exists)
    expected, there = call("loss_and_grad", LOGITS[:, exists], np.array([0, 1, 2, 2, 1, 0]))
    assert abs(loss - expected) < EXACT
    np.testing.assert_allclose(slope[:, exists], there, atol=EXACT)
    assert not slope[:, ~exists].any()
    loss, slope = call("loss_and_grad", z, labels)
    assert loss == math.inf
    assert np.isfinite(slope).all()


@pytest.mark.parametrize("mark", [-1, 255])
def test_a_mark_in_the_labels_needs_a_name_and_then_counts_for_nothing(call, mark):
    labels = np.where(np.arange(6) % 3 == 0, mark, LABELS)
    with pytest.raises(IndexError, match=f"pass ignore_index={mark}"):
        call("loss", LOGITS, labels)
    loss, slope = call("loss_and_grad", LOGITS, labels, ignore_index=mark)
    expected, there = call("loss_and_grad", LOGITS[labels != mark], labels[labels != mark])
    assert abs(loss - expected) < EXACT
    assert not slope[labels == mark].any()
    np.testing.assert_allclose(slope[labels != mark], there, atol=EXACT)


def test_nothing_counted_is_zero_and_adds_up(call):
    ignored = np.full(6, -100)
    loss, slope = call("loss_and_grad", LOGITS, ignored)
    assert loss == 0
    assert not slope.any()
    _, _, weight, *_ = call("terms", LOGITS, ignored)
    assert weight.sum() == 0


def test_the_drop_in_keeps_torchs_nan_for_the_mean_of_nothing():
    torch = need("torch")
    from multismooth.torch import cross_entropy

    z = torch.from_numpy(LOGITS).requires_grad_()
    loss = cross_entropy(z, torch.full((6,), -100), label_smoothing=0.1)
    assert loss.isnan()
    assert not torch.autograd.grad(loss, z)[0].any()


def test_float16_logits_are_summed_in_float32(call):
    z = np.random.default_rng(0).normal(size=(2, 50_000)).astype(np.float16)
    exact = call("loss", z.astype(np.float64), np.array([0, 1]))
    assert abs(call("loss", z, np.array([0, 1])) - exact) < 1e-5


def test_the_rows_of_the_table_are_smoothed_as_multismooth_smooths(call):
    np.testing.assert_allclose(call("smooth_targets", Y, 3), SMOOTHED, atol=1e-7)
