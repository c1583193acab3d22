"""Memory that is kept between calls, and used again once nobody can see it any more.

A fresh buffer of a few MiB is mapped and faulted in, page by page, on every call. For a gradient that costs three times
the arithmetic (2048 × 32000 float32, PyTorch: 0.11 of `F.cross_entropy`'s time in a warm buffer, 0.22 in a fresh one on
huge pages, 0.26 in one on small pages). So the last buffer is kept.

Each call gets a part of a new array over the kept memory. Every array, tensor or view made from that part refers to the
new array. When it is gone, the memory is free.
"""

import math
import operator
import os
import weakref
from collections import deque
from contextlib import suppress

import numpy as np

from multismooth.errors import complain

MIN_BYTES_TO_KEEP = 2**20  # for smaller buffers malloc itself reuses warm pages
CACHE_LINE = 64  # bytes; a vector store that straddles two lines is slower
MAX_IDLE_CALLS = 32  # a block is given back after more calls in a row that need less than half of it


class _Block:
    """A piece of memory that knows whether anybody can see it."""

    def __init__(self, size):
        memory = np.empty(size + CACHE_LINE, np.uint8)
        start = -memory.ctypes.data % CACHE_LINE
        self._memory = memoryview(memory[start : start + size])
        self.size, self.idle_calls, self._owner = size, 0, None

    def free(self):
        return self._owner is None or self._owner() is None

    def lend(self, size):
        """`size` bytes as an array. NumPy's views of views all refer to `owner`, because it owns no array's memory."""
        owner = np.frombuffer(self._memory, np.uint8)
        self._owner = weakref.ref(owner)
        return owner[:size]

    def idle_too_long(self, size):
        """Count a call that needs `size` bytes; say whether the block is now too large for too many calls."""
        self.idle_calls = 0 if 2 * size >= self.size else self.idle_calls + 1
        return self.idle_calls > MAX_IDLE_CALLS


class BufferCache:
    """One block of memory that outlives the arrays which are made from it.

    A thread takes the block out of a deque, in one step that two threads cannot both do, and makes another block if
    there is none. So two threads never use the same block, and no lock of ours can be left locked by a fork.
    """

    def __init__(self):
        self.limit: float = math.inf  # bytes; a larger block is not kept
        self.release()

    @property
    def size(self):
        """The bytes that are kept now."""
        return sum(block.size for block in tuple(self.blocks))

    def take(self, size):
        """`size` bytes of uninitialised memory as an array of uint8: in the kept block, if that is free and fits."""
        if size > self.limit:
            return _Block(size).lend(size)
        try:
            block = self.blocks.pop()
        except IndexError:
            block = None
        if block is None or block.size < size or not block.free() or block.idle_too_long(size):
            block = None  # frees the old block before the new one is made
            block = _Block(size)
        part = block.lend(size)
        self.blocks.append(block)
        if block.size > self.limit:  # another thread has lowered the limit meanwhile
            self.release()
        return part

    def age(self):
        """Count a call, which may not need this memory at all."""
        with suppress(IndexError):
            if self.blocks[0].idle_too_long(0):
                self.release()

    def release(self):
        """Forget the block. Arrays that are made from it stay valid.

        The deque is replaced, because a fork may leave the old one's own lock locked where Python has one.
        """
        self.blocks: deque[_Block] = deque(maxlen=1)


GRADIENTS, SCRATCH = CACHES = BufferCache(), BufferCache()


def gradient_memory(entries, dtype):
    """Uninitialised memory for this many entries of a NumPy dtype, from the cache where that pays."""
    size = entries * np.dtype(dtype).itemsize
    return np.empty(entries, dtype) if size < MIN_BYTES_TO_KEEP else GRADIENTS.take(size).view(dtype)


def age_buffers():
    """Count a call. Each call does this once, so that memory which is no longer needed is given back."""
    for cache in CACHES:
        if cache.blocks:
            cache.age()


def release():
    for cache in CACHES:
        cache.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=release)  # else each write of the parent would copy a page for the child


def keep_buffers(keep: bool | int = True) -> None:
    """Whether to keep memory for the next call: True (the default), False (gives it back), or a limit in bytes.

    Only the CPU paths of PyTorch and NumPy keep memory: one block for gradients, as large as recent calls needed, and a
    scratch block of some 8 MiB. The limit holds for each block. A block is used again only when nothing refers to the
    old gradient any more, so no result ever changes later. It is given back after 32 calls in a row that needed less
    than half of it.

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
    for cache in CACHES:
        cache.limit = limit
        if cache.size > limit:
            cache.release()
