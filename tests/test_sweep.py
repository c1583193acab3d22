"""The sweep: what a run measures, the means, files and kills, parallel processes, the page, the command."""

import json
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np
import programs
import pytest
from requirements import need

for package in ("scipy", "matplotlib", "typer"):
    need(package)

from typer.testing import CliRunner  # noqa: E402

import multismooth  # noqa: E402
from multismooth import calibration, cli, sweep  # noqa: E402
from multismooth.sweeping.run import evaluated, projected  # noqa: E402

ROOT = Path(multismooth.__file__).parents[1]


def train(label_smoothing, seed, scale=4.0):
    """Logits that are sharper without smoothing; no training at all."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(300, 3))
    labels = np.where(random.random(300) < 0.8, logits.argmax(1), random.integers(0, 3, 300))
    logits = logits * scale * (1 - label_smoothing)
    features = random.normal(size=(200, 5))
    return logits[:100], labels[:100], logits[100:], labels[100:], (features, random.normal(size=(3, 5)))


def without_features(label_smoothing, seed):
    return train(label_smoothing, seed)[:4]


def test_a_run_is_measured_on_test_data_with_the_temperature_of_validation_data():
    val_logits, val_labels, logits, labels, _ = train(0.1, 5)
    run = evaluated(train, 0.1, 5)
    fit = calibration.fit_temperature(val_logits, val_labels)
    assert run.measures["temperature"] == fit.temperature
    assert run.measures["accuracy"] == np.mean(logits.argmax(1) == labels)
    assert run.measures["ece"] == calibration.expected_calibration_error(logits, labels)
    assert run.measures["nll_after"] == calibration.negative_log_likelihood(logits / fit.temperature, labels)
    assert run.measures["ece_if_calibrated"] == calibration.calibration_test(logits, labels).expected
    assert run.measures["miscalibration"] == calibration.brier_decomposition(logits, labels).miscalibration
    assert run.measures["aurc"] == calibration.risk_coverage(logits, labels).aurc
    assert run.status == "converged"


def test_means_and_standard_errors():
    found = sweep(train, (0, 0.2), seeds=(3, 4, 8))
    values = [evaluated(train, 0.2, seed).measures["nll"] for seed in (3, 4, 8)]
    mean = found.means[0.2]["nll"]
    assert (found.smoothings, found.seeds) == ([0.0, 0.2], [3, 4, 8])
    assert mean.value == pytest.approx(np.mean(values))
    assert mean.error == pytest.approx(np.std(values, ddof=1) / np.sqrt(3))
    line = found.table().splitlines()[2]
    assert line.split()[0] == "0.2"
    assert f"{mean.value:.4f} ± {mean.error:.4f}" in line
    assert str(found) == found.table()
    single = sweep(train, 0.1, seeds=1)
    assert "±" not in single.table().splitlines()[1]
    assert json.loads(single.to_json())["means"][0]["nll"]["standard_error"] is None


def test_no_temperature_is_said():
    def right(label_smoothing, seed):
        logits = np.eye(3)[[0, 1, 2, 0]] * 3
        return logits, np.array([0, 1, 2, 0]), logits, np.array([0, 1, 2, 1])

    found = sweep(right, (0.1,), seeds=1)
    assert "seed 0: no temperature is best (separable), T is 1" in found.table()
    assert found.means[0.1]["temperature"].value == 1


def test_frameworks_arrays_are_welcome():
    torch = need("torch")

    def tensors(label_smoothing, seed):
        *parts, (features, classifier) = train(label_smoothing, seed)
        own = [torch.from_numpy(part) for part in (*parts, features, classifier)]
        return *own[:4], (own[4].requires_grad_(), own[5])

    expected = sweep(train, 0.1, seeds=1)
    assert sweep(tensors, 0.1, seeds=1).means == expected.means


def test_the_plane_keeps_distances_of_templates():
    classifier = np.random.default_rng(0).normal(size=(4, 6))
    points = projected(classifier[[1, 2, 3]], classifier, np.array([0, 1, 2]))
    assert points == projected(np.array(classifier[[1, 2, 3]]), classifier, np.array([0, 1, 2]))
    own = projected(classifier[:3], classifier, np.array([0, 1, 2]))
    x, y = np.array(own["x"]), np.array(own["y"])
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.hypot(x[i] - x[j], y[i] - y[j]) == pytest.approx(
            np.linalg.norm(classifier[i] - classifier[j]), abs=1e-3
        )


def test_runs_are_kept_and_taken(tmp_path):
    seen = []
    first = sweep(train, (0, 0.1), seeds=2, out=tmp_path, on_run=lambda run, kept: seen.append(kept))
    again = sweep(train, (0, 0.1, 0.2), seeds=2, out=tmp_path, on_run=lambda run, kept: seen.append(kept))
    assert seen == [False] * 4 + [True] * 4 + [False] * 2
    assert again.to_dict()["runs"][:4] == first.to_dict()["runs"]
    np.testing.assert_equal(vars(again.runs[0].reliability), vars(first.runs[0].reliability))
    assert again.runs[0].clusters == first.runs[0].clusters
    with pytest.raises(ValueError, match=r"runs of .*:without_features; got runs of .*:train"):
        sweep(without_features, out=tmp_path)
    assert sweep(without_features, 0, seeds=1, out=tmp_path, resume=False).runs[0].clusters is None
    (tmp_path / "runs" / "0.0-0.json").write_text("{")
    with pytest.raises(ValueError, match="Delete it, and it runs again"):
        sweep(without_features, 0, seeds=1, out=tmp_path)


def test_processes_give_the_same(tmp_path):
    from multismooth.cli.sweep import Train

    file = tmp_path / "own.py"
    file.write_text(FILE + QUIET)
    job = Train(f"{file}:train", ())
    assert sweep(job, (0, 0.1), seeds=2, processes=2).to_json() == sweep(job, (0, 0.1), seeds=2).to_json()


FILE = """
import os, pathlib, signal
import numpy as np

def train(label_smoothing, seed, scale=4.0):
    before_training(label_smoothing, seed)
    random = np.random.default_rng(seed)
    logits = random.normal(size=(60, 3))
    labels = np.where(random.random(60) < 0.7, logits.argmax(1), random.integers(0, 3, 60))
    logits = logits * scale * (1 - label_smoothing)
    return logits[:30], labels[:30], logits[30:], labels[30:]
"""


QUIET = """
def before_training(label_smoothing, seed):
    pass
"""
COUNTS = """
def before_training(label_smoothing, seed):
    count = pathlib.Path(__file__).with_suffix(".count")
    done = int(count.read_text()) if count.exists() else 0
    count.write_text(str(done + 1))
    if done in KILLS:
        os.kill(os.getpid(), signal.SIGKILL)
"""
DIES_ONCE = """
def before_training(label_smoothing, seed):
    marker = pathlib.Path(__file__).with_suffix(".died")
    if (label_smoothing, seed) == (0.1, 1) and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def command(folder, *more):
    arguments = ["sweep", "own.py:train", "-e", "0,0.1,0.3", "--seeds", "2", "--out", "found", *more]
    imports = "numba", "typer", "rich.console", "matplotlib.figure", "sklearn.datasets"
    return programs.run(
        "-m", "multismooth", *arguments, imports=imports, cwd=folder, PYTHONPATH=str(ROOT), COLUMNS="400"
    )


@pytest.mark.thorough
def test_killed_twice_and_resumed_it_gives_the_same_table(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder, kills in ((whole, "()"), (killed, "(1, 4)")):
        folder.mkdir()
        (folder / "own.py").write_text(FILE + COUNTS.replace("KILLS", kills))
    expected = command(whole)
    assert expected.returncode == 0, expected.stderr
    codes = [command(killed).returncode for _ in range(2)]
    assert codes == [-signal.SIGKILL] * 2
    final = command(killed)
    assert final.returncode == 0
    assert (killed / "own.count").read_text() == "8"  # six runs and two that were killed
    assert final.stdout == expected.stdout
    assert (killed / "found" / "results.json").read_text() == (whole / "found" / "results.json").read_text()
    assert not list((killed / "found" / "runs").glob("*.part"))


@pytest.mark.thorough
def test_a_process_that_dies_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "own.py").write_text(FILE + DIES_ONCE)
    died = command(tmp_path, "-p", "2")
    assert died.returncode == 2
    assert "a process that ended within it. What is done is kept" in died.stderr
    assert command(tmp_path, "-p", "2").returncode == 0


def test_digits_train_and_smoothing_lowers_the_confidence():
    need("sklearn")
    from multismooth.sweeping import digits

    hard, smoothed = (evaluated(digits.train, smoothing, 0) for smoothing in (0.0, 0.3))
    assert min(hard.measures["accuracy"], smoothed.measures["accuracy"]) > 0.95
    assert smoothed.measures["confidence"] < hard.measures["confidence"] - 0.2
    assert smoothed.measures["temperature"] < 0.6 < hard.measures["temperature"]
    assert len(hard.clusters["x"]) > 200
    weights = [np.random.default_rng(0).normal(size=shape) * 0.1 for shape in ((64, 8), (8,), (8, 10), (10,))]
    (images, labels), _, _ = digits.split()
    gradients = digits.backward(weights, images[:20], labels[:20], 0.1)
    weights[0][3, 2] += 1e-6
    above = multismooth.numpy.loss(digits.forward(weights, images[:20])[1], labels[:20])
    weights[0][3, 2] -= 2e-6
    below = multismooth.numpy.loss(digits.forward(weights, images[:20])[1], labels[:20])
    assert (above - below) / 2e-6 == pytest.approx(gradients[0][3, 2], rel=1e-5)


def test_the_page_is_one_file_with_every_picture(tmp_path):
    found = sweep(train, (0, 0.3), seeds=2)
    found.page(tmp_path / "new" / "page.html")
    text = (tmp_path / "new" / "page.html").read_text("utf-8")
    assert text.count("<svg") == 6 + 3 * 2
    assert not re.search(r'(src|href)="(?!#|data:)', text)
    identifiers = re.findall(r'\bid="([^"]+)"', text)
    assert len(identifiers) == len(set(identifiers))
    assert found.means[0.3]["nll"].text(1, 4) in text
    sweep(without_features, (0.1,), seeds=1).page(tmp_path / "short.html")
    assert "last layer" not in (tmp_path / "short.html").read_text("utf-8")


BAD = {
    "smoothing": (lambda: sweep(train, (0, 1.5)), r"numbers in \[0, 1\]"),
    "twice": (lambda: sweep(train, (0, 0)), "each once"),
    "none": (lambda: sweep(train, ()), "at least one ε"),
    "seeds": (lambda: sweep(train, seeds=0), "seeds"),
    "seed": (lambda: sweep(train, seeds=(0, 0.5)), "different integers"),
    "processes": (lambda: sweep(train, processes=0), "processes"),
    "values": (lambda: sweep(lambda e, s: (1, 2), 0, seeds=1), "got 2 values"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name):
    call, text = BAD[name]
    with pytest.raises(ValueError, match=text):
        call()


def test_names():
    assert sweep(partial(train, scale=2.0), 0, seeds=1).train.endswith(":train(scale=2.0)")


def test_the_command_in_process(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_sweep.py").write_text(FILE + QUIET)
    runner = CliRunner()
    options = ["-e", "0,0.1", "--seeds", "1", "--out", "here"]
    result = runner.invoke(cli.app, ["sweep", "own_sweep:train", "--with", "scale=2.0", *options, "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["train"] == "own_sweep:train scale=2.0"
    assert (tmp_path / "here" / "report.html").exists()
    assert runner.invoke(cli.app, ["sweep", "own_sweep:training", *options]).exit_code == 2
    assert runner.invoke(cli.app, ["sweep", "own_sweep:train", "-e", "a", "--out", "x"]).exit_code == 2
    assert "killed" in runner.invoke(cli.app, ["sweep", "--help"]).output or "after a kill" in " ".join(
        runner.invoke(cli.app, ["sweep", "--help"]).output.split()
    )
