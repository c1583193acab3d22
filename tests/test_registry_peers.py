"""The registry against the libraries themselves, where they are installed: values and gradients, by name.

PyTorch, Optax and Keras (on JAX) belong to the test environment, those of `OPTIONAL` to `tox run -e peers`, and are run
where they are found; what they returned once is in tests/golden in any case.
"""

from dataclasses import replace

import numpy as np
import pytest
from peer_cases import LOOSE, OPTIONAL, REQUIRED, problem

import multismooth.numpy as ms
from multismooth import conventions

SEEDS = range(6)
PEERS = REQUIRED | OPTIONAL


@pytest.fixture(scope="module", autouse=True)
def wide():
    """float64 throughout: JAX and Keras compute in float32 unless told otherwise."""
    try:
        import jax
    except ImportError:
        yield
        return
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def gap(name, convention, seeds=SEEDS):
    """The largest difference, loss or gradient, between a library and a convention with the label that it ignores."""
    largest = 0.0
    for given in map(problem, seeds):
        for (value, slope), targets, call in PEERS[name](**given):
            call = {"ignore_index": convention.ignore_index} | call
            call = {key: argument for key, argument in call.items() if argument is not None}
            ours, gradient = ms.loss_and_grad(
                given["z"], targets, label_smoothing=given["eps"], convention=convention, **call
            )
            largest = max(largest, abs(float(ours) - value), np.abs(gradient - slope).max())
    return largest


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
def test_a_name_is_its_library(name):
    assert gap(name, conventions[name]) < LOOSE.get(name, 1e-12)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
def test_another_convention_is_not(name):
    own = conventions[name]
    others = {
        "spread": {"all": "others", "others": "all"}[own.spread],
        "objective": {"kl": "cross_entropy", "cross_entropy": "kl"}[own.objective],
        "smoothing_map": "classy",
        "scale": 2.0,
    }
    if own.denominator != "caller":
        others["denominator"] = "all" if own.denominator == "classes" else "classes"
    for field, value in others.items():
        assert gap(name, replace(own, **{field: value}), seeds=[0]) > 1e-4, field
