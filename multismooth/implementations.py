"""Selects the kernel that computes a loss: the best for the problem, or one that the caller names.

    spec      the formulas of `spec` as written, differentiated by the framework if it has autodiff
    columns   NumPy, few classes and few rows
    whole     a few calls of the framework on whole arrays: small problems, and devices other than the CPU
    chunked   a chunk at a time in cache: large problems on a CPU
    numba     one compiled pass over a CPU's memory: large problems where Numba is installed (multismooth[fast])
    triton    one compiled pass over a GPU's memory: hard labels, with Triton (PyTorch for CUDA installs it)

"fused" stands for "columns", "whole" and "chunked", which need no optional package.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from multismooth.errors import complain

NAMES: tuple[str, ...] = ("spec", "columns", "whole", "chunked", "numba", "triton")
FUSED: tuple[str, ...] = ("columns", "whole", "chunked")


class Request(NamedTuple):
    """What a caller of `implementation` asks for."""

    names: tuple[tuple[str, ...], ...]  # groups of kernels, in the order in which they are wanted
    ran: list[str]


REQUEST: ContextVar[Request | None] = ContextVar("implementation", default=None)


@contextmanager
def implementation(*names: str) -> Iterator[list[str]]:
    """In this context, PyTorch and NumPy calls use the first named implementation that can compute them, or raise.

    Without names, the library chooses as it does outside. The context yields a list that receives the name of every
    kernel that ran. JAX compiles the loss and has one kernel. "spec" always computes derivatives beyond the first, and
    calls that a compiler traces.

    Raises:
        ValueError: unknown name; inside the context, a call that no named implementation can compute.

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
    token = REQUEST.set(Request(groups or (NAMES,), ran))
    try:
        yield ran
    finally:
        REQUEST.reset(token)


def is_requested(name):
    """Whether the caller requested this implementation by name."""
    request = REQUEST.get()
    return request is not None and (name,) in request.names


def is_first_choice(name):
    """Whether the caller wants this implementation before any other."""
    request = REQUEST.get()
    return request is not None and request.names[0] == (name,)


def select(*supported):
    """The kernel for a call: the best supported one, or the caller's first choice among them.

    `supported` are the names of the kernels that can compute the call, the best one first.
    """
    request = REQUEST.get()
    if request is None:
        return supported[0]
    for name in (name for group in request.names for name in supported if name in group):
        request.ran.append(name)
        return name
    wanted = " or ".join(name for group in request.names for name in group)
    raise complain("implementation", f"one that computes this call here: {', '.join(supported)}", wanted, "Name none.")
