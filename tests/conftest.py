"""What every test runs under: seeded, Hypothesis derandomised, and no skip without a reason."""

import importlib
import os
import random
import re
import sys

import numpy
import pytest
from hypothesis import settings

if not os.path.exists("/dev/nvidia0"):  # Triton reads it when it is first imported, which torch.compile does too
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

collect_ignore = ["split_rows.py"]  # a script: imported for its docstrings, it would give every test 64-bit JAX

REQUIRED = {name for name in os.environ.get("MULTISMOOTH_REQUIRE", "").replace(" ", "").split(",") if name}
if sys.platform != "linux":
    REQUIRED.discard("triton")  # which is published for Linux alone


def missing(name, reason):
    """Skip, saying why; or fail, where MULTISMOOTH_REQUIRE names what is missing."""
    if name in REQUIRED:
        pytest.fail(f"{reason}, and MULTISMOOTH_REQUIRE names {name}")
    pytest.skip(reason, allow_module_level=True)


def need(name):
    """The module `name`; without it the test (or the test module) is skipped."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return missing(name.partition(".")[0], f"{name} is not installed ({error})")


def version(name):
    """The first three numbers of a module's version."""
    return tuple(int(part) for part in re.findall(r"\d+", need(name).__version__)[:3])


def interpreted():
    """Skips a test of Triton's kernels where they are not interpreted, on a CPU."""
    need("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        reason = "Triton compiles its kernels in this process: set TRITON_INTERPRET=1 for the interpreter"
        missing("interpreter", reason)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Where Triton's kernels run: interpreted on a CPU, compiled on a GPU."""
    need("triton")
    if request.param == "cpu":
        interpreted()
    with numpy.errstate(all="ignore"):  # the interpreter computes in NumPy, which complains
        yield request.param


def pytest_configure(config):
    config.addinivalue_line("markers", "cuda: needs an NVIDIA GPU that the test's framework can use")


def pytest_runtest_setup(item):
    for mark in item.iter_markers("cuda"):
        framework = mark.kwargs.get("framework", "torch")
        if not _has_gpu(framework):
            missing("cuda", f"{framework} sees no NVIDIA GPU on this machine")


def _has_gpu(framework):
    module = need(framework)
    if framework == "torch":
        return module.cuda.is_available()
    return any(device.platform == "gpu" for device in module.devices())


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for each test, whatever ran before it."""
    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002 other libraries draw from it
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture
def x64():
    """JAX with 64-bit numbers."""
    config = need("jax").config
    before = config.read("jax_enable_x64")
    config.update("jax_enable_x64", True)
    yield
    config.update("jax_enable_x64", before)
