"""Which kernel computes a loss: chosen by the problem, or named by the caller, and written down either way.

    spec      the text of `spec`, differentiated by the framework where it has autodiff
    columns   NumPy, few classes and few rows
    whole     a few calls of the framework on whole arrays: small problems, and devices other than the CPU
    chunked   a chunk at a time in cache: large problems on a CPU
    numba     one compiled pass over a CPU's memory: large problems where Numba is installed (multismooth[fast])
    triton    one compiled pass over a GPU's memory: hard labels, where Triton is there (PyTorch for CUDA brings it)

"fused" stands for all of them but "spec", "numba" and "triton": what is there without anything installed.
"""

from contextlib import contextmanager
from contextvars import ContextVar

from multismooth.errors import complain

NAMES: tuple[str, ...] = ("spec", "columns", "whole", "chunked", "numba", "triton")
FUSED: tuple[str, ...] = ("columns", "whole", "chunked")

_asked: ContextVar = ContextVar("implementation", default=None)


@contextmanager
def implementation(*names: str):
    """Within, PyTorch and NumPy calls use the first of these that can compute them, or raise; without any: as ever.

    Yields a list that receives the name of every kernel that ran. JAX compiles what it runs, and has one kernel.
    A derivative beyond the first is always that of "spec", and so is what a compiler traces.

    Raises:
        ValueError: no such name; within, a call that no named implementation can compute.

    >>> import numpy as np
    >>> import multismooth
    >>> with multismooth.implementation("spec"):
    ...     loss = multismooth.loss(np.zeros((2, 3)), np.array([0, 1]))
    >>> round(float(loss), 6)
    1.098612
    """
    for name in names:
        if name not in (*NAMES, "fused"):
            raise complain("names", f"some of {', '.join(NAMES)}, fused", repr(name), "Without names all may run.")
    groups = tuple(FUSED if name == "fused" else (name,) for name in names)
    ran: list[str] = []
    token = _asked.set((groups or (NAMES,), ran))
    try:
        yield ran
    finally:
        _asked.reset(token)


def requested():
    """What the caller named, for a memory of what was chosen; None: nothing."""
    choice = _asked.get()
    return None if choice is None else choice[0]


def record(name):
    """The name, written down where the caller watches."""
    choice = _asked.get()
    if choice is not None:
        choice[1].append(name)
    return name


def is_requested(name):
    """Whether the caller named this implementation."""
    choice = _asked.get()
    return choice is not None and (name,) in choice[0]


def select(*able):
    """What the caller wants first of what is able to compute a call, which is given the best one first."""
    choice = _asked.get()
    if choice is None:
        return able[0]
    for name in (name for group in choice[0] for name in able if name in group):
        return record(name)
    wanted = " or ".join(name for group in choice[0] for name in group)
    raise complain("implementation", f"one that computes this call here: {', '.join(able)}", wanted, "Name none.")
