"""Calibration metrics: recorded values of real models, what libraries return, definitions in exact arithmetic, laws."""

import itertools
import math
import pickle
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from calibration_data import recorded, sets, softmax
from hypothesis import given, settings
from hypothesis import strategies as st
from requirements import need

from multismooth import LabelError, TargetError, calibration
from multismooth.calibration import ErrorConvention, binning, dialects, rows
from multismooth.dispatch import backend_object

ECE = calibration.expected_calibration_error
FRAMEWORKS = ("numpy", "torch", "torch on its device", "jax", "jax on its device")


@pytest.fixture(params=FRAMEWORKS)
def own(request, monkeypatch):
    """NumPy arrays to arrays of a framework, in float32 for JAX, which then keeps what float32 can hold."""
    name = request.param.split()[0]
    module = need(name)

    def convert(array):
        if name == "torch":
            return module.from_numpy(array)
        return module.numpy.asarray(array, "float32" if array.dtype == float else None) if name == "jax" else array

    if "device" in request.param:  # as if NumPy could not read the memory
        kind = type(backend_object(convert(np.zeros(1))))
        values = kind.values
        monkeypatch.setattr(
            kind, "values", lambda self, array, validate: values(self, array, True) if validate else None
        )
    return convert


def test_recorded_values_in_every_backend(own):
    need("scipy")
    largest = 0.0
    for (name, smoothing), (_, _, logits, labels) in sets().items():
        exact, z, y = recorded(name, smoothing)["exact"], own(logits), own(labels)
        pairs = [(ECE(z, y, **entry["setting"]), entry["value"]) for entry in exact["errors"]]
        pairs.append((calibration.brier_score(z, y), exact["brier"]))
        pairs.append((calibration.negative_log_likelihood(z, y), exact["nll"]))
        pairs.append((calibration.risk_coverage(z, y).aurc, exact["aurc"]))
        if exact["brier_parts"]:
            found = calibration.brier_decomposition(z, y)
            parts = (found.score, found.miscalibration, found.discrimination, found.uncertainty)
            pairs += zip(parts, exact["brier_parts"], strict=True)
        largest = max(largest, *(abs(a - b) for a, b in pairs))
        assert abs(calibration.smooth_calibration_error(z, y) - exact["smooth"]) < 1e-4
    assert largest < 1e-12  # measured: 1.1e-15


# The recorded library, what describes it, and how near it comes. With 15 bins where the description has none.
FLOAT32 = 5e-7
PEERS = {
    "gpleiss/temperature_scaling _ECELoss (and TorchCP, focal_calibration)": ("guo", FLOAT32),
    "torchmetrics float64": ("torchmetrics", FLOAT32),
    "netcal ECE": ("netcal", 1e-12),
    "uncertainty-calibration get_ece": ("guo", 1e-12),
    "PyCalib conf_ECE": ("guo", 1e-12),
    "pycalib (Wenger) [1/K,1], bin centres": (dialects.from_chance, 1e-12),
    "relplot binnedECE": ("relplot", 1e-12),
    "fortuna (10 fixed, first bin [0,1/N])": (lambda p, y, bins: dialects.from_one_over_n(p, y, 10), 1e-12),
    "MAPIE expected_calibration_error uniform": (ErrorConvention(bins=14), 1e-12),
    "MAPIE top_label_ece uniform": (ErrorConvention(bins=14, event="predicted_class"), 1e-12),
    "MAPIE classwise": (ErrorConvention(bins=14, event="class_wise"), 1e-12),
    "calzone": ("calzone", 1e-12),
    "TFP / robustness_metrics ECE / edward2 [transcribed]": ("left_closed", 1e-12),
    "robustness_metrics GCE even max_prob": ("torchmetrics", 1e-12),
    "fd-shifts": ("left_closed", 1e-12),
    "UQ360": (dialects.from_half, 1e-12),
    "scikit-learn calibration_curve uniform (recipe)": ("guo", 1e-12),
    "uncertainty-calibration get_ece_em": ("adaptive", 1e-12),
    "focal_calibration AdaptiveECELoss": (dialects.interpolated, FLOAT32),
    "torch-uncertainty AdaptiveECE": (dialects.ranked, 1e-12),
    "Hendrycks calib_err beta=N//B l1": (lambda p, y, bins: dialects.last_bin_left_out(p, y, bins, 1), 1e-12),
    "netcal ACE (mean over bins)": ("netcal_ace", 1e-12),
    "torchmetrics max": ("torchmetrics_max", FLOAT32),
    "uncertainty-calibration get_top_calibration_error (l2, debiased, mass)": ("kumar", 1e-12),
    "uncertainty-calibration l2 plugin mass": ("kumar_plugin", 1e-12),
    "netcal MCE": ("netcal_mce", 1e-12),
    "PyCalib conf_MCE": ("mce", 1e-12),
    "focal_calibration ClasswiseECELoss": ("classwise", FLOAT32),
    "PyCalib classwise_ECE": ("classwise", 1e-12),
    "PyCalib ECE default (ece_full)": ("pooled", 1e-12),
    "uncertainty-calibration marginal width l1": ("classwise", 1e-12),
    "robustness_metrics SCE": ("classwise", 1e-12),
    "relplot smECE": (dialects.smooth, 1e-3),
}
DIFFER = {  # (peer, set) or (peer, set, ε): why it returns another number there
    ("focal_calibration ClasswiseECELoss", "characters-mlp"): "K is the largest label + 1; later classes vanish",
    ("PyCalib ECE default (ece_full)", "cancer-mlp"): "takes two columns as one probability of class 1",
    ("PyCalib classwise_ECE", "cancer-mlp"): "raises IndexError for two classes",
    ("relplot smECE", "cancer-mlp", "0.0"): "p within a grid cell of 1 counts half, and most are",
    ("relplot smECE", "mnist5k-cnn", "0.0"): "p within a grid cell of 1 counts half",
}
NOT_TOLD = {  # peers that no name of ours describes on all sets, and why
    "torchmetrics float32": "as its float64, see torchmetrics",
    "torchmetrics l2": "computes in float32, where confidences above 1 − 3e-8 are 1 and have a bin of their own",
    "netcal ECE equal mass": "edges from quantiles with ties refused",
    "robustness_metrics GCE adaptive max_prob": "sorted parts, and p = 1 in a part of its own",
    "calzone equal freq": "the smallest value falls out of (lo, hi]",
    "MAPIE quantile": "one bin fewer, edges by another quantile rule",
    "MAPIE array split (default)": "splits unsorted scores: depends on the order of the rows",
    "Hendrycks calib_err beta=100 l2 (HLE)": "parts of 100 rows, not a number of bins",
    "scikit-learn calibration_curve quantile (mean of bins)": "a recipe: bins between quantiles weigh equally",
    "fortuna MCE": "max of count·gap, not a share: up to 6452",
    "PyCalib full_ECE": "bins of whole rows",
    "robustness_metrics ACE (class, mass)": "sorted parts that split equal probabilities",
    "robustness_metrics TACE .01": "thresholded before the parts are made, all classes weigh by count",
}


def test_each_recorded_library_is_described_or_differs_for_a_reason():
    wrong, seen = {}, set()
    for (name, smoothing), (_, _, logits, labels) in sets().items():
        probs = softmax(logits)
        for peer, value in recorded(name, smoothing)["peers"].items():
            seen.add(peer)
            if peer in NOT_TOLD:
                continue
            what, tolerance = PEERS[peer]
            if isinstance(what, str):
                what = calibration.conventions[what]
                mine = ECE(logits, labels, convention=what, bins=15)
            else:
                mine = (
                    ECE(logits, labels, convention=what)
                    if isinstance(what, ErrorConvention)
                    else what(probs, labels, 15)
                )
            same = isinstance(value, float) and abs(mine - value) <= tolerance
            if same == bool({(peer, name), (peer, name, smoothing)} & DIFFER.keys()):
                wrong[peer, name, smoothing] = (mine, value)
    assert not wrong
    assert seen == PEERS.keys() | NOT_TOLD.keys()


def test_torchmetrics_l2_differs_by_what_float32_rounds_to_1():
    for (name, smoothing), (_, _, logits, labels) in sets().items():
        probs = softmax(logits).astype(np.float32)
        value = recorded(name, smoothing)["peers"]["torchmetrics l2"]
        assert ECE(probs=probs, targets=labels, convention="torchmetrics_l2") == pytest.approx(value, abs=FLOAT32)


def by_definition(confidence, hit, bins, closed, norm, bin_weight, debias):
    """The error in exact rational arithmetic; edges are float64 numbers."""
    edges = [Fraction(i / bins) for i in range(bins + 1)]
    inside = (lambda p, lo, hi: lo < p <= hi) if closed == "right" else (lambda p, lo, hi: lo <= p < hi)
    found = [[] for _ in range(bins)]
    for p, h in zip(map(Fraction, confidence), hit, strict=True):
        place = next((b for b in range(bins) if inside(p, edges[b], edges[b + 1])), 0 if p == 0 else bins - 1)
        found[place].append((p, int(h)))
    filled = [part for part in found if part]
    total = Fraction(0)
    gaps = []
    for part in filled:
        n = len(part)
        accuracy, mean = Fraction(sum(h for _, h in part), n), sum(p for p, _ in part) / n
        gaps.append(abs(accuracy - mean))
        gap = gaps[-1] ** (1 if norm == "l1" else 2)
        if debias:
            gap = gap - accuracy * (1 - accuracy) / (n - 1) if n > 1 else Fraction(0)
        total += gap * (Fraction(n, len(hit)) if bin_weight == "count" else Fraction(1, len(filled)))
    if norm == "max":
        return float(max(gaps))
    return (
        float(total)
        if norm == "l1"
        else float(
            mpmath.sqrt(
                mpmath.mpf(max(total, 0).numerator) / max(total, 1).denominator
                if total <= 0
                else mpmath.mpf(total.numerator) / total.denominator
            )
        )
    )


def two_columns(confidence):
    """Rows of three classes whose largest probability is the given one (≥ 1/2)."""
    rest = 1 - confidence
    return np.stack([confidence, rest / 2, 1 - confidence - rest / 2], axis=1)


@pytest.mark.parametrize("bins", [3, 7, 10, 15, 20])
def test_the_definition_on_edges_and_off_them(bins):
    random = np.random.default_rng(bins)
    on = np.array([i / bins for i in range(bins // 2 + 1, bins + 1)])
    near = np.concatenate([np.nextafter(on[:-1], 0), np.nextafter(on[:-1], 1)])
    confidence = np.concatenate([on, near[near >= 0.5], random.uniform(0.5, 1, 20), [0.5, 0.7, 0.3 + 0.4]])
    probs = two_columns(confidence)
    labels = random.integers(0, 2, len(confidence))
    for closed, norm, weight in itertools.product(("right", "left"), ("l1", "l2", "max"), ("count", "equal")):
        for debias in (False, True) if norm == "l2" else (False,):
            mine = ECE(
                probs=probs, targets=labels, bins=bins, closed=closed, norm=norm, bin_weight=weight, debias=debias
            )
            expected = by_definition(probs.max(1), labels == 0, bins, closed, norm, weight, debias)
            assert mine == pytest.approx(expected, abs=1e-14), (closed, norm, weight, debias)


@settings(max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 60), st.sampled_from(["right", "left"]))
def test_a_bin_is_between_its_edges(values, bins, closed):
    values, edges = np.array(values), binning.width_edges(bins)
    index = binning.assign(values, edges, closed)
    low, high = edges[index], edges[index + 1]
    if closed == "right":
        assert np.all(((low < values) | (index == 0)) & (values <= high))
    else:
        assert np.all((low <= values) & ((values < high) | (index == bins - 1)))


def test_equal_mass_merges_equal_edges_and_splits_no_ties():
    assert binning.mass_edges(np.array([0.1, 0.2, 0.3, 0.4, 0.5]), 2).tolist() == [0.0, 0.35, 1.0]
    assert binning.mass_edges(np.full(9, 0.4), 3).tolist() == [0.0, 0.4, 1.0]
    assert len(binning.mass_edges(np.array([0.2, 0.9]), 15)) == 3


@st.composite
def problems(draw):
    n, k = draw(st.integers(2, 30)), draw(st.integers(2, 5))
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    logits = np.round(
        random.normal(size=(n, k)) * draw(st.sampled_from([0.1, 2.0, 30.0])), draw(st.sampled_from([0, 1, 9]))
    )
    return logits, random.integers(0, k, n), random


METRICS = {
    "errors": lambda z, y: [ECE(z, y, convention=name) for name in calibration.conventions if name != "class_1"],
    "scores": lambda z, y: [calibration.brier_score(z, y), calibration.negative_log_likelihood(z, y)],
    "smooth": lambda z, y: [calibration.smooth_calibration_error(z, y)],
    "test": lambda z, y: list(vars(calibration.calibration_test(z, y, resamples=20)).values()),
    "risk": lambda z, y: [
        calibration.risk_coverage(z, y, score=s).aurc for s in ("probability", "margin", "logit_norm")
    ],
}


@settings(max_examples=15)
@given(problems())
def test_the_order_of_the_rows_and_ignored_rows_do_not_matter(problem):
    logits, labels, random = problem
    order = random.permutation(len(labels))
    more = np.concatenate([logits[order], np.full((2, logits.shape[1]), np.nan)])
    marked = np.concatenate([labels[order], [-100, -100]])
    for name, metric in METRICS.items():
        assert metric(more, marked) == pytest.approx(metric(logits, labels), abs=1e-9, nan_ok=True), name


@settings(max_examples=25)
@given(problems())
def test_the_decomposition_sums_and_each_part_is_positive(problem):
    need("scipy")
    logits, labels, _ = problem
    parts = calibration.brier_decomposition(logits, labels)
    assert parts.score == calibration.brier_score(logits, labels)
    assert parts.miscalibration - parts.discrimination + parts.uncertainty == pytest.approx(parts.score, abs=1e-15)
    assert min(parts.miscalibration, parts.discrimination, parts.uncertainty) >= 0


def test_isotonic_regression_is_the_min_max_formula():
    need("scipy")
    from multismooth.calibration.scores import isotonic

    random = np.random.default_rng(3)
    p, y = np.round(random.random(40), 1), random.random(40) < 0.4
    values = np.unique(p)
    means = lambda a, b: Fraction(int(y[(p >= a) & (p <= b)].sum()), int(((p >= a) & (p <= b)).sum()))  # noqa: E731
    expected = {v: max(min(means(a, b) for b in values if b >= v) for a in values if a <= v) for v in values}
    assert isotonic(p, y) == pytest.approx([float(expected[v]) for v in p], abs=1e-14)


def test_scores_against_forty_digits():
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(12, 5)) * 8 + 1e6, random.integers(0, 5, 12)
    logits[3, :2] = -np.inf
    labels[3] = 4
    with mpmath.workdps(40):
        nll = brier = mpmath.mpf(0)
        for row, y in zip(logits, labels, strict=True):
            e = [mpmath.exp(mpmath.mpf(float(z - row.max()))) for z in row]
            p = [x / sum(e) for x in e]
            nll -= mpmath.log(p[y])
            brier += sum((p[k] - (k == y)) ** 2 for k in range(5))
        expected = float(nll / 12), float(brier / 12)
    assert calibration.negative_log_likelihood(logits, labels) == pytest.approx(expected[0], rel=1e-14)
    assert calibration.brier_score(logits, labels) == pytest.approx(expected[1], rel=1e-14)


def test_a_label_of_probability_0_costs_infinitely_much():
    probs = np.array([[1.0, 0.0], [0.5, 0.5]])
    assert calibration.negative_log_likelihood(probs=probs, targets=np.array([1, 0])) == math.inf


def test_clopper_pearson_inverts_the_binomial():
    need("scipy")
    from multismooth.calibration.reliability import interval

    hits, count = np.array([0, 3, 10, 10, 0]), np.array([5, 7, 10, 300, 0])
    low, high = interval(hits, count, 0.9)
    assert low[0] == 0
    assert high[2] == 1
    assert np.isnan([low[4], high[4]]).all()
    for i in (0, 1, 2, 3):
        n, k = int(count[i]), int(hits[i])
        at_most = sum(
            mpmath.binomial(n, j) * mpmath.mpf(high[i]) ** j * (1 - mpmath.mpf(high[i])) ** (n - j)
            for j in range(k + 1)
        )
        at_least = sum(
            mpmath.binomial(n, j) * mpmath.mpf(low[i]) ** j * (1 - mpmath.mpf(low[i])) ** (n - j)
            for j in range(k, n + 1)
        )
        assert float(at_most) == pytest.approx(0.05 if k < n else 1, rel=1e-9)
        assert float(at_least) == pytest.approx(0.05 if k else 1, rel=1e-9)


def test_the_curve_agrees_with_the_error_and_has_bands():
    need("scipy")
    _, _, logits, labels = sets()["digits-mlp", "0.1"]
    curve = calibration.reliability_curve(logits, labels)
    assert curve.error == pytest.approx(ECE(logits, labels), abs=1e-15)
    filled = curve.count > 0
    assert np.all((curve.low <= curve.accuracy)[filled] & (curve.accuracy <= curve.high)[filled])
    assert curve.mean_confidence == pytest.approx(softmax(logits).max(1).mean(), abs=1e-14)
    bare = calibration.reliability_curve(logits, labels, confidence_level=None)
    assert np.isnan(bare.low).all()


def test_aurc_is_the_mean_over_all_orders_of_equal_scores():
    score, wrong = [0.9, 0.9, 0.7, 0.7, 0.7, 0.1], [0, 1, 1, 0, 0, 1]
    orders = [[*a, *b, 5] for a in itertools.permutations((0, 1)) for b in itertools.permutations((2, 3, 4))]
    risks = np.mean([[np.mean([wrong[i] for i in order[:k]]) for k in range(1, 7)] for order in orders], axis=0)
    probs = np.full((6, 2), 0.5)
    found = calibration.risk_coverage(probs=probs, targets=np.array(wrong), score=np.array(score))
    assert found.risk == pytest.approx(risks, abs=1e-15)
    assert found.aurc == pytest.approx(risks.mean(), abs=1e-15)
    best = np.mean([max(0, k - 3) / k for k in range(1, 7)])
    assert found.excess_aurc == pytest.approx(risks.mean() - best, abs=1e-15)
    assert found.augrc == pytest.approx(np.mean(risks * np.arange(1, 7) / 6), abs=1e-15)


def test_scores_for_selection():
    logits = np.array([[3.0, 1.0, 0.0], [0.2, 0.1, 0.0], [5.0, 5.0, 5.0]])
    sample = calibration.coverage.read(logits, np.array([0, 0, 0]), None, -100, None)
    margin, largest, norm = rows.reduce(sample, "margin", "max_logit", "logit_norm")
    p = np.sort(softmax(logits), axis=1)
    centred = logits - logits.mean(1, keepdims=True)
    assert margin == pytest.approx(p[:, -1] - p[:, -2], abs=1e-15)
    assert largest.tolist() == [3.0, 0.2, 5.0]
    assert norm[:2] == pytest.approx((centred.max(1) / np.linalg.norm(centred, axis=1).clip(1e-300))[:2])
    assert norm[2] == 0


def test_smooth_error_by_quadrature():
    random = np.random.default_rng(5)
    confidence = random.uniform(0.5, 1, 60)
    confidence[:5] = 1.0
    probs, labels = two_columns(confidence), random.integers(0, 2, 60)
    t = np.linspace(0, 1, 4001)

    def integral(sigma):
        images = [confidence, -confidence, 2 - confidence]
        kernel = sum(np.exp(-((t[:, None] - c) ** 2) / (2 * sigma**2)) for c in images) / (
            sigma * math.sqrt(2 * math.pi)
        )
        return np.trapezoid(np.abs(kernel @ ((labels == 0) - confidence)), t) / 60

    found = calibration.smooth_calibration_error(probs=probs, targets=labels)
    assert integral(found) == pytest.approx(found, abs=1e-4)


def test_the_floor_is_that_of_a_calibrated_model():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 400)
    probs = two_columns(confidence)
    right = random.random((200, 400)) < confidence
    errors = [ECE(probs=probs, targets=np.where(hits, 0, 1)) for hits in right]
    found = calibration.calibration_test(probs=probs, targets=np.where(right[0], 0, 1), resamples=2000)
    assert found.expected == pytest.approx(np.mean(errors), abs=4 * np.std(errors) / math.sqrt(200))
    assert found.low < found.expected < found.high
    assert 0.01 < found.p_value <= 1
    over = calibration.calibration_test(probs=probs, targets=np.ones(400, int))
    assert over.p_value == 1 / 1001
    assert "a perfectly calibrated model would show" in str(over)


def test_conventions_are_values():
    for name, entry in calibration.conventions.items():
        assert entry.name == name
        assert entry.source
        assert hash(entry) == hash(pickle.loads(pickle.dumps(entry)))
        assert name in str(entry)
    with pytest.raises(TypeError):
        calibration.conventions["mine"] = ErrorConvention()
    custom = ErrorConvention(event="class_wise", norm="l2", bins=20)
    z, y = np.eye(3)[[0, 1, 2, 0]] * 2, np.array([0, 1, 1, 0])
    assert ECE(z, y, convention=custom) == ECE(z, y, convention="classwise", norm="l2", bins=20)
    assert ECE(z, y, event=1) == pytest.approx(ECE(z, y, convention="class_1"), abs=0)


def test_the_floor_of_many_rows_is_drawn_in_groups(monkeypatch):
    confidence = np.random.default_rng(0).beta(8, 1, 3000).clip(0.5, 1)
    probs, labels = two_columns(confidence), np.zeros(3000, int)
    one_by_one = calibration.calibration_test(probs=probs, targets=labels, resamples=4000)
    monkeypatch.setattr(calibration.error, "MANY", 100)
    grouped = calibration.calibration_test(probs=probs, targets=labels, resamples=4000)
    assert grouped.error == one_by_one.error
    spread = (one_by_one.high - one_by_one.low) / 4
    assert grouped.expected == pytest.approx(one_by_one.expected, abs=5 * spread / math.sqrt(2000))
    assert (grouped.low, grouped.high) == pytest.approx((one_by_one.low, one_by_one.high), abs=spread / 5)
    assert grouped.expected != one_by_one.expected


LOGITS, LABELS, PROBS = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([0, 1]), np.array([[0.9, 0.1], [0.4, 0.6]])
BAD = {
    "neither": (lambda: ECE(targets=LABELS), ValueError, "exactly one of logits and probs; got neither"),
    "both": (lambda: ECE(LOGITS, LABELS, probs=PROBS), ValueError, "got both"),
    "no targets": (lambda: ECE(LOGITS), TargetError, "the labels; got None"),
    "probabilities as logits": (lambda: ECE(PROBS, LABELS), ValueError, "look like probabilities"),
    "logits as probabilities": (lambda: ECE(probs=LOGITS, targets=LABELS), ValueError, "rows ≥ 0 that sum to 1"),
    "NaN": (lambda: ECE(LOGITS * np.nan, LABELS), ValueError, r"softmax is nan at \(0,\), 2 in all"),
    "infinite": (lambda: ECE(np.array([[np.inf, 0.0]]), [0]), ValueError, "finite logits"),
    "label": (lambda: ECE(LOGITS, np.array([0, 2])), LabelError, r"labels in \[0, 2\)"),
    "soft": (lambda: ECE(LOGITS, PROBS), TargetError, "integer labels"),
    "shape": (lambda: ECE(LOGITS, np.array([0, 1, 1])), TargetError, "shape"),
    "no axis": (lambda: ECE(np.float64(1.0), LABELS), ValueError, "at least one axis"),
    "one class": (lambda: ECE(LOGITS[:, :1], LABELS), ValueError, "at least two classes"),
    "integers": (lambda: ECE(LOGITS.astype(int), LABELS), ValueError, "a floating dtype"),
    "type": (lambda: ECE("logits", LABELS), TypeError, "numpy.ndarray"),
    "name": (lambda: ECE(LOGITS, LABELS, convention="gou"), ValueError, "Did you mean guo"),
    "loss convention": (lambda: ECE(LOGITS, LABELS, convention=3), ValueError, "ErrorConvention"),
    "bins": (lambda: ECE(LOGITS, LABELS, bins=0), ValueError, "an integer ≥ 1"),
    "norm": (lambda: ECE(LOGITS, LABELS, norm="L1"), ValueError, "Did you mean 'l1'"),
    "event": (lambda: ECE(LOGITS, LABELS, event=2), ValueError, r"a class in \[0, 2\)"),
    "event name": (lambda: ECE(LOGITS, LABELS, event="toplabel"), ValueError, "top_label"),
    "debias": (lambda: ECE(LOGITS, LABELS, debias=True), ValueError, 'norm="l2"'),
    "debias type": (lambda: ECE(LOGITS, LABELS, debias=1, norm="l2"), ValueError, "True or False"),
    "mass left": (lambda: ECE(LOGITS, LABELS, binning="mass", closed="left"), ValueError, "binning"),
    "own": (lambda: ErrorConvention(one="own"), ValueError, 'closed="left"'),
    "level": (
        lambda: calibration.reliability_curve(LOGITS, LABELS, confidence_level=95),
        ValueError,
        "between 0 and 1",
    ),
    "resamples": (lambda: calibration.calibration_test(LOGITS, LABELS, resamples=0), ValueError, "resamples"),
    "score": (
        lambda: calibration.risk_coverage(probs=PROBS, targets=LABELS, score="max_logit"),
        ValueError,
        "'probability', 'margin' or an array",
    ),
    "score shape": (
        lambda: calibration.risk_coverage(LOGITS, LABELS, score=np.zeros(3)),
        ValueError,
        "one number for each element",
    ),
    "score NaN": (lambda: calibration.risk_coverage(LOGITS, LABELS, score=np.full(2, np.nan)), ValueError, "2 NaN"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_an_error_with_a_remedy(name):
    call, error, text = BAD[name]
    with pytest.raises(error, match=text):
        call()


def test_values_that_no_process_has_are_refused():
    torch = need("torch")
    logits, labels = torch.zeros(2, 3, device="meta"), torch.zeros(2, dtype=torch.long, device="meta")
    with pytest.raises(ValueError, match=r"an array that this process can read; got Tensor\. Gather it"):
        ECE(logits, labels)


@pytest.mark.compiles
def test_a_trace_is_told_of_the_streams():
    jax, torch = need("jax"), need("torch")
    with pytest.raises(ValueError, match=r"Under a trace use calibration.update"):
        jax.jit(ECE)(jax.numpy.asarray(LOGITS), jax.numpy.asarray(LABELS))
    with pytest.raises(ValueError, match="Under a trace"):
        torch.func.vmap(ECE)(torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.long))


def test_nothing_counted_is_nan():
    need("scipy")
    for z, y in ((LOGITS, np.array([-100, -100])), (np.zeros((0, 3)), np.zeros(0, int))):
        for name in calibration.conventions:
            if name != "class_1" or len(z):
                assert math.isnan(ECE(z, y, convention=name)), name
        numbers = [f(z, y) for f in (calibration.brier_score, calibration.negative_log_likelihood)]
        numbers += [calibration.smooth_calibration_error(z, y), calibration.risk_coverage(z, y).aurc]
        numbers += vars(calibration.calibration_test(z, y)).values()
        numbers += vars(calibration.brier_decomposition(z, y)).values()
        numbers.append(calibration.reliability_curve(z, y).error)
        assert np.isnan(numbers).all()


def test_axes_dtypes_and_ties(own):
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(2, 5, 3)).astype(np.float32), random.integers(0, 3, (2, 5))
    expected = ECE(logits.reshape(-1, 3), labels.reshape(-1))
    moved = np.ascontiguousarray(np.moveaxis(logits, -1, 1))
    assert ECE(own(logits), own(labels), axis=-1) == pytest.approx(expected, abs=1e-15)
    assert ECE(own(moved), own(labels), axis=1) == pytest.approx(expected, abs=1e-15)
    ties = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    sample = calibration.coverage.read(own(ties), own(np.array([0, 2])), None, -100, None)
    assert rows.reduce(sample, "hit")[0].tolist() == [True, False]


def test_half_precision_is_exact_and_the_arguments_stay_as_they_are():
    torch = need("torch")
    random = np.random.default_rng(2)
    wide = random.normal(size=(50, 80)).astype(np.float16)
    labels, before = random.integers(0, 80, 50), wide.copy()
    for score in ("margin", "logit_norm"):
        calibration.risk_coverage(wide.astype(float), labels, score=score)
    probs = softmax(wide.astype(float))
    copy = probs.copy()
    calibration.brier_score(probs=probs, targets=labels)
    calibration.risk_coverage(probs=probs, targets=labels, score="margin")
    assert np.array_equal(probs, copy)
    assert np.array_equal(wide, before)
    bfloat = torch.from_numpy(wide).to(torch.bfloat16)
    assert ECE(bfloat, torch.from_numpy(labels)) == ECE(bfloat.double(), torch.from_numpy(labels))
    assert ECE(wide, labels) == ECE(wide.astype(float), labels)


def test_the_guides_table_is_the_registrys():
    import dialect_table

    text = dialect_table.PAGE.read_text(encoding="utf-8")
    assert dialect_table.table() == text.split(dialect_table.START)[1].split(dialect_table.END)[0]
