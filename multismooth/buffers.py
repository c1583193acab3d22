"""Memory that is kept between calls, and handed out again once nobody else can see it.

A fresh buffer of a few MiB is mapped and faulted in, page by page, on every call: for a gradient that costs three times
the arithmetic (2048 × 32000 float32, PyTorch: 0.11 of `F.cross_entropy`'s time in a warm buffer, 0.22 in a fresh one on
huge pages, 0.26 in one on small pages). So the last buffer is kept. It is given out again only while this module holds
the one reference to it: every array, tensor or view made from it holds another, for as long as anybody can reach it.
"""

import sys
import threading

import numpy as np

WORTH = 2**20  # bytes; below this malloc itself reuses warm pages
LINE = 64  # bytes of a cache line, which vector stores had better not straddle


class Kept:
    """One block of memory that outlives the arrays which are made from it."""

    def __init__(self):
        self._block, self._lock, self._alone = [None], threading.Lock(), None
        self.keeping = True

    def take(self, size):
        """`size` bytes of uninitialised memory as an array of uint8: the kept block, if it is free and fits."""
        with self._lock:
            if not self.keeping:
                return aligned(np.empty(size + LINE, np.uint8), size)
            if (
                self._block[0] is None
                or sys.getrefcount(self._block[0]) != self._alone
                or self._block[0].nbytes < size + LINE
            ):
                self._block = [None]  # first, or both would be there at once
                self._block[0] = np.empty(size + LINE, np.uint8)
                self._alone = sys.getrefcount(self._block[0])
            return aligned(self._block[0], size)

    def release(self):
        """Forget the block; whoever holds a part of it keeps that."""
        with self._lock:
            self._block = [None]


def aligned(block, size):
    start = -block.ctypes.data % LINE
    return block[start : start + size]


GRADIENTS = Kept()


def gradient_memory(entries, dtype):
    """Uninitialised memory for so many entries of a NumPy dtype, kept where that pays."""
    size = entries * np.dtype(dtype).itemsize
    return np.empty(entries, dtype) if size < WORTH else GRADIENTS.take(size).view(dtype)


def keep_buffers(keep: bool = True):
    """Whether the last gradient's memory is kept for the next call (it is, to begin with); False also gives it back.

    Only the CPU paths of PyTorch and NumPy keep any: one block, the size of the largest gradient so far. It is used
    again only when nothing refers to the old gradient any more, so no result ever changes under its owner.

    >>> import multismooth
    >>> multismooth.keep_buffers(False)
    >>> multismooth.keep_buffers()
    """
    GRADIENTS.keeping = keep
    if not keep:
        GRADIENTS.release()


# Without the interpreter lock a count of references proves nothing.
if not getattr(sys, "_is_gil_enabled", lambda: True)():
    keep_buffers(False)
