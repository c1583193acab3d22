"""Launches of kernels that Triton has compiled before, without Triton's own search for them.

Triton's `kernel[grid](…)` inspects and hashes forty arguments in Python before each launch, to find out which of its
compiled kernels they need. For a call of a few logits that takes a third of the time. A `Launch` is of one kind: all
arguments but the first ones are fixed, so it looks at the first ones alone. Then it calls Triton's launcher with what
Triton would call it with, as the code does that PyTorch's compiler generates.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import torch

NEWEST_KNOWN = (3, 9)  # the last Triton that `tests/test_gpu_dispatch.py` was run with; a newer one launches itself
ALIGNMENT = 16  # bytes: Triton compiles one kernel for pointers that this divides and another one for others


class Compiled(NamedTuple):
    """A compiled kernel on a device, and Triton's functions that a launch needs."""

    kernel: Any
    run: Any
    device: int  # Triton's number of it
    current_device: Any
    current_stream: Any


class Launch:
    """Launches a kernel with these fixed last arguments. The first ones are tensors, floats, None, and tuples of them.

    Integers and what else Triton compiles for must be among the fixed ones.
    """

    def __init__(self, kernel, grid, fixed, **options):
        self._kernel, self._fixed, self._options = kernel, fixed, options | {"enable_fp_fusion": True}
        self._grid, self._known = (*grid, 1, 1)[:3], {}

    def __call__(self, on, *given):
        """Launch it on the device of the tensor `on`."""
        signature = on.device, *kinds(given)
        one = self._known.get(signature)
        if one is None or one.current_device() != one.device or hooked():
            self._by_triton(on, given, signature)
        else:
            run, kernel = one.run, one.kernel
            stream = one.current_stream(one.device)
            run(*self._grid, stream, kernel.function, kernel.packed_metadata, None, None, None, *given, *self._fixed)

    def _by_triton(self, on, given, signature):
        with torch.cuda.device_of(on):
            kernel = self._kernel[self._grid](*given, *self._fixed, **self._options)
            if kernel is not None and launches_directly():  # the interpreter returns None
                driver = active_driver()
                device, functions = driver.get_current_device(), (driver.get_current_device, driver.get_current_stream)
                self._known[signature] = Compiled(kernel, kernel.run, device, *functions)


def kinds(values):
    """What Triton compiles for."""
    return tuple([
        x if x is None else kinds(x) if type(x) is tuple else float if type(x) is float
        else (x.dtype, x.data_ptr() % ALIGNMENT == 0) if isinstance(x, torch.Tensor) else (type(x), x)
        for x in values
    ])  # fmt: skip


MAX_LAUNCHES = 4096  # that are kept
_launches: dict = {}


def launch_of(kernel, kind, prepare):
    """The Launch of a kernel for calls of this kind. `prepare` makes its (grid, fixed arguments, options)."""
    key = id(kernel), kind  # the Launch keeps the kernel, so no other one has its id
    one = _launches.get(key)
    if one is None:
        if len(_launches) >= MAX_LAUNCHES:
            _launches.clear()
        grid, fixed, options = prepare()
        one = _launches[key] = Launch(kernel, grid, fixed, **options)
    return one


# --- Triton's own ----------------------------------------------------------------------------------------------------


@lru_cache
def version():
    """Triton's version as two numbers."""
    from triton import __version__

    return tuple(int(part) for part in __version__.split(".")[:2])


def launches_directly():
    """Whether this Triton's launcher is known to take what `Launch` hands it."""
    return version() <= NEWEST_KNOWN


def active_driver():
    from triton.runtime import driver

    return driver.active


@lru_cache
def runtime_settings():
    """Triton's object that has the hooks of profilers as its attributes."""
    from triton import knobs

    return knobs.runtime


def hooked():
    """Whether a profiler asks to be told of launches, which Triton's own launch does."""
    holder = runtime_settings()
    for hook in (holder.launch_enter_hook, holder.launch_exit_hook):
        if hook is not None and getattr(hook, "calls", True):  # a HookChain may be empty
            return True
    return False
