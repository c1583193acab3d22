"""What every test runs under: seeded, Hypothesis derandomised, and no skip without a reason."""

import atexit
import functools
import gc
import os
import random
import re
import sys

import numpy
import pytest
from hypothesis import given, settings
from hypothesis.strategies import none
from requirements import has_gpu, interpreted, missing, need
from thread_count import thread_count

# Imports and compilers make many objects that live long, so the collector looks at them less often.
gc.set_threshold(200_000, 20, 20)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch reads it when it is imported
os.environ.setdefault("KERAS_BACKEND", "jax")  # Keras reads it when it is imported
if not os.path.exists("/dev/nvidia0"):  # Triton reads it when it is first imported, which torch.compile does too
    os.environ.setdefault("TRITON_INTERPRET", "1")

settings.register_profile("ci", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

pytest_plugins = ["cpu_seconds"]
collect_ignore = [
    "support",
    "typing",
    "wild/table.py",
    "wild/wild_torch.py",
    "wild/wild_arrays.py",
    "wild/wild.py",
]  # no tests; split_rows.py sets JAX to 64 bits, and typing/rejected.py is wrong on purpose


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Where Triton's kernels run: interpreted on a CPU, compiled on a GPU."""
    need("triton")
    if request.param == "cpu":
        interpreted()
    with numpy.errstate(all="ignore"):  # the interpreter computes in NumPy, which complains
        yield request.param


def pytest_collection_modifyitems(items):
    """Mark what `tox run -e quick` leaves out: see `compiles` and THOROUGH."""
    for item in items:
        if compiles(item):
            item.add_marker("compiles")
        if THOROUGH.search(item.nodeid):
            item.add_marker("thorough")


# XLA compiles what JAX, Flax and Keras run, Dynamo what is traced; Numba and Triton (or its interpreter) compile, too.
COMPILERS = re.compile("jax|flax|keras|compil|traced|numba|triton|gpu|cuda|head_operator", re.IGNORECASE)

# Of many settings of one test a part is enough for `quick`. Other tests are marked where they are written.
THOROUGH = re.compile(
    r"test_conformance\.py::.*\[[2-9] of "
    r"|test_laws\.py::.*\[(?!(numpy|torch)\])"
    r"|test_hard_inputs\.py::.*vmap over backward"
)


def compiles(item):
    """Whether a test's name or module says that it compiles. Others that do are marked where they are written."""
    return COMPILERS.search(item.nodeid) or "jax" in vars(getattr(item, "module", None) or item)


def pytest_collection_finish(session):
    """Let the garbage collector skip what exists so far: JAX's tests take a tenth less time (laws: 42 s, before 49)."""
    given(none())(lambda _: None)()  # Hypothesis collects; 6.100 looks for its random numbers among what is not frozen
    gc.freeze()
    mlir = sys.modules.get("jax._src.interpreters.mlir")
    if hasattr(mlir, "make_ir_context"):  # JAX makes one for each of 8,000 programs, which takes 3 ms of CPU time
        mlir.make_ir_context = functools.cache(mlir.make_ir_context)


@pytest.fixture(autouse=True, scope="module")
def _frozen():
    """What earlier modules have made and compiled is skipped, too: `gc.collect()` took a second late in a session."""
    gc.freeze()


atexit.register(gc.unfreeze)  # else nanobind reports leaks at exit; not earlier, because pytest collects twice more


def pytest_runtest_setup(item):
    dynamo = sys.modules.get("torch._dynamo.bytecode_transformation")
    read = getattr(dynamo, "_cached_cleaned_instructions", None)  # which some releases lack
    if read is not None and read.cache_info().maxsize is not None:
        # Dynamo keeps the instructions of 128 functions. One loss has as many, so each compilation read them all again.
        dynamo._cached_cleaned_instructions = functools.cache(read.__wrapped__)
    for mark in item.iter_markers("cuda"):
        framework = mark.kwargs.get("framework", "torch")
        if not has_gpu(framework):
            missing("cuda", f"{framework} sees no NVIDIA GPU on this machine")


@pytest.fixture(autouse=True)
def seeded():
    """The same random numbers for each test, whatever ran before it."""
    random.seed(0)
    numpy.random.seed(0)  # noqa: NPY002 other libraries draw from it
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(0)  # torch.manual_seed keeps the stack for CUDA: 0.6 ms in every test
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)


@pytest.fixture
def two_threads():
    """NumPy's kernels and PyTorch use two threads, not one."""
    with thread_count(2):
        yield


@pytest.fixture
def x64():
    """JAX with 64-bit numbers."""
    config = need("jax").config
    before = config.read("jax_enable_x64")
    config.update("jax_enable_x64", True)
    yield
    config.update("jax_enable_x64", before)
