"""The temperature: the optimum of recorded logits, its laws and certificate, what has none, scikit-learn's protocol."""

import math
import warnings

import mpmath
import numpy as np
import pytest
from calibration_data import recorded, sets
from hypothesis import given, settings
from hypothesis import strategies as st
from requirements import need

from multismooth import CalibrationWarning, TargetError, calibration
from multismooth.calibration import rows, temperature
from multismooth.dispatch import backend_object


@pytest.fixture
def passes(monkeypatch):
    """How often the data was gone through."""
    count = [0]
    original = rows.blocks

    def counted(sample):
        count[0] += 1
        return original(sample)

    monkeypatch.setattr(rows, "blocks", counted)
    return count


@pytest.mark.parametrize("scale", [0.01, 1.0, 37.0, 1e4])
def test_recorded_optima_at_any_scale_in_few_passes(scale, passes):
    for (name, smoothing), (logits, labels, _, _) in sets().items():
        passes[0] = 0
        found = calibration.fit_temperature(logits * scale, labels)
        assert found.status == "converged"
        assert found.temperature == pytest.approx(scale * recorded(name, smoothing)["temperature"], rel=1e-6)
        assert abs(found.gradient) < 1e-6 * scale
        assert found.nll_after <= found.nll_before
        assert passes[0] <= 15  # measured: 8 to 10


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_every_backend_finds_it_on_its_device_too(framework, monkeypatch):
    module, (logits, labels, _, _) = need(framework), sets()["digits-mlp", "0.1"]
    convert = module.from_numpy if framework == "torch" else module.numpy.asarray
    z, y = convert(logits.astype(np.float32)), convert(labels)
    kind = type(backend_object(z))
    values = kind.values
    expected = calibration.fit_temperature(logits, labels)
    assert calibration.fit_temperature(z, y).temperature == pytest.approx(expected.temperature, rel=1e-12)
    monkeypatch.setattr(kind, "values", lambda self, array, validate: values(self, array, True) if validate else None)
    assert calibration.fit_temperature(z, y).temperature == pytest.approx(expected.temperature, rel=1e-10)


def test_the_optimum_to_forty_digits():
    random = np.random.default_rng(0)
    logits, labels = np.round(random.normal(size=(15, 3)) * 3, 2), random.integers(0, 3, 15)
    labels[:9] = logits[:9].argmax(1)

    def slope(beta):
        total = mpmath.mpf(0)
        for row, y in zip(logits.tolist(), labels.tolist(), strict=True):
            gaps = [mpmath.mpf(z) - mpmath.mpf(row[y]) for z in row]
            e = [mpmath.exp(beta * d) for d in gaps]
            total += sum(d * w for d, w in zip(gaps, e, strict=True)) / sum(e)
        return total / 15

    with mpmath.workdps(40):
        best = mpmath.findroot(slope, (0.1, 0.5))
        curvature = mpmath.diff(slope, best)
    found = calibration.fit_temperature(logits, labels)
    assert found.temperature == pytest.approx(float(1 / best), rel=1e-9)
    assert found.standard_error == pytest.approx(float(1 / best**2 / mpmath.sqrt(15 * curvature)), rel=1e-6)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.floats(-6, 6), st.floats(-1e6, 1e6))
def test_laws(seed, exponent, offset):
    """T(c·z) = c·T(z), T(z + a) = T(z), T > 0, rows of any scale, the slope changes its sign at the optimum."""
    random = np.random.default_rng(seed)
    n, k = int(random.integers(4, 60)), int(random.integers(2, 6))
    logits = random.normal(size=(n, k)) * 10 ** random.uniform(-3, 3, size=(n, 1))
    labels = np.where(random.random(n) < 0.7, logits.argmax(1), random.integers(0, k, n))
    labels[0] = (logits[0].argmax() + 1) % k
    scale = 10.0**exponent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        found = calibration.fit_temperature(logits, labels)
        scaled = calibration.fit_temperature(logits * scale, labels)
        moved = calibration.fit_temperature(logits + np.round(offset), labels)
    assert found.temperature > 0
    assert found.status == scaled.status == moved.status
    if found.status == "converged":
        assert scaled.temperature == pytest.approx(scale * found.temperature, rel=1e-6)
        assert moved.temperature == pytest.approx(found.temperature, rel=1e-4)  # the offset costs the logits digits
        sample = calibration.coverage.read(logits, labels, None, -100, None)
        below, above = (temperature.at(sample, b / found.temperature).slope for b in (1 - 1e-6, 1 + 1e-6))
        assert below < 0 < above


def test_no_optimum_has_a_status_and_a_warning():
    right = np.array([[3.0, 0.0], [0.0, 2.0]])
    with pytest.warns(CalibrationWarning, match="separable"):
        found = calibration.fit_temperature(right, np.array([0, 1]))
    assert (found.temperature, found.status) == (1.0, "separable")
    assert found.nll_before == found.nll_after
    with pytest.warns(CalibrationWarning, match="uninformative"):
        found = calibration.fit_temperature(right, np.array([1, 0]))
    assert (found.temperature, found.status) == (1.0, "uninformative")
    assert "no temperature is best" in str(found)
    with pytest.warns(CalibrationWarning, match="uninformative"):
        assert calibration.fit_temperature(np.zeros((3, 2)), np.array([0, 1, 1])).temperature == 1.0
    empty = calibration.fit_temperature(right, np.array([-100, -100]))
    assert (math.isnan(empty.temperature), empty.status) == (True, "empty")


def test_absent_classes_and_ignored_rows():
    _, _, logits, labels = sets()["digits-mlp", "0.1"]
    found = calibration.fit_temperature(logits, labels)
    wide = np.concatenate([np.full((len(logits), 1), -np.inf), logits], axis=1)
    wide, more = np.concatenate([wide, np.full((1, 11), np.nan)]), np.append(labels + 1, -1)
    again = calibration.fit_temperature(wide, more, ignore_index=-1)
    assert again.temperature == pytest.approx(found.temperature, rel=1e-12)
    assert again.nll_after == pytest.approx(found.nll_after, rel=1e-13)
    with pytest.raises(TargetError, match=r"the label at \(0,\) has logit −inf"):
        calibration.fit_temperature(wide, np.append(np.zeros(len(labels), int), -1), ignore_index=-1)


def test_it_says_which_side():
    logits, labels, _, _ = sets()["mnist5k-cnn", "0.1"]
    assert "under-confident" in str(calibration.fit_temperature(logits, labels))
    assert "over-confident" in str(calibration.fit_temperature(logits * 10, labels))


def test_scikit_learn_takes_the_estimator():
    base, pipeline = need("sklearn.base"), need("sklearn.pipeline")
    preprocessing = need("sklearn.preprocessing")
    logits, labels, test, _ = sets()["cancer-mlp", "0.1"]
    scaling = base.clone(calibration.TemperatureScaling(ignore_index=-1))
    assert scaling.get_params() == {"ignore_index": -1}
    assert repr(scaling.set_params(ignore_index=-100)) == "TemperatureScaling()"
    with pytest.raises(ValueError, match="before fit"):
        scaling.transform(test)
    with pytest.raises(ValueError, match="has ignore_index only"):
        scaling.set_params(alpha=1)
    line = pipeline.make_pipeline(preprocessing.FunctionTransformer(), scaling).fit(logits, labels)
    assert scaling.temperature_ == pytest.approx(recorded("cancer-mlp", "0.1")["temperature"], rel=1e-6)
    assert scaling.fit_.status == "converged"
    assert line.predict_proba(test).sum(1) == pytest.approx(np.ones(len(test)))
    assert np.array_equal(line.predict(test), test.argmax(1))
    assert scaling.classes_.tolist() == [0, 1]


def test_the_estimator_keeps_the_framework():
    torch = need("torch")
    logits, labels, test, _ = sets()["digits-mlp", "0.3"]
    scaling = calibration.TemperatureScaling().fit(torch.from_numpy(logits), torch.from_numpy(labels))
    half = torch.from_numpy(test).half()
    assert scaling.transform(half).dtype == torch.float16
    assert scaling.predict_proba(half).dtype == torch.float32
    assert isinstance(scaling.predict(half), torch.Tensor)
