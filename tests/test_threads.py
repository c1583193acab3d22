"""Two threads compute what one thread computes. All tests but these and those of test_kernels run on one thread."""

import numpy as np
import pytest
from adapters import ADAPTERS, bfloat16
from requirements import need
from thread_count import thread_count
from tolerance import assert_close

import multismooth
from multismooth.cpu import threads
from multismooth.cpu.threads import share

CLASSES = 1000
SHAPES = {"rows": ((600, CLASSES), -1), "wide rows": ((4, 150_000), -1), "images": ((6, CLASSES, 10, 12), 1)}
CASES = [
    pytest.param(adapter, dtype, id=f"{adapter.name}-{dtype}")
    for adapter in ADAPTERS
    for dtype in ("float32", "float64", "bfloat16")
    if adapter.out and adapter.device == "cpu" and "triton" not in adapter.kernels  # its interpreter has one thread
    if dtype != "bfloat16" or dtype in adapter.narrow
]


def problem(name, dtype):
    """(logits, labels, settings) with more logits than any kernel computes on one thread."""
    shape, axis = SHAPES[name]
    rng = np.random.default_rng(3)
    logits = (rng.normal(size=shape) * 4).astype(bfloat16() if dtype == "bfloat16" else dtype)
    labels = rng.integers(1, shape[axis], np.delete(shape, axis))
    labels.flat[::7] = -100
    weight = rng.uniform(0.5, 1.5, shape[axis]).astype("float32" if dtype == "bfloat16" else dtype)
    return logits, labels, {"axis": axis, "weight": weight, "z_loss": 1e-3}


@pytest.mark.parametrize(("adapter", "dtype"), CASES)
@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_two_threads_compute_what_one_computes(adapter, name, dtype, reduction):
    logits, labels, settings = problem(name, dtype)
    found = []
    for number in (1, 2, 2):
        with thread_count(number):
            found.append(adapter.call("loss_and_grad", logits, labels, reduction=reduction, **settings))
    (loss, gradient), (again, other), repeated = found
    assert_close(again, loss, str(loss.dtype), CLASSES)
    assert_close(other, gradient, dtype, CLASSES)
    assert [part.tobytes() for part in repeated] == [again.tobytes(), other.tobytes()], "two runs differ"


@pytest.mark.parametrize(("framework", "kernel"), [("numpy", "chunked"), ("numpy", "numba"), ("torch", "numba")])
def test_so_many_threads_work_as_are_wanted(framework, kernel, monkeypatch):
    need(framework)
    used = []
    modules = {"chunked": "multismooth.cpu.chunks", "numba": "multismooth.cpu.compiled"}
    monkeypatch.setattr(f"{need(modules[kernel]).__name__}.share", lambda *work: used.append(work[2]) or share(*work))
    monkeypatch.setattr(threads, "_affinity", lambda: 2)
    logits, labels, _ = problem("rows", "float32")
    if framework == "torch":
        logits, labels = map(need("torch").from_numpy, (logits, labels))
    for number in (1, 2):
        with thread_count(number), multismooth.implementation(kernel):
            getattr(multismooth, framework).loss_and_grad(logits, labels)
        assert max(used, default=1) == number
