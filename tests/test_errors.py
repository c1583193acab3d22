"""Every error of the package goes through `complain`, with a remedy, and every such place is walked through."""

import ast
import importlib
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import bad_calls
import numpy as np
import pytest
from requirements import need
from test_bad_inputs import refused

import multismooth
from multismooth import Convention, conventions, errors

ROOT = Path(multismooth.__file__).parent
FILES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
}
TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}

# What is raised without `complain`, and why.
ELSEWHERE = {
    ("multismooth.torch.layers", "unexpected"): "what Python says of a keyword",
    ("multismooth.flax.options", "unexpected"): "what Python says of a keyword",
    ("multismooth.api.public", "unexpected"): "what Python says of a keyword",
    ("multismooth.keras", "unexpected"): "what Python says of a keyword",
    ("multismooth.transformers", "unexpected"): "what Python says of a keyword",
    ("multismooth.torch.originals", "REFUSALS.get(type(error), type(error))"): "the type that the original raises",
    ("multismooth.cpu.threads", "error"): "is raised again, by another thread",
    ("multismooth.cpu.compiled.arithmetic", "ImportError"): "says that there is no compiler",
    ("multismooth", "AttributeError"): "what Python says of a module",
    ("multismooth.flax", "AttributeError"): "what Python says of a module",
    ("multismooth.errors", "MissingBackendError"): "says what to install",
    ("multismooth.errors", "ValueError"): "is about a complaint",
    ("multismooth.parity.calling.connecting", "MissingBackendError"): "says what to install",
    ("multismooth.parity.calling.answers", "NoLoss"): "is what fn returned instead; `connect` complains of it",
    ("multismooth.parity.calling.forms", "IndexError"): "is how a loss of rows refuses a bad label",
    ("multismooth.parity.calling.program", "ValueError"): "is what the program itself says",
    ("multismooth.demo", "ModuleNotFoundError"): "says what to install",
    ("multismooth.torch.backend", "TypeError"): "is caught: `arguments` looks at an array that NumPy cannot read",
    ("multismooth.jax.backend", "TypeError"): "the same",
    ("multismooth.torch.gpu.choice", "RuntimeError"): "is caught: the warning that Triton's kernels are not used",
    ("multismooth.recording.arrays", "ValueSeen"): "is caught: the plan of such a call is not recorded",
    ("multismooth.recording.recorder", "ValueSeen"): "is caught, too",
    ("multismooth.torch.sharding.agreement", "self._own"): "is this rank's error, which waited for the other ranks",
    ("multismooth.torch.sharding.agreement", "found"): "is the ShardError of `disagreement`",
    ("multismooth.backend", "NotImplementedError"): "a method that a backend has to bring",
    ("multismooth.api.prior_functions", "NotImplementedError"): "the same, of a class",
    ("multismooth.cpu.compiled.arithmetic", "NotImplementedError"): "compiled, and never run",
    ("multismooth.api.public", "wrong"): "the TypeError of a wrong call, which `misused` words",
    ("multismooth.dispatch", "wrong"): "the same",
    (
        "multismooth.torch.linear",
        "RuntimeError",
    ): "autograd's own error of a tensor that was written to, with its remedy",
    ("multismooth.parity.checking.report", "AssertionError"): "is the report, with its advice",
    ("multismooth.parity.identifying.target_mass", "NoConvention"): "is a part of what identify says",
    (
        "multismooth.parity.calling.frameworks",
        "TypeError",
    ): "is why one way of calling fn failed, under a complaint of `connect`",
    ("multismooth.parity.calling.tapes", "TypeError"): "the same",
    ("multismooth.parity.devices", "NotImplementedError"): "says which conformance case does not exist on devices",
    ("multismooth.parity.calling.tapes", "NotImplementedError"): "a method that each framework brings",
    ("multismooth.parity.checking.subjects", "self._answers[case]"): "is what fn raised",
    ("multismooth.keras", "MissingBackendError"): "says which backend of Keras is not installed, and what to set",
    ("multismooth.cli.app", "typer.Exit"): "an exit status",
    ("multismooth.cli.demo", "typer.Exit"): "an exit status",
    ("multismooth.cli.doctor", "typer.Exit"): "an exit status",
    ("multismooth.cli.losses", "typer.Exit"): "an exit status",
}


def called(node):
    """The last part of the name of what is called, or None."""
    function = getattr(node, "func", None)
    return getattr(function, "attr", getattr(function, "id", None))


def makers():
    """Functions of the package that return nothing but complaints."""
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    found = {"complain"}
    for _ in range(2):
        for function in functions:
            returned = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
            if returned and all(called(value) in found for value in returned):
                found.add(function.name)
    return found


def raised():
    """(module, node of what is raised) for every `raise` that names something."""
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and node.exc is not None:
                yield name, node.exc


def test_every_error_is_a_complaint_or_has_a_reason():
    found, complaints = set(), makers()
    for name, node in raised():
        if called(node) not in complaints:
            found.add((name, ast.unparse(node.func if isinstance(node, ast.Call) else node)))
    assert found == set(ELSEWHERE)


@pytest.mark.parametrize("name", sorted(TREES))
def test_no_remedy_is_empty(name):
    for node in ast.walk(TREES[name]):
        if called(node) == "complain":
            assert len(node.args) >= 4, ast.unparse(node)
            remedy = node.args[3]
            assert not isinstance(remedy, ast.Constant) or remedy.value.strip().endswith((".", "?")), remedy.value


def test_a_complaint_without_a_remedy_is_refused():
    with pytest.raises(ValueError, match="the complaint about `x` lacks a remedy"):
        errors.complain("x", "a number", "a word", " ")


# --- every place ----------------------------------------------------------------------------------------------------

LOGITS, LABELS, HIDDEN, CLASSIFIER = bad_calls.LOGITS, bad_calls.LABELS, bad_calls.HIDDEN, bad_calls.CLASSIFIER


def with_implementation(name, call):
    with multismooth.implementation(name):
        call()


def on_meta(**arguments):
    torch = need("torch")
    tensors = {"logits": torch.zeros(4, 3), "targets": torch.tensor(LABELS), **arguments}
    multismooth.torch.loss_and_grad(**tensors)


def called_by_keras(loss):
    """As Keras' wrapper of a function calls it."""
    return eval("loss(y, z)", {"__name__": "keras.src.losses.losses", "loss": loss, "y": np.eye(3), "z": np.eye(3)})


OTHERS = {
    "a list": (TypeError, "nested lists", lambda: multismooth.loss([[0.0, 1.0]], [0])),
    "no implementation": (ValueError, "Without names", lambda: with_implementation("fast", lambda: None)),
    "not able": (
        ValueError,
        "Name none",
        lambda: with_implementation("triton", lambda: multismooth.loss(LOGITS, LABELS)),
    ),
    "no choice": (ValueError, "case-sensitive", lambda: Convention(spread="All")),
    "no scale": (ValueError, "1 leaves the loss as it is", lambda: Convention(scale=float("nan"))),
    "no label": (ValueError, "number of a class or label", lambda: Convention(ignore_index=0.5)),
    "no classes": (ValueError, "Count from 0", lambda: Convention(exclude=(-1,))),
    "no JSON": (ValueError, "cannot be read", lambda: Convention.from_json("{")),
    "no object": (ValueError, "not a part of it", lambda: Convention.from_json("3")),
    "no field": (ValueError, "newer multismooth", lambda: Convention.from_json('{"colour": 1}')),
    "no class left": (ValueError, "gives nothing to class 0", lambda: Convention(exclude=(0,)).first_label(1)),
    "no common classes": (
        ValueError,
        "No ε makes",
        lambda: Convention().smoothing_for(Convention(exclude=(0,)), 0.1, 3),
    ),
    "no ε": (
        multismooth.SmoothingError,
        "smaller ε",
        lambda: conventions["others"].smoothing_for(conventions["torch"], 1.0, 3),
    ),
    "ε of a row": (multismooth.SmoothingError, "no smoothing", lambda: Convention().target_row(2.0, 3)),
    "no convention to register": (ValueError, "with a name", lambda: multismooth.register(Convention())),
    "a name that is taken": (
        ValueError,
        "Choose another",
        lambda: multismooth.register(replace(conventions["others"], name="torch")),
    ),
    "integer logits": (ValueError, "Cast them", lambda: multismooth.OnlinePrior.start(3).update(LABELS, LABELS)),
    "a state of other classes": (
        ValueError,
        r"OnlinePrior.start\(3\)",
        lambda: multismooth.OnlinePrior.start(5).update(LOGITS, LABELS),
    ),
    "a call by Keras": (TypeError, r"multismooth\.keras\.Loss", lambda: called_by_keras(multismooth.loss)),
    "another device": (
        ValueError,
        "Move it",
        lambda: on_meta(targets=need("torch").tensor(LABELS, device="meta")),
    ),
    "a class_start without a group": (
        ValueError,
        "None without group=",
        lambda: (
            need("torch")
            and importlib.import_module("multismooth.torch").loss(
                need("torch").zeros(4, 3), need("torch").tensor(LABELS), class_start=0
            )
        ),
    ),
    "a group in NumPy": (
        ValueError,
        "belongs to multismooth.torch",
        lambda: multismooth.normalizer(LABELS, 3, group="data"),
    ),
    "a sparse tensor": (ValueError, "to_dense", lambda: on_meta(logits=need("torch").eye(4).to_sparse())),
    "a nested tensor": (
        ValueError,
        "to_padded_tensor",
        lambda: on_meta(logits=need("torch").nested.nested_tensor([need("torch").zeros(2)])),
    ),
    "a quantized tensor": (
        ValueError,
        "dequantize",
        lambda: on_meta(logits=need("torch").quantize_per_tensor(need("torch").zeros(4, 3), 0.1, 0, quint8())),
    ),
}


def quint8():
    return need("torch").quint8


OWN_TESTS = {
    "multismooth.torch.dropins",
    "multismooth.torch.originals",
    "multismooth.flax.options",
    "multismooth.cpu.buffers",
    "multismooth.keras",
    "multismooth.transformers",
}


def places():
    """(module, line) of every `complain` in what runs a loss; the drop-ins and the checker have tests of their own."""
    for name, tree in TREES.items():
        # test_sharding and test_jax_sharding walk through these, in processes and on devices
        if name.startswith(("multismooth.torch.sharding", "multismooth.jax.classes")):
            continue
        if name.split(".")[1:2] in (["parity"], ["cli"], ["demo"], ["calibration"], ["sweeping"]) or name in OWN_TESTS:
            continue
        yield from ((name, node.lineno) for node in ast.walk(tree) if called(node) == "complain")


def test_every_place_is_walked_through(monkeypatch):
    for framework in ("torch", "jax"):
        need(framework)
    seen, complain = set(), errors.complain

    def recorded(*arguments, **more):
        frame = sys._getframe(1)
        seen.add((frame.f_globals["__name__"], frame.f_lineno))
        return complain(*arguments, **more)

    modules = [importlib.import_module(name) for name, _ in set(places()) | {("multismooth.api.containers", 0)}]
    for module in modules:
        monkeypatch.setattr(module, "complain", recorded)
    for framework in ("numpy", "torch", "jax"):
        for bad in bad_calls.ALL:
            refused(importlib.import_module(f"multismooth.{framework}"), bad)
    warnings.simplefilter("ignore")
    for error, match, call in OTHERS.values():
        with pytest.raises(error, match=match):
            call()
    missed = sorted(set(places()) - seen)
    assert not missed, missed
    assert np.isfinite(float(multismooth.loss(LOGITS, LABELS)))
