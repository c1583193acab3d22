"""Work in parts on the cores of this process. Kernels let go of the interpreter's lock, so plain threads are enough."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

_pools: dict = {}
_lock = threading.Lock()


def cores():
    """The cores that this process may use; OMP_NUM_THREADS lowers it, as it does for everybody else."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(available, int(asked)) if asked.isdigit() and int(asked) > 0 else available


def _pool(workers):
    """A pool of this process: threads do not survive a fork."""
    with _lock:
        key = os.getpid(), workers
        if key not in _pools:
            _pools.clear()
            _pools[key] = ThreadPoolExecutor(workers, thread_name_prefix="multismooth")
        return _pools[key]


def share(work, parts, workers):
    """[work(part) for part in parts], on this thread and `workers − 1` others, each taking the next part that is left.

    The caller works too: where the others are slow to wake up, it is done before they are.
    """
    results = [None] * len(parts)
    left = iter(range(len(parts)))  # next() of a range is one step of the interpreter: no two threads get the same

    def take():
        for index in left:
            results[index] = work(parts[index])

    helpers = min(workers, len(parts)) - 1
    if helpers <= 0:
        return [work(part) for part in parts]
    pool = _pool(workers - 1)
    waiting = [pool.submit(copy_context().run, take) for _ in range(helpers)]
    take()
    for future in waiting:
        if not future.cancel():
            future.result()
    return results
