"""multismooth calibrate: what it reads, prints and writes, and how it ends; and the pictures."""

import json
import re

import numpy as np
import pytest
from calibration_data import recorded, sets, softmax
from requirements import need

for package in ("typer", "scipy", "matplotlib"):
    need(package)

from matplotlib.figure import Figure  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from multismooth import calibration  # noqa: E402
from multismooth.cli import app  # noqa: E402

VAL, VAL_LABELS, LOGITS, LABELS = sets()["digits-mlp", "0.1"]


def invoke(folder, *arguments, **arrays):
    file = folder / "logits.npz"
    np.savez(file, **arrays)
    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"})
    return runner.invoke(app, ["calibrate", str(file), "--out", str(folder / "new" / "page.html"), *arguments])


def test_it_prints_the_numbers_and_writes_a_page(tmp_path):
    result = invoke(tmp_path, logits=LOGITS, labels=LABELS, val_logits=VAL, val_labels=VAL_LABELS)
    assert result.exit_code == 0, result.output
    exact = recorded("digits-mlp", "0.1")["exact"]
    assert "The model is under-confident" in result.output
    for number in (exact["brier"], exact["nll"], exact["aurc"], exact["accuracy"], exact["errors"][0]["value"]):
        assert f"{number:.4f}" in result.output
    assert "0.5093 ± " in result.output
    assert "fitted on the validation data" in result.output
    page = (tmp_path / "new" / "page.html").read_text("utf-8")
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    for name in calibration.conventions:
        assert f">{name}<small>" in page


def test_json_names_and_probabilities(tmp_path):
    result = invoke(tmp_path, "--json", "--bins", "10", "--targets", "truth", probs=softmax(LOGITS), truth=LABELS)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    expected = calibration.expected_calibration_error(LOGITS, LABELS, bins=10)
    assert found["measures"]["ece"] == pytest.approx(expected, abs=1e-12)
    assert found["temperature"] is None
    assert found["count"] == len(LABELS)


def test_without_validation_data_the_temperature_is_a_diagnosis(tmp_path):
    result = invoke(tmp_path, "--logits", "z", z=LOGITS, targets=LABELS)
    assert "fitted on these predictions themselves" in result.output
    assert "nll after" not in result.output
    assert "To correct a model, fit it on validation data" in (tmp_path / "new" / "page.html").read_text("utf-8")


def test_a_calibrated_model_is_said_to_be_one(tmp_path):
    random = np.random.default_rng(1)
    logits = random.normal(size=(400, 4)) * 2
    labels = (softmax(logits).cumsum(1) < random.random((400, 1))).sum(1)
    assert "no miscalibration is visible in 400 predictions" in invoke(tmp_path, logits=logits, targets=labels).output


@pytest.mark.parametrize(
    ("arguments", "arrays", "text"),
    [
        ([], {"logits": LOGITS}, "an array targets or labels"),
        ([], {"logits": LOGITS, "probs": LOGITS, "y": LABELS}, "one array of logits or of probs"),
        ([], {"x": LOGITS, "y": LABELS}, "--logits or --probs names it"),
        (["--probs", "p"], {"logits": LOGITS, "y": LABELS}, "an array p"),
        ([], {"logits": softmax(LOGITS), "y": LABELS}, "look like probabilities"),
    ],
)
def test_mistakes_end_with_status_2_and_a_remedy(tmp_path, arguments, arrays, text):
    result = invoke(tmp_path, *arguments, **arrays)
    assert result.exit_code == 2
    assert text in result.output


def test_a_file_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    result = CliRunner().invoke(app, ["calibrate", str(tmp_path / "a.npz")])
    assert result.exit_code == 2


def test_plots_draw_on_the_callers_axes_and_on_the_current_ones():
    from matplotlib import pyplot

    curve, risk = calibration.reliability_curve(LOGITS, LABELS), calibration.risk_coverage(LOGITS, LABELS)
    figure = Figure()
    axes = figure.subplots(1, 2)
    assert curve.plot(axes[0]) is axes[0]
    assert risk.plot(axes[1]) is axes[1]
    assert axes[0].get_xlabel() == "confidence"
    bare = calibration.reliability_curve(LOGITS, LABELS, confidence_level=None)
    try:
        assert bare.plot() is pyplot.gca()
    finally:
        pyplot.close("all")
    empty = calibration.reliability_curve(LOGITS, np.full(len(LABELS), -100))
    empty.plot(Figure().subplots())
