"""Memory that is kept between calls, and handed out again once nobody else can see it.

A fresh buffer of a few MiB is mapped and faulted in, page by page, on every call: for a gradient that costs three times
the arithmetic (2048 × 32000 float32, PyTorch: 0.11 of `F.cross_entropy`'s time in a warm buffer, 0.22 in a fresh one on
huge pages, 0.26 in one on small pages). So the last buffer is kept. What is handed out is part of an array made anew
each time; every array, tensor or view made from it refers to that one, and only when it is gone is the memory free.
"""

import math
import operator
import os
import weakref
from collections import deque
from contextlib import suppress

import numpy as np

from multismooth.errors import complain

WORTH = 2**20  # bytes; below this malloc itself reuses warm pages
LINE = 64  # bytes of a cache line, which vector stores had better not straddle
PATIENCE = 32  # calls in a row that need less than half of a block, after which it is given back


class _Block:
    """Memory, and whether anybody can see it."""

    def __init__(self, size):
        memory = np.empty(size + LINE, np.uint8)
        start = -memory.ctypes.data % LINE
        self._memory = memoryview(memory[start : start + size])
        self.size, self.idle, self._owner = size, 0, None

    def free(self):
        return self._owner is None or self._owner() is None

    def lend(self, size):
        owner = np.frombuffer(self._memory, np.uint8)  # views of views refer to it: there NumPy's chain of arrays ends
        self._owner = weakref.ref(owner)
        return owner[:size]


class BufferCache:
    """One block of memory that outlives the arrays which are made from it.

    Whoever wants it first takes it away, in one step that no other thread can share, and makes another if there is
    none. So two threads never look at the same block, and there is no lock for a fork to leave locked.
    """

    def __init__(self):
        self._last: deque[_Block] = deque(maxlen=1)
        self.limit: float = math.inf  # bytes of a block that is kept

    @property
    def size(self):
        """Bytes that are kept now."""
        return sum(block.size for block in tuple(self._last))

    def take(self, size):
        """`size` bytes of uninitialised memory as an array of uint8: the kept block, if it is free and fits."""
        if size > self.limit:
            return _Block(size).lend(size)
        try:
            block = self._last.pop()
        except IndexError:
            block = None
        if block is None or block.size < size or not block.free() or self._tired(block, size):
            block = None  # first, or both would be there at once
            block = _Block(size)
        part = block.lend(size)
        self._last.append(block)
        if block.size > self.limit:  # it was lowered meanwhile
            self.release()
        return part

    def age(self):
        """A call, which may not need this memory at all."""
        if self._last:
            with suppress(IndexError):
                if self._tired(self._last[0], 0):
                    self.release()

    def _tired(self, block, size):
        block.idle = 0 if 2 * size >= block.size else block.idle + 1
        return block.idle > PATIENCE

    def release(self):
        """Forget the block; whoever holds a part of it keeps that."""
        self._last.clear()


GRADIENTS, SCRATCH = KEPT = BufferCache(), BufferCache()


def gradient_memory(entries, dtype):
    """Uninitialised memory for so many entries of a NumPy dtype, kept where that pays."""
    size = entries * np.dtype(dtype).itemsize
    return np.empty(entries, dtype) if size < WORTH else GRADIENTS.take(size).view(dtype)


def age_buffers():
    """To be said once in a call: memory that was needed once, and not since, does not stay for ever."""
    for kept in KEPT:
        kept.age()


def release():
    for kept in KEPT:
        kept.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release)  # or each write of the parent's would copy a page for the child


def keep_buffers(keep: bool | int = True):
    """Whether memory is kept for the next call (it is, to begin with): False gives it back, a number limits the bytes.

    Only the CPU paths of PyTorch and NumPy keep any: one block for gradients, as large as the last ones needed, and a
    scratch of some 8 MiB; the limit is for each. A block is used again only when nothing refers to the old gradient any
    more, so no result ever changes under its owner, and it is given back when 32 calls in a row needed less than half.

    Raises:
        ValueError: neither True nor False, nor a number of bytes.

    >>> import multismooth
    >>> multismooth.keep_buffers(2**28)
    >>> multismooth.keep_buffers(False)
    >>> multismooth.keep_buffers()
    """
    try:
        limit = math.inf if keep is True else operator.index(keep)
    except TypeError:
        limit = -1
    if limit < 0:
        remedy = "Pass a number such as 2**28 to keep at most a quarter of a GiB."
        raise complain("keep", "True, False or a number of bytes", repr(keep), remedy)
    for kept in KEPT:
        kept.limit = limit
        if kept.size > limit:
            kept.release()
