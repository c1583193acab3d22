"""JAX: arrays split over eight devices give the numbers of one, each device does its share, and no logits are sent."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from requirements import need, version

import multismooth

jax = need("jax")
if version("jax") < (0, 8, 0):
    pytest.skip("needs JAX's types of what varies, and explicit meshes, in their final form", allow_module_level=True)

DEVICES = " --xla_force_host_platform_device_count=8"
GATHERS = ("all-gather", "all-to-all", "collective-permute", "reduce-scatter")


def run(script, *parts):
    """What a script of tests/support prints in a process with eight CPU devices."""
    variables = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + DEVICES,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, Path(__file__).parent / "support" / script, *parts]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("part", ["loss_on_auto", "loss_on_explicit", "head_on_auto", "head_on_explicit"])
def test_arrays_placed_on_a_mesh_give_the_numbers_of_one_device(part):
    assert "problems agree" in run("jax_sharded.py", part)


@pytest.mark.parametrize("part", ["loss_in_shard_map", "head_in_shard_map"])
def test_classes_split_in_shard_map_give_the_numbers_of_one_device(part):
    assert "problems agree" in run("jax_sharded.py", part)


def test_derivatives_refusals_and_single_cases():
    printed = run(
        "jax_sharded_cases.py", "derivatives", "strict", "refusals", "unseen_labels", "padded", "common_offset", "eager"
    ).splitlines()
    assert len(printed) == 7, printed


@pytest.mark.parametrize("framework", ["numpy", "torch"])
def test_axis_name_is_a_keyword_of_jax_alone(framework):
    array = np.zeros if framework == "numpy" else need("torch").zeros
    for module in (multismooth, getattr(multismooth, framework)):
        with pytest.raises(TypeError, match="unexpected keyword argument 'axis_name'"):
            module.loss(array((2, 3)), np.zeros(2, int), axis_name="model")


@cache
def programs():
    return json.loads(run("jax_sharded_programs.py").splitlines()[-1])


def test_no_program_moves_logits_or_rows():
    for name, program in programs().items():
        sent = program["once"] | program["in a loop"]
        assert not set(sent) & set(GATHERS), (name, sent)
        assert ("one device" in name) != ("all-reduce" in sent), (name, sent)


def test_each_device_does_its_share():
    one = programs()["head on one device"]["flops"]
    share = {name: program["flops"] / one for name, program in programs().items() if name.startswith("head")}
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


def test_the_classifiers_gradient_is_summed_once_in_shard_map():
    assert programs()["head: rows"]["in a loop"] == {"all-reduce": 1}  # what the compiler alone makes of it
    assert programs()["head: rows alone in shard_map"]["in a loop"] == {}
    assert programs()["head: rows in shard_map"]["in a loop"] == programs()["head: classes"]["in a loop"]
    assert programs()["head: rows and classes in shard_map"]["in a loop"] == {"all-reduce": 2}
