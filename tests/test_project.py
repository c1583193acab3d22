"""The project tests itself: imports point one way, nothing heavy is loaded early, signatures are the contract's."""

import ast
import graphlib
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from requirements import need

import multismooth
from multismooth import dispatch

ROOT = Path(multismooth.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}

# A module may import its own layer and those above it in this list.
LAYERS = [
    {"errors"},
    {"convention", "registry", "problem", "spec", "plan", "reduction", "binary", "correction", "linear"}  # mathematics
    | {"classes", "target"}
    | {"alternatives"}  # beside smoothing
    | {"namespace", "implementations", "recording"},  # what a kernel is told
    {"cpu"},
    {"api", "typed"},
    {"backend", "numpy", "torch", "jax", "flax"},
    {"dispatch", "calibration", "pages", "sweeping", "testing", "parity", "demo", "cli", "__main__", ""}
    | {"keras", "transformers"},  # where people train
]
FRAMEWORK_ROOMS = {"torch", "jax", "flax"}


def imports(name):
    """(imported module, whether at the top of the file) for every import of a module of the package."""
    tree = ast.parse(FILES[name].read_text())
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in top
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in FILES else node.module), id(node) in top


def room(module):
    return module.removeprefix("multismooth").lstrip(".").partition(".")[0]


def layer(module):
    return next((level for level, rooms in enumerate(LAYERS) if room(module) in rooms), None)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_point_one_way(name):
    assert layer(name) is not None, f"{name} has no place in LAYERS"
    for imported, top in imports(name):
        if not imported.startswith("multismooth") or (room(name) == "dispatch" and not top):
            continue
        assert layer(imported) <= layer(name), f"{name} imports {imported}"
        mine, theirs = room(name), room(imported)
        if mine in FRAMEWORK_ROOMS:
            assert theirs not in FRAMEWORK_ROOMS - {mine} or (mine, theirs) == ("flax", "jax"), (
                f"{name} imports {imported}"
            )
            assert theirs != "numpy", f"{name} imports {imported}"


def test_no_module_imports_itself_in_a_circle():
    graph = {
        name: {module for module, top in imports(name) if top and module in FILES and module != name} for name in FILES
    }
    packages = {name for name in FILES if FILES[name].name == "__init__.py"}
    for name, imported in graph.items():  # a package imports its modules to show their names; they do not import it
        imported -= {package for package in packages if name.startswith(f"{package}.")}
    assert list(graphlib.TopologicalSorter(graph).static_order())


FRAMEWORKS = {
    "torch": {"torch", "demo", "parity"},
    "jax": {"jax", "flax", "demo", "parity", "calibration"},  # calibration: to switch 64 bits on
    "flax": {"flax", "demo"},
    "optax": {"demo"},
    "keras": {"keras"},
    "transformers": set(),
    "matplotlib": {"demo", "calibration", "pages"},
    "scipy": {"calibration"},
    "sklearn": {"calibration", "demo", "sweeping"},
    "typer": {"cli"},
    "rich": {"cli", "demo"},
    "array_api_compat": {"torch"},
    "jinja2": {"pages"},
    "markupsafe": {"pages"},
    "numba": {"cpu"},
    "llvmlite": {"cpu"},
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_framework_is_imported_only_in_its_room(name):
    for imported, _ in imports(name):
        rooms = FRAMEWORKS.get(imported.partition(".")[0])
        assert rooms is None or room(name) in rooms, f"{name} imports {imported}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_are_short_and_never_assert(name):
    text = FILES[name].read_text()
    assert text.count("\n") <= 300
    assert not [node.lineno for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Assert)]


def run(code, *arguments):
    return subprocess.run([sys.executable, *arguments, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_map_of_the_tests_names_each_file():
    tests = Path(__file__).parent
    named = re.findall(r"`(test_\w+)`", (tests / "README.md").read_text(encoding="utf-8"))
    assert sorted(named) == sorted(path.stem for path in tests.glob("test_*.py"))


def test_importing_loads_no_framework_and_is_quick():
    code = (
        "import sys, time; start = time.process_time(); import multismooth; took = time.process_time() - start\n"
        "heavy = {'numpy', 'torch', 'jax', 'flax', 'array_api_compat', 'matplotlib', 'typer'} & set(sys.modules)\n"
        "print(took, sorted(heavy))"
    )
    results = [run(code).split(maxsplit=1) for _ in range(5)]
    assert all(heavy.strip() == "[]" for _, heavy in results), results
    assert min(float(took) for took, _ in results) < 0.15


BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('torch', 'jax', 'jaxlib', 'flax', 'optax', 'matplotlib', 'scipy', 'typer'):
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Absent())
"""


def test_with_numpy_alone_numpy_works_and_the_others_say_what_to_install():
    code = (
        BLOCKED
        + """
import numpy, multismooth
logits = numpy.array([[2.0, 0.5, -1.0]])
print(round(float(multismooth.loss(logits, numpy.array([0]))), 6))
print(multismooth.linear_loss(numpy.eye(2), numpy.eye(2), numpy.array([0, 1])) > 0)
for room in ('torch', 'jax', 'flax'):
    try:
        getattr(multismooth, room)
    except multismooth.MissingBackendError as error:
        print(isinstance(error, ImportError), error)
print(multismooth.calibration.fit_temperature(logits, numpy.array([1])).status != 'converged')
print(round(multismooth.calibration.expected_calibration_error(logits, numpy.array([0])), 4))
try:
    multismooth.calibration.brier_decomposition(logits, numpy.array([0]))
except multismooth.MissingBackendError as error:
    print(error)
"""
    )
    lines = run(code).splitlines()
    assert lines[:2] == ["0.391311", "True"]
    assert all(line.startswith("True ") and 'pip install "multismooth[' in line for line in lines[2:5]), lines
    assert [line.rpartition("[")[2].rstrip('"]') for line in lines[2:5]] == ["torch", "jax", "jax"]
    assert lines[5:7] == ["True", "0.2144"]
    assert 'needs scipy, which is not installed: pip install "multismooth[calibration]"' in lines[7]


def test_dir_names_the_rooms_whose_framework_is_there(monkeypatch):
    monkeypatch.setattr(multismooth, "find_spec", lambda name: None if name in ("jax", "flax") else object())
    assert {"numpy", "torch", "loss"} <= set(dir(multismooth))
    assert not {"jax", "flax"} & set(dir(multismooth))


NAMES = [
    *("label_smoothing", "convention", "weight", "prior", "class_mask", "sample_weight", "ignore_index", "z_loss"),
    *("logit_softcap", "reduction", "normalizer", "axis", "validate"),
]
NOT_LINEAR = ("weight", "class_mask", "z_loss", "logit_softcap")
DEFAULTS = {
    "label_smoothing": 0.1,
    "convention": "torch",
    "ignore_index": -100,
    "z_loss": 0.0,
    "reduction": "mean",
    "accumulate": "float32",
    "spread": "half",
    "label_mean": False,
    "pseudo_count": 1.0,
    "gamma": 2.0,
    "modulation": "class",
    "beta": 0.1,
    "margin": 10.0,
    "strength": 0.1,
    "hard_weight": 0.0,
    "temperature": inspect.Parameter.empty,
}
SIGNATURES = {
    "loss": (["logits", "targets"], NAMES),
    "terms": (["logits", "targets"], [name for name in NAMES if name not in ("reduction", "normalizer")]),
    "loss_and_grad": (["logits", "targets"], ["out", *NAMES]),
    "smooth_targets": (
        ["targets", "num_classes"],
        ["dtype", "axis", "label_smoothing", "convention", "prior", "class_mask", "ignore_index"],
    ),
    "linear_loss": (["hidden", "classifier", "targets"], ["bias", *NAMES, "chunk_rows", "accumulate"]),
    "linear_loss_and_grad": (["hidden", "classifier", "targets"], ["bias", *NAMES, "chunk_rows", "accumulate"]),
    "linear_terms": (
        ["hidden", "classifier", "targets"],
        ["bias", *[name for name in NAMES if name not in ("reduction", "normalizer")], "chunk_rows"],
    ),
    "smoothing_correction": (
        ["hidden", "classifier", "targets"],
        ["bias", *[name for name in NAMES if name not in NOT_LINEAR]],
    ),
    "binary_loss": (
        ["logits", "targets"],
        [
            *("label_smoothing", "spread", "weight", "pos_weight", "sample_weight", "ignore_index", "reduction"),
            *("label_mean", "normalizer", "axis", "validate"),
        ],
    ),
    "focal_loss": (["logits", "targets"], ["gamma", "modulation", *NAMES]),
    "confidence_penalty": (["logits", "targets"], ["beta", *NAMES]),
    "margin_smoothing": (["logits", "targets"], ["margin", "strength", *NAMES]),
    "distillation_loss": (["logits", "teacher_logits", "targets"], ["temperature", "hard_weight", *NAMES]),
    "normalizer": (
        ["targets", "num_classes"],
        ["label_smoothing", "convention", "weight", "sample_weight", "ignore_index", "axis", "group", "axis_name"],
    ),
    "unigram_prior": (["targets", "num_classes"], ["pseudo_count", "ignore_index"]),
}
IN_PARTS = ("loss", "terms", "loss_and_grad", "linear_loss", "linear_loss_and_grad", "linear_terms")
OWN = {  # of the functions IN_PARTS
    "multismooth.torch": ["group", "num_classes", "class_start"],
    "multismooth.jax": ["axis_name"],
}
BESIDE = ("focal_loss", "confidence_penalty", "margin_smoothing", "distillation_loss")  # smoothing is off by default


@pytest.mark.parametrize("module", ["multismooth", "multismooth.numpy", "multismooth.torch", "multismooth.jax"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_the_contracts_everywhere(module, name):
    need(module.rpartition(".")[2] if "." in module else "numpy")
    function = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(function).parameters
    positional, named = SIGNATURES[name]
    assert [p.name for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD] == positional
    own = OWN.get(module, []) if name in IN_PARTS else []
    assert [p.name for p in parameters.values() if p.kind is p.KEYWORD_ONLY] == [*named, *own]
    for argument in named:
        expected = -1 if argument == "axis" and name in ("smooth_targets", "normalizer") else DEFAULTS.get(argument)
        expected = 0.0 if argument == "label_smoothing" and name in BESIDE else expected
        expected = None if (name, argument) == ("binary_loss", "ignore_index") else expected
        assert parameters[argument].default == expected, argument
    assert ">>>" in function.__doc__


@pytest.mark.parametrize("module", ["multismooth", "multismooth.torch", "multismooth.jax"])
def test_all_names_what_is_public(module):
    need(module.rpartition(".")[2] if "." in module else "numpy")
    module = importlib.import_module(module)
    assert list(module.__all__) == sorted(module.__all__, key=str)
    for name in set(module.__all__) & set(dir(module)):
        if name not in ("demo", "keras", "parity", "testing"):  # their own tests import them, with what they need
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_the_version_is_the_distributions():
    assert importlib.metadata.version("multismooth") == multismooth.__version__
    assert re.search(
        rf"^## {re.escape(multismooth.__version__)}", (Path(__file__).parents[1] / "CHANGELOG.md").read_text(), re.M
    )


def pins(name):
    lines = (Path(__file__).parents[1] / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all([bound.operator for bound in requirement.specifier] == ["=="] for requirement in found)
    return {requirement.name.lower(): Version(next(iter(requirement.specifier)).version) for requirement in found}


def test_the_lowest_releases_that_are_promised_are_those_that_are_tested():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    for name in ("docs", "dev"):  # they run nothing of the library
        extras.pop(name)
    promised = {}
    for text in {*project["dependencies"], *(text for extra in extras.values() for text in extra)}:
        requirement = Requirement(text)
        if requirement.name != "multismooth":
            assert [bound.operator for bound in requirement.specifier] == [">="], text
            promised[requirement.name.lower()] = Version(next(iter(requirement.specifier)).version)
    tested = pins("constraints-lowest.txt")
    assert tested.pop("jaxlib") == tested["jax"]
    assert tested == promised


def backend(array):
    return dispatch.backend_of(array).__name__


def test_dispatch_knows_every_kind_of_torch_tensor():
    torch = need("torch")

    class Own(torch.Tensor):
        pass

    seen = [backend(torch.nn.Parameter(torch.zeros(2))), backend(torch.zeros(2).as_subclass(Own))]
    with torch._subclasses.FakeTensorMode():
        seen.append(backend(torch.zeros(2)))
    torch.func.vmap(lambda x: seen.append(backend(x)) or x)(torch.zeros(2, 2))
    torch.func.grad(lambda x: seen.append(backend(x)) or x.sum())(torch.zeros(2))
    assert seen == ["multismooth.torch"] * 5


def test_dispatch_knows_every_kind_of_jax_array():
    jax = need("jax")
    seen = [backend(jax.numpy.zeros(2))]
    for transform in (jax.jit, jax.vmap):
        transform(lambda x: seen.append(backend(x)) or x)(jax.numpy.zeros(2))
    jax.grad(lambda x: seen.append(backend(x)) or x.sum())(jax.numpy.zeros(2))
    assert seen == ["multismooth.jax"] * 4


def test_dispatch_refuses_what_it_does_not_know():
    assert backend(np.zeros(2)) == backend(np.float32(1)) == "multismooth.numpy"
    with pytest.raises(TypeError, match=r"torch.Tensor, jax.Array or numpy.ndarray; got list.*multismooth.numpy"):
        multismooth.loss([[0.0, 1.0]], [0])
