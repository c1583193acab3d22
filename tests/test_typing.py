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
ACCEPTED, REJECTED, ALONE = (FOLDER / f"{name}.py" for name in ("accepted", "rejected", "numpy_alone"))
OTHERS = ("torch", "jax", "flax")
# What no call of ours takes or gives: mypy needs half of the time without. `assert_type` notices a missing type.
INNER = (
    "jaxlib.mlir", "jaxlib.mosaic",
    *(f"jax.{name}" for name in ("experimental", "extend", "interpreters", "nn", "scipy")),
    *(f"jax._src.{name}" for name in ("cudnn", "debugger", "export", "interpreters", "nn", "pallas", "scipy", "state")),
    *(f"torch.{name}" for name in (
        "_decomp", "_dynamo", "_export", "_functorch", "_higher_order_ops", "_inductor", "_library", "_logging",
        "_native", "_prims", "_prims_common", "_refs", "_subclasses", "_vendor", "ao", "backends", "cuda",
        "distributed", "distributions", "export", "fx", "jit", "masked", "multiprocessing", "nested", "onnx", "optim",
        "package", "profiler", "quantization", "sparse", "testing", "utils",
    )),
    "matplotlib", "optree", "PIL", "rich",
)  # fmt: skip


def run(*command):
    return subprocess.run([sys.executable, "-m", *map(str, command)], cwd=ROOT, capture_output=True, text=True)


def by_mypy(folder, *files, unread=INNER):
    """{(file name, line): what mypy says} of errors in these files."""
    skipped = "".join(f"[mypy-{name}.*]\nfollow_imports = skip\n" for name in unread)
    (folder / "mypy.ini").write_text(f"[mypy]\nstrict = true\n{skipped}")
    found = run("mypy", f"--config-file={folder / 'mypy.ini'}", f"--cache-dir={folder}", *files)
    assert not found.stderr, found.stderr
    said = re.findall(r"^tests/typing/(\w+\.py):(\d+): error: (.*)$", found.stdout, re.M)
    return {(name, int(line)): text for name, line, text in said}


def by_pyright(folder, *files):
    found = json.loads(run("pyright", "--outputjson", "--pythonpath", sys.executable, *files).stdout)
    assert found["summary"]["filesAnalyzed"] == len(files)
    return {
        (Path(entry["file"]).name, entry["range"]["start"]["line"] + 1): entry["message"]
        for entry in found["generalDiagnostics"]
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where mypy keeps what it has read of NumPy, for both of its tests."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.compiles
@pytest.mark.parametrize("checker", [by_mypy, by_pyright])
def test_what_a_user_writes_is_accepted_and_each_wrong_line_is_rejected(checker, folder):
    for name in (checker.__name__.removeprefix("by_"), *OTHERS):
        need(name)
    said = checker(folder, ACCEPTED, REJECTED)
    assert not {place: text for place, text in said.items() if place[0] == ACCEPTED.name}
    lines = REJECTED.read_text(encoding="utf-8").splitlines()
    wrong = [number for number, line in enumerate(lines, 1) if line.endswith("# rejected")]
    assert [line for _, line in sorted(said)] == wrong
    assert len(wrong) > 30


@pytest.mark.compiles
def test_numpy_s_users_need_no_other_framework(folder):
    need("mypy")
    assert not by_mypy(folder, ALONE, unread=OTHERS)


def test_what_is_accepted_runs():
    for framework in OTHERS:
        need(framework)
    runpy.run_path(str(ACCEPTED))


def test_stubs_are_current():
    for framework in OTHERS:
        need(framework)
    from stubs import stubs

    for path, text in stubs().items():
        assert path.read_text(encoding="utf-8") == text, "python tests/support/stubs.py writes them anew"
    assert sorted(path.name for path in next(iter(stubs())).parent.iterdir()) == sorted(path.name for path in stubs())
