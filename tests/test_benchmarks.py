"""The benchmarks run and report what they should; how fast anything is, is not tested."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from conftest import need

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """A benchmark as a module, importing its neighbours as a script does."""
    need("torch")
    need("rich")
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).parent == BENCHMARKS:
            del sys.modules[name]


def test_everyone_computes_the_same_and_is_reported(load, tmp_path, capsys):
    need("matplotlib")
    files = [tmp_path / name for name in ("a.json", "a.md", "a.png")]
    options = [
        "--no-compile",
        "--no-memory",
        "--rounds",
        "1",
        "--shapes",
        "8x5,3x4x2x2",
        "--dtypes",
        "float32,bfloat16",
    ]
    load("cpu").main([*options, "--out", str(files[0]), "--markdown", str(files[1]), "--plot", str(files[2])])
    rows = json.loads(files[0].read_text())["rows"]
    found = {row["name"] for row in rows if row["dtype"] == "float32"}
    assert {"torch eager", "multismooth.torch", "multismooth.torch, out=", "multismooth.numpy"} <= found
    for row in rows:
        assert row["seconds"] > 0
        if row["name"] != "copy (floor)":
            loss, gradient = row["error"]
            assert loss < (2e-2 if row["dtype"] == "bfloat16" else 1e-6), row
            assert gradient < (2e-2 if row["dtype"] == "bfloat16" else 2e-6), row
    assert "| multismooth.torch |" in files[1].read_text()
    assert files[2].stat().st_size > 10_000


def test_regressions_are_told_from_noise(load, tmp_path, capsys):
    def result(name, ratio, processor="a"):
        row = {"shape": [4, 3], "dtype": "float32", "name": "ours", "ratio": ratio}
        path = tmp_path / name
        path.write_text(json.dumps({"rows": [row], "sweep": [], "machine": {"processor": processor}}))
        return str(path)

    main = load("regress").main
    old = result("old.json", 0.5)
    assert main([old, result("same.json", 0.52)]) == 0
    assert main([old, result("fast.json", 0.3)]) == 0
    assert "faster: 4×3, float32, ours: 0.5 -> 0.3" in capsys.readouterr().out
    assert main([old, result("slow.json", 0.6, "b")]) == 1
    said = capsys.readouterr().out
    assert "slower: 4×3, float32, ours: 0.5 -> 0.6 (+20%)" in said
    assert "other machines: a and b" in said
    assert main([old, result("slow.json", 0.6), "--tolerance", "0.3"]) == 0


def test_readme_has_the_committed_figures(load):
    result = json.loads((BENCHMARKS / "results" / "cpu.json").read_text())
    readme = (BENCHMARKS.parent / "README.md").read_text(encoding="utf-8")
    assert load("report").for_readme(result).strip() in readme
