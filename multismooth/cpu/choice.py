"""Which kernel computes a call of NumPy arrays, or of tensors whose memory NumPy sees."""

from functools import lru_cache, partial

import numpy as np

from multismooth.cpu import chunks, kernels
from multismooth.cpu.buffers import gradient_memory
from multismooth.cpu.layout import MIN_CLASSES_FOR_ROWS, layout_of
from multismooth.cpu.threads import cores
from multismooth.implementations import is_first_choice
from multismooth.namespace import XP
from multismooth.plan import shared

MAX_CLASSES_COLUMNS = 15  # `columns` is the fastest kernel up to so many classes
MAX_LOGITS_COLUMNS = 2**16  # and up to so many logits
CHUNK_ENTRIES = 2**20  # read and written some six times in cache; a quarter is 1.7 times slower on two threads
MIN_LOGITS_FOR_THREADS = 2**18  # from so many on, waking up other threads pays


@lru_cache
def numba():
    """Numba's kernels, or None where it is not installed."""
    try:
        from multismooth.cpu import compiled
    except ImportError:
        return None
    return compiled


def few(logits, plan, axis):
    """Whether `columns` computes a call of these NumPy arrays or tensors, and is the fastest that does."""
    count, classes = logits.shape if logits.ndim == 2 else (0, 0)
    small = axis == 1 and 0 < classes <= MAX_CLASSES_COLUMNS and 0 < count * classes <= MAX_LOGITS_COLUMNS
    alike = small and all(row is None or (row.ndim == 2 and shared(row)) for row in (plan.v, plan.mask))
    return (
        alike
        and plan.u is None
        and plan.const is None
        and plan.z_loss is None
        and (plan.mask is None or plan.v is not None)
    )


def compiles(logits, plan, axis):
    """Whether Numba is there and its kernels compute a call of these NumPy arrays or tensors."""
    return numba() is not None and numba().supports(plan, logits.shape[axis])


def small(logits, plan, axis):
    """Whether `numba().small_problem` computes a call of these NumPy arrays, and is the fastest that does."""
    labels = plan.labels
    if logits.ndim != 2 or axis != 1 or logits.size > numba().MIN_LOGITS_FOR_THREADS:
        return False
    ordered = logits.flags.c_contiguous and labels.flags.c_contiguous and labels.dtype == np.int64
    return (
        ordered
        and logits.dtype in (np.float32, np.float64)
        and all(
            not isinstance(x, np.ndarray) or x.shape == labels.shape for x in (plan.a, plan.b, plan.z_loss, plan.const)
        )
    )


def supports(logits, plan, axis):
    """The names of the kernels that compute a call of NumPy arrays, the fastest first.

    "spec" computes every call: where it is wanted, the others are not asked, and Numba is not imported.
    """
    if logits.size == 0 or is_first_choice("spec"):
        return ("spec",)
    names = ["chunked", "spec"]
    if logits.dtype in (np.float32, np.float64):
        if few(logits, plan, axis):
            names.insert(0, "columns")
        if compiles(logits, plan, axis):
            names.insert(0, "numba")
    return names


def evaluate(name, logits, plan, axis, with_gradient, out, threads=cores, upstream=1.0):
    """(per-element losses, gradient of upstream times their sum or None) by "chunked" or "numba".

    The gradient is `out` where that `fits`, else it is memory of ours.
    """
    if name == "numba" and out is None and small(logits, plan, axis):
        return numba().small_problem(logits, plan.labels, plan, with_gradient)
    compiled = numba() if name == "numba" else None
    together = compiled.MIN_LOGITS_FOR_THREADS if compiled else MIN_LOGITS_FOR_THREADS
    layout = layout_of(logits, axis, compiled.MIN_CLASSES_FOR_ROWS if compiled else MIN_CLASSES_FOR_ROWS)
    gradient = None
    if with_gradient:
        own = out if fits(layout, logits, out) else None
        gradient = layout.as_logits(gradient_memory(logits.size, logits.dtype), XP) if own is None else own
    workers = 1 if logits.size < together else min(threads(), cores())
    if compiled:
        return compiled.evaluate(layout, logits, plan, gradient, workers, upstream), gradient
    kernel = partial(kernels.kernel, xp=XP)
    return chunks.evaluate(kernel, layout, logits, plan, XP, gradient, CHUNK_ENTRIES, workers, upstream), gradient


def fits(layout, logits, out):
    """Whether a kernel can write the gradient to the caller's array: the layout of the logits, and no memory of theirs.

    Unless it is they, entry by entry.
    """
    if out is None or not layout.matches(out):
        return False
    same = out.ctypes.data == logits.ctypes.data and out.strides == logits.strides
    return same or not np.may_share_memory(out, logits)
