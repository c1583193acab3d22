"""Losses in other languages: the line protocol, programs that misbehave, C and JavaScript; vectors; logged numbers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from requirements import need

import multismooth
from multismooth import conventions, parity

EXAMPLES = Path(__file__).parents[1] / "examples" / "other_languages"

PYTHON = """
import json, math, sys
for line in sys.stdin:
    problem = json.loads(line)
    {body}
    print(json.dumps(answer), flush=True)
"""


def program(body, **options):
    """A Program of some lines of Python."""
    return parity.Program([sys.executable, "-c", PYTHON.format(body=body.replace("\n", "\n    "))], **options)


def test_a_problem_is_one_flat_json_line_and_so_is_the_answer():
    echo = program(
        "assert problem['shape'] == [2, 3] and problem['labels_shape'] == [2]\n"
        "assert problem['logits'] == [0.0, 1.0, '-inf', 3.0, 4.0, 5.0], problem\n"
        "answer = {'loss': sum(problem['labels']), 'gradient': ['nan'] + [0.5] * 5}"
    )
    z = np.arange(6.0).reshape(2, 3)
    z[0, 2] = -np.inf
    loss, gradient = echo(z, np.array([0, 2]))
    assert loss == 2
    np.testing.assert_array_equal(gradient, [[np.nan, 0.5, 0.5], [0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("answer = {'error': 'no such label'}", "no such label"),
        ("answer = [1, 2]", "expected one JSON answer a line; got '\\[1, 2\\]'"),
        ("print('epoch 1', flush=True); answer = {'loss': 1}", "got 'epoch 1'"),
        ("sys.exit(3)", "an end with status 3"),
        ("import os; os.kill(os.getpid(), 11)", "an end with status -11"),
        ("import time; time.sleep(60)", "nothing in 0.5 s"),
        ("answer = {'loss': 'one'}", "a number, or one per element"),
        ("answer = {'loss': 1, 'gradient': [1, 2]}", "expected 6 numbers in a flat list"),
    ],
)
def test_a_program_that_misbehaves_is_told_so_and_started_anew(body, said):
    timeout = 0.5 if "sleep" in body else 30
    misbehaving = program(body, timeout=timeout)
    for _ in range(2):
        with pytest.raises(ValueError, match=said):
            misbehaving(np.zeros((2, 3)), np.array([0, 2]))
    misbehaving.close()


def test_a_crash_is_a_failure_of_one_case_and_does_not_end_the_others():
    crashing = program(
        "if -100 in problem['labels']: sys.exit(1)\n"
        "n, k = problem['shape']\n"
        "rows = [problem['logits'][i * k : i * k + k] for i in range(n)]\n"
        "answer = {'loss': sum(math.log(sum(map(math.exp, map(float, r)))) - float(r[y])\n"
        "    for r, y in zip(rows, problem['labels'])) / max(n, 1)}"
    )
    found = parity.identify(crashing, "numpy", layouts=["rows"])
    assert (found.reduction, found.label_smoothing, found.ignore_index) == ("mean", 0.0, None)
    crashing.close()


def test_what_cannot_be_started_says_so():
    with pytest.raises(ValueError, match="`command`: expected a program that can be started"):
        parity.Program("./no-such-program")(np.zeros((1, 2)), np.array([0]))
    with pytest.raises(ValueError, match="`command`"):
        parity.Program("")


# --- two languages, right and wrong -----------------------------------------------------------------------------------


def command(language, tmp_path):
    """The command of an example; skips where the machine lacks the toolchain."""
    if language == "javascript":
        if shutil.which("node") is None:
            pytest.skip("node is not installed")
        return f"node {EXAMPLES / 'loss.js'}"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    built = tmp_path / "loss"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, "-O2", *warnings, "-o", built, EXAMPLES / "loss.c", "-lm"], check=True, timeout=120)
    return str(built)


CHECKED = {
    "c": ("torch", {}, "divides by all 12 elements"),
    "javascript": ("fairseq", {"reduction": "sum"}, "pass label_smoothing=0.125 to fn"),
}


@pytest.mark.parametrize("language", CHECKED)
def test_a_program_is_checked_end_to_end(language, tmp_path):
    need("typer")
    from typer.testing import CliRunner

    from multismooth.cli import app

    convention, settings, said = CHECKED[language]
    started = command(language, tmp_path)
    with pytest.raises(ValueError, match="not one a row"):
        parity.Program(f"{started} 0.1")(np.zeros((2, 3)), np.eye(3)[:2])

    def invoke(*arguments):
        return CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, list(arguments))

    options = ["-c", convention, *(part for name, value in settings.items() for part in (f"--{name}", value))]
    right = invoke("check", "--exec", f"{started} 0.1", *options)
    assert right.exit_code == 0, right.output
    wrong = invoke("check", "--exec", f"{started} 0.1 all", *options)
    assert wrong.exit_code == 1
    assert said in wrong.output
    found = json.loads(invoke("identify", "--exec", f"{started} 0.1", "--json").stdout)
    assert convention in found["names"]
    two = ("compare", "--exec", f"{started} 0.1", "--exec")
    ignored = ("--ignore-index", str(conventions[convention].ignore_index))
    assert invoke(*two, f"{started} 0.1", *ignored).exit_code == 0
    assert invoke(*two, f"{started} 0.2", *ignored).exit_code == 1


def test_a_command_names_a_target_or_a_program():
    need("typer")
    from typer.testing import CliRunner

    from multismooth.cli import app

    for arguments in (["check"], ["identify", "numpy:sum", "--exec", "x"], ["compare", "numpy:sum"]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 2, result.output
        assert "--exec" in result.stderr


# --- golden vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["torch", "fairseq", "annotated-transformer", "marian", "keras"])
def test_vectors_are_what_the_convention_gives(name, tmp_path):
    found = json.loads(json.dumps(parity.vectors(name, label_smoothing=0.2), allow_nan=False))
    convention = multismooth.Convention(**found["convention"] | {"exclude": tuple(found["convention"]["exclude"])})
    assert convention == conventions[name]
    settings = found["settings"] | {"convention": convention}
    assert len(found["cases"]) >= 8
    for case in found["cases"]:
        z, y = np.reshape(case["logits"], case["shape"]), np.array(case["labels"])
        with np.errstate(all="ignore"):
            loss, gradient = multismooth.numpy.loss_and_grad(z, y, **settings)
        assert np.abs(loss - case["loss"]).max() <= 1e-12 * case["scale"]["loss"]
        difference = np.abs(gradient.ravel() - case["gradient"]).max()
        assert difference <= found["tolerances"]["float64"] * case["scale"]["gradient"]


def test_vectors_are_written_by_the_command(tmp_path):
    need("typer")
    from typer.testing import CliRunner

    from multismooth.cli import app

    path = tmp_path / "fairseq.json"
    result = CliRunner().invoke(app, ["vectors", "-c", "fairseq", "--reduction", "sum", "--out", str(path)])
    assert result.exit_code == 0, result.output
    assert json.loads(path.read_text())["settings"]["reduction"] == "sum"
    assert CliRunner().invoke(app, ["vectors", "-c", "fairsq"]).exit_code == 2


# --- logged numbers ---------------------------------------------------------------------------------------------------


def logged_problem():
    rng = np.random.default_rng(3)
    z, y = 2 * rng.normal(size=(5, 7, 9)), rng.integers(2, 9, size=(5, 7))
    y[0, 2:] = y[2, 5:] = -100
    return z, y


@pytest.mark.parametrize(
    ("name", "reduction", "eps"),
    [("torch", "mean", 0.1), ("fairseq", "sum", 0.1), ("keras", "mean", 0.2), ("tensor2tensor", "mean", 0.1)],
)
def test_a_logged_loss_shows_the_convention(name, reduction, eps):
    z, y = logged_problem()
    value = float(
        multismooth.numpy.loss(z, y, convention=name, label_smoothing=eps, reduction=reduction, ignore_index=-100)
    )
    for shown in (value, f"{value:.5f}", np.float32(value)):
        found = parity.identify_value(z, y, shown)
        first = found.candidates[0]
        assert name in first.names, str(found)
        assert (first.reading.label_smoothing, first.reading.reduction) == (eps, reduction)
        assert found.rows is None or found.rows <= 5
    assert not parity.identify_value(z, y, 3 * value + 100)


def test_a_logged_mean_of_sentence_means_is_one():
    z, y = logged_problem()
    each = multismooth.numpy.loss(z, y, label_smoothing=0.1, reduction="none")
    value = (each.sum(1) / (y != -100).sum(1)).mean()
    found = parity.identify_value(z, y, value)
    assert found.candidates[0].reading.reduction == "sentence means"


def test_how_many_rows_decide_is_said():
    z, y = logged_problem()
    y = np.where(y < 0, 3, y)
    value = float(multismooth.numpy.loss(z[1:2, :1], y[1:2, :1], label_smoothing=0.1))
    found = parity.identify_value(z[1:2, :1], y[1:2, :1], f"{value:.1f}")
    assert len(found.candidates) > 1
    assert "tells them apart" in str(found) or "first candidate" in str(found)


def test_logged_numbers_are_read_from_files(tmp_path):
    need("typer")
    from typer.testing import CliRunner

    from multismooth.cli import app

    z, y = logged_problem()
    value = float(multismooth.numpy.loss(z, y))
    np.savez(tmp_path / "run.npz", logits=z, labels=y, loss=value)
    np.save(tmp_path / "z.npy", z)
    np.save(tmp_path / "y.npy", y)
    plain = {"logits": z.tolist(), "labels": y.tolist(), "loss": round(value, 5)}
    (tmp_path / "run.json").write_text(json.dumps(plain))
    two = f"{tmp_path}/z.npy,{tmp_path}/y.npy"
    for arguments in ([f"{tmp_path}/run.npz"], [f"{tmp_path}/run.json"], [two, "--loss", f"{value:.4f}"]):
        result = CliRunner(env={"COLUMNS": "300"}).invoke(app, ["identify", "--numbers", *arguments])
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("1. ")
        assert "torch" in result.stdout
    for arguments, said in (([two], "--loss"), ([f"{tmp_path}/none.npz"], "np.savez")):
        result = CliRunner().invoke(app, ["identify", "--numbers", *arguments])
        assert result.exit_code == 2
        assert said in result.stderr
    with pytest.raises(ValueError, match="`labels`"):
        parity.identify_value(z, z, 1.0)
