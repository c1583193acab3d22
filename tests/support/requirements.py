"""What a test needs. Without it the test is skipped, or fails where MULTISMOOTH_REQUIRE names what is missing."""

import importlib
import os
import re
import sys
from functools import cache
from types import SimpleNamespace

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
        return importlib.import_module(name)
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
    keep_interpreter_ready()


@cache
def keep_interpreter_ready():
    """Let Triton's interpreter replace the operations of its language once, and not for each call of a function.

    It looks at a thousand names each time, which is half of the tests' time (24 s for 78 launches, after it 9). It also
    makes a table of all dtypes whenever it asks for NumPy's dtype of a tensor.
    """
    interpreter, ready, dtypes = need("triton.runtime.interpreter"), set(), {}
    replace, language, find = interpreter._patch_lang, interpreter.tl, interpreter._get_np_dtype

    def replace_once(function):
        modules = {id(value) for value in function.__globals__.values() if value is language or value is language.core}
        if not modules <= ready:
            replace(function)
            ready.update(modules)
        return SimpleNamespace(restore=lambda: None)

    def dtype_of(kind):
        if kind.name not in dtypes:
            dtypes[kind.name] = find(kind)
        return dtypes[kind.name]

    interpreter._patch_lang, interpreter._get_np_dtype = replace_once, dtype_of


def has_gpu(framework):
    """Whether the framework sees an NVIDIA GPU."""
    module = need(framework)
    if framework == "torch":
        return module.cuda.is_available()
    return any(device.platform == "gpu" for device in module.devices())
