"""What a test needs. Without it the test is skipped, or fails where MULTISMOOTH_REQUIRE names what is missing."""

import os
import re
import sys
from importlib import import_module

import pytest

REQUIRED = {name for name in os.environ.get("MULTISMOOTH_REQUIRE", "").replace(" ", "").split(",") if name}
if sys.platform != "linux":
    REQUIRED.discard("triton")  # Triton is published for Linux alone


def missing(name, reason):
    """Skip and say why; or fail, where MULTISMOOTH_REQUIRE names what is missing."""
    if name in REQUIRED:
        pytest.fail(f"{reason}, and MULTISMOOTH_REQUIRE names {name}")
    pytest.skip(reason, allow_module_level=True)


def need(name):
    """The module `name`; without it the test (or the test module) is skipped."""
    try:
        return import_module(name)
    except ImportError as error:
        return missing(name.partition(".")[0], f"{name} is not installed ({error})")


def version(name):
    """The first three numbers of a module's version."""
    return tuple(int(part) for part in re.findall(r"\d+", need(name).__version__)[:3])


def interpreted():
    """Skip a test of Triton's kernels unless Triton's interpreter runs them on a CPU."""
    need("triton")
    if os.environ.get("TRITON_INTERPRET") != "1":
        reason = "Triton compiles its kernels in this process: set TRITON_INTERPRET=1 for the interpreter"
        missing("interpreter", reason)
    if version("triton") < (3, 7) and version("numpy") >= (2, 4):
        missing("interpreter", "the interpreter of Triton before 3.7 fails with NumPy 2.4 and newer")
    import_module("interpreter").quick()  # late, because it imports this module


def has_gpu(framework):
    """Whether the framework sees an NVIDIA GPU."""
    module = need(framework)
    if framework == "torch":
        return module.cuda.is_available()
    return any(device.platform == "gpu" for device in module.devices())
