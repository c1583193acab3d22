"""The text that JAX compiles for a GPU or TPU: its numbers on a CPU, and what XLA makes of it for an H200.

No GPU is needed, but for the last test JAX's CUDA plugin: see `xla_on_a_gpu`.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from requirements import missing, need
from test_kernels import FEATURES, by_spec, problem, settings_for

jax = need("jax")
import jax.numpy as jnp  # noqa: E402 jax may be missing

import multismooth.jax as ms  # noqa: E402
from multismooth.jax import kernel  # noqa: E402

SHAPES = (((9, 50), 1), ((3, 7, 5), 1), ((4, 6), 0))


@pytest.fixture
def text_of_a_gpu(monkeypatch):
    """On a CPU, JAX compiles what it compiles elsewhere."""
    monkeypatch.setattr(kernel, "GATHERING_PLATFORM", "none")
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
def test_losses_and_gradients_are_those_of_spec(text_of_a_gpu, shape, axis):
    for feature in FEATURES:
        z, y = problem(shape, axis, np.float32)
        y, settings = settings_for(shape, axis, feature, y, "float32")
        for offset in (0, 1e4):
            z = z + np.float32(offset)
            loss, gradient = ms.loss_and_grad(jnp.asarray(z), jnp.asarray(y), axis=axis, **settings)
            expected, slope = by_spec(z, y, axis=axis, **settings)
            np.testing.assert_allclose(loss, expected, rtol=5e-6, err_msg=feature)
            np.testing.assert_allclose(gradient, slope, rtol=0, atol=2e-6 * np.abs(slope).max(), err_msg=feature)


def test_extreme_rows_and_derivatives_of_any_order(text_of_a_gpu):
    z, y = problem((6, 40), 1, np.float32)
    z[1, 3], z[2], z[3], y[3] = -np.inf, np.nan, np.nan, -100
    each = np.asarray(ms.loss(jnp.asarray(z), jnp.asarray(y), reduction="none", label_smoothing=0.0))
    assert np.isfinite(each[[0, 1, 4, 5]]).all()
    assert np.isnan(each[2])
    assert each[3] == 0
    small, labels, weight = jnp.asarray(z[4:]), jnp.asarray(y[4:]), jnp.linspace(0.5, 1.5, 40)
    found = jax.hessian(lambda z: ms.loss(z, labels, weight=weight))(small)
    expected = jax.hessian(lambda z: _formula(z, labels, weight))(small)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def _formula(z, y, weight):
    """The weighted mean with ε = 0.1, as PyTorch defines it."""
    q = 0.9 * jax.nn.one_hot(y, z.shape[1]) + 0.1 / z.shape[1]
    return -jnp.sum(weight * q * jax.nn.log_softmax(z)) / jnp.sum(weight[y])


def test_on_a_gpu_nothing_ends_a_fusion():
    """A gather, a scatter or a condition would be one more pass over the logits. A CPU takes a gather and a case."""
    shapes = jax.ShapeDtypeStruct((64, 3000), jnp.bfloat16), jax.ShapeDtypeStruct((64,), jnp.int32)
    traced, counted = jax.jit(jax.value_and_grad(ms.loss)).trace(*shapes), {}
    for name in ("cuda", "tpu", "cpu"):
        text = traced.lower(lowering_platforms=(name,)).as_text()
        counted[name] = [len(re.findall(rf"stablehlo\.{step}\b", text)) for step in ("gather", "scatter", "case")]
    assert counted["cuda"][:2] == counted["tpu"][:2] == [0, 0]
    assert counted["cpu"][0] > 0 == counted["cpu"][1]
    assert counted["cuda"][2] == counted["cpu"][2] - 1  # the platform itself is a condition, which XLA knows


def test_xla_reads_the_logits_three_times_on_an_h200():
    if not any(importlib.util.find_spec(f"jax_cuda{number}_plugin") for number in (12, 13)):
        missing("jax-cuda13-plugin", "JAX's CUDA plugin is not installed: see tests/support/xla_on_a_gpu.py")
    script = Path(__file__).parent / "support" / "xla_on_a_gpu.py"
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, script], env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for name in ("loss_and_grad", "value_and_grad", "everyday arguments", "images"):
        assert found[name]["bytes"] <= 8.1, found
        assert name == "images" or found[name]["temporary"] <= 0.1, found  # a few numbers per pixel
