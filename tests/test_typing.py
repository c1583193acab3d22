"""The types that users see: their calls pass mypy --strict and pyright, wrong ones fail, and stubs are current."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from requirements import need

ROOT = Path(__file__).parents[1]
FOLDER = Path(__file__).parent / "typing"
FILES = [FOLDER / "accepted.py", FOLDER / "rejected.py"]
REJECTED = [number for number, line in enumerate(FILES[1].read_text().splitlines(), 1) if line.endswith("# rejected")]


def run(*command):
    return subprocess.run([sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def by_mypy(tmp_path_factory):
    """{file name: {line: what mypy says}}"""
    need("mypy")
    cache = tmp_path_factory.mktemp("mypy")
    found = run("mypy", "--strict", "--config-file=", "--hide-error-context", f"--cache-dir={cache}", *FILES)
    said = {path.name: {} for path in FILES}
    for name, line, text in re.findall(r"^tests/typing/(\w+\.py):(\d+): error: (.*)$", found.stdout, re.M):
        said[name].setdefault(int(line), text)
    assert found.returncode == 1, found.stdout + found.stderr
    return said


@pytest.fixture(scope="module")
def by_pyright():
    need("pyright")
    found = run("pyright", "--outputjson", "--pythonpath", sys.executable, *FILES)
    said = {path.name: {} for path in FILES}
    for entry in json.loads(found.stdout)["generalDiagnostics"]:
        said[Path(entry["file"]).name].setdefault(entry["range"]["start"]["line"] + 1, entry["message"])
    return said


@pytest.fixture(params=["by_mypy", "by_pyright"])
def said(request):
    return request.getfixturevalue(request.param)


@pytest.mark.compiles
def test_what_a_user_writes_is_accepted(said):
    assert said["accepted.py"] == {}


@pytest.mark.compiles
def test_each_wrong_line_is_rejected_and_no_other(said):
    assert sorted(said["rejected.py"]) == REJECTED


@pytest.mark.compiles
def test_numpy_s_users_need_no_other_framework(tmp_path):
    need("mypy")
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nstrict = true\n"
        + "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in ("torch", "jax", "flax"))
    )
    found = run("mypy", f"--config-file={tmp_path / 'mypy.ini'}", f"--cache-dir={tmp_path}", FOLDER / "numpy_alone.py")
    assert "tests/typing" not in found.stdout, found.stdout
    assert "stub" not in found.stderr, found.stderr


def test_the_accepted_file_runs():
    for framework in ("torch", "flax"):
        need(framework)
    runpy.run_path(str(FILES[0]))


def test_stubs_are_current():
    for framework in ("torch", "jax"):
        need(framework)
    from stubs import stubs

    for path, text in stubs().items():
        assert path.read_text(encoding="utf-8") == text, "python tests/support/stubs.py writes them anew"
    assert sorted(path.name for path in next(iter(stubs())).parent.iterdir()) == sorted(path.name for path in stubs())
