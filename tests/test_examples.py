"""Every program in examples/ runs, ends well, and checks itself."""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import programs
import pytest
from requirements import missing, need

pytestmark = pytest.mark.thorough

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
IMPORTS = {  # what a program may find imported, of each framework that it uses
    "torch": ("torch._dynamo", "numba"),  # PyTorch's optimizers and the first loss on a CPU import these
    "jax": ("jax",),
    "flax": ("flax.nnx",),
    "optax": ("optax",),
    "matplotlib": ("matplotlib.figure",),
    "sklearn": ("sklearn.datasets",),
}
FRAMEWORKS = set(IMPORTS)
TRAINERS = {
    "keras",
    "transformers",
    "accelerate",
    "lightning",
    "orbax",
    "timm",
    "torchvision",
}  # they warn of their own
NEEDED_TOO = {"huggingface_trainer": {"accelerate"}}
WITH_TORCHVISION = Path(__file__).parent / "support" / "with_torchvision.py"
SAID = {  # what a program must print, beside ending well
    "porting_a_criterion": (
        "first_port does not agree with Criterion",
        "first_port spreads ε = 0.1 over all K classes; Criterion spreads ε = 0.1 over the K − 1 others: "
        "pass label_smoothing=0.125 to first_port (K = 5)",
        "first_port ignores no label; Criterion ignores the label 1: pass ignore_index=1",
        "settings    convention=Convention(), label_smoothing=0.1, reduction='sum'\n",
        "names       fairseq, ",
        "port_by_hand agrees with Criterion",
        "port_by_hand agrees with fairseq",
        "port_by_name agrees with Criterion",
        "port_by_name agrees with fairseq",
    )
}


def frameworks(path):
    """What a program imports of what may be missing."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names} & (FRAMEWORKS | TRAINERS) | NEEDED_TOO.get(path.stem, set())


def test_there_are_examples():
    assert len(EXAMPLES) >= 26


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_its_checks_hold(path, tmp_path):
    used = frameworks(path)
    for framework in sorted(used & FRAMEWORKS):
        need(framework)
    for trainer in sorted(used & TRAINERS):  # to import them takes seconds
        if find_spec(trainer) is None:
            missing(trainer, f"{trainer} is not installed")
    arguments = [str(tmp_path)] if path.stem == "target_rows" else []
    if used & TRAINERS:
        program = [str(WITH_TORCHVISION), str(path)] if "torchvision" in used else [str(path)]
        command = [sys.executable, "-W", "default", *program]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    else:
        ended = programs.run(path, *arguments, imports=[name for key in sorted(used) for name in IMPORTS[key]])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    assert [text for text in SAID.get(path.stem, ()) if text not in ended.stdout] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_is_short_and_ends_in_a_check(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 60
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text)))


def test_the_picture_in_the_documentation_is_the_one_that_is_drawn(tmp_path):
    matplotlib = need("matplotlib")
    images = EXAMPLES[0].parents[1] / "docs" / "images"
    drawn_with = f"Matplotlib v{matplotlib.__version__}"
    if drawn_with not in (images / "target_rows.svg").read_text(encoding="utf-8"):
        pytest.skip(f"the picture was not drawn with {drawn_with}")
    program = next(path for path in EXAMPLES if path.stem == "target_rows")
    programs.run(program, tmp_path, imports=IMPORTS["matplotlib"]).check_returncode()
    assert (tmp_path / "target_rows.svg").read_bytes() == (images / "target_rows.svg").read_bytes()
