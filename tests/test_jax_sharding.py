"""JAX: arrays split over eight devices give the numbers of one, each device does its share, and no logits are sent."""

import json
import os
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from programs import run as run_program
from requirements import need, version

import multismooth

jax = need("jax")
if version("jax") < (0, 8, 0):
    pytest.skip("needs JAX's types of what varies, and explicit meshes, in their final form", allow_module_level=True)

DEVICES = " --xla_force_host_platform_device_count=8"
GATHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def run(script, *parts, flags=""):
    """What a script of tests/support prints in a process with eight CPU devices."""
    path, flags = Path(__file__).parent / "support" / script, os.environ.get("XLA_FLAGS", "") + DEVICES + flags
    done = run_program(path, *parts, imports=("jax", "numba", "pytest"), timeout=600, XLA_FLAGS=flags)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("function", ["loss", "head"])
@pytest.mark.parametrize("mesh", ["auto", "explicit"])
def test_arrays_placed_on_a_mesh_give_the_numbers_of_one_device(function, mesh):
    assert "problems agree" in run("jax_sharded.py", f"{function}_on_{mesh}")


def test_a_head_outside_of_jit_gives_the_numbers_of_one_device():
    assert "problems agree" in run("jax_sharded.py", "head_outside_of_jit")


@pytest.mark.parametrize("function", ["loss", "head"])
def test_one_to_eight_devices_with_equal_or_unequal_parts_of_the_classes_give_the_numbers_of_one(function):
    assert "problems agree" in run("jax_sharded.py", f"{function}_in_shard_map")


def test_derivatives_refusals_and_single_cases():
    cases = ["derivatives", "strict", "refusals", "unseen_labels", "common_offset", "eager"]
    cases += ["elements_on_two_axes", "rows_by_hand"]
    printed = run("jax_sharded_cases.py", *cases).splitlines()
    assert len(printed) == len(cases), printed


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_axis_name_is_a_keyword_of_jax_alone(framework):
    array = np.zeros if framework == "numpy" else need("torch").zeros
    for module in (multismooth, getattr(multismooth, framework)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'axis_name'"):
            module.loss(array((2, 3)), np.zeros(2, int), axis_name="model")


@cache
def programs():
    with tempfile.TemporaryDirectory() as folder:
        printing = f" --xla_dump_to={folder} --xla_dump_hlo_as_text --xla_dump_hlo_module_re=jit_loss"
        return json.loads(run("jax_sharded_programs.py", folder, flags=printing).splitlines()[-1])


def test_no_program_moves_logits_or_rows():
    for name, program in programs().items():
        sent = program["once"] | program["in a loop"]
        assert not set(sent) & set(GATHERS), (name, sent)
        assert ("one device" in name) != ("all-reduce" in sent), (name, sent)


def test_each_device_does_its_share():
    one = programs()["head on one device"]["flops"]
    share = {
        name: program["flops"] / one / (20 if "many classes" in name else 1)
        for name, program in programs().items()
        if name.startswith("head")
    }
    assert share["head: classes"] <= 0.27
    assert share["head: rows"] <= 0.65
    assert share["head: rows alone in shard_map"] <= 0.65
    for name in share:
        if "rows and classes" in name or name == "head: rows in shard_map":
            assert share[name] <= 0.17, (name, share[name])


def test_a_loss_meets_other_devices_twice_and_not_for_a_condition():
    for name, program in programs().items():
        if name.startswith("loss"):
            rows_too = "'data', 'model'" in name
            assert program["once"] == {"all-reduce": 4 if rows_too else 2}, (name, program)


def test_the_classifiers_gradient_is_summed_once_after_the_loop_where_the_placement_of_rows_is_known():
    for name, program in programs().items():
        known = "shard_map" in name or "explicit" in name or "outside of jit" in name
        if "rows" in name and known:
            assert program["once"]["classifier"] == 1, (name, program)
            assert "classifier" not in program["in a loop"], (name, program)
    assert programs()["head: rows"]["in a loop"]["classifier"] == 1  # what the compiler alone makes of it


def test_no_loop_waits_for_other_rows_where_their_placement_is_known():
    """Parts of the classes meet in each chunk: a maximum, a sum, and the gradient of the features."""
    found = {name: program["in a loop"] for name, program in programs().items()}
    assert found["head on explicit: rows"] == found["head: rows alone in shard_map"] == {}
    classes = found["head: classes"]
    assert found["head on explicit: rows and classes"] == found["head: rows in shard_map"] == classes
    assert found["head: rows and classes in shard_map"] == {"all-reduce": 2}
    for name in found:
        if name.startswith("outside of jit"):
            assert found[name] == (classes if name.endswith("model") else {}), (name, found[name])
