"""Work in parts, shared among the cores of this process.

Kernels release the interpreter's lock, so plain threads are enough. Nothing here needs that lock: what several threads
use is a deque, a queue or a lock.
"""

import math
import os
import threading
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from functools import lru_cache, partial
from queue import SimpleQueue

# --- how many --------------------------------------------------------------------------------------------------------


def cores():
    """How many cores this process may use: those that it is bound to, up to its container's quota.

    OMP_NUM_THREADS lowers the number, as in other libraries. It may be a list with a number for each level of nesting;
    the first one counts.
    """
    available = min(_affinity(), _quota())
    requested = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(available, int(requested)) if requested.isdigit() and int(requested) > 0 else available


def _affinity():
    """The number of cores that the process is bound to."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13; it respects PYTHON_CPU_COUNT, too
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def _quota(groups="/proc/self/cgroup", mounted="/sys/fs/cgroup"):
    """The cores that Linux grants to the control groups (version 1 or 2) of this process; infinite without a limit."""
    lowest = math.inf
    with suppress(OSError), open(groups) as file:
        for line in file:
            _, controllers, path = line.strip().split(":", 2)
            if controllers == "":
                bases, names = (mounted, f"{mounted}/unified"), ("cpu.max",)
            elif "cpu" in controllers.split(","):
                bases, names = (f"{mounted}/{controllers}", f"{mounted}/cpu"), ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            else:
                continue
            steps = [step for step in path.split("/") if step]
            for base in bases:
                for depth in range(len(steps) + 1):  # the limits of all groups above hold, too
                    lowest = min(lowest, _granted_by("/".join([base, *steps[:depth]]), names))
    return lowest if lowest == math.inf else math.ceil(lowest)


def _granted_by(folder, names):
    """Quota divided by period of one control group."""
    words = []
    try:
        for name in names:
            with open(f"{folder}/{name}") as file:
                words += file.read().split()
        quota, period = map(int, words)
    except (OSError, ValueError):  # no such group in this container's view, or "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


# --- the work --------------------------------------------------------------------------------------------------------


class _Helpers:
    """Threads that wait for work. They are daemons, so that the interpreter can end while they wait.

    A pool of the standard library has to be told to end. It can hang there, if an interrupt hit one of its threads.
    """

    queue: SimpleQueue
    threads: list[threading.Thread]

    def __init__(self):
        self.begin()

    def begin(self):
        self.queue, self.threads = SimpleQueue(), []

    def ask(self, calls):
        """Hand each call to a thread of its own; to fewer where the system starts no more threads."""
        with suppress(RuntimeError):  # as when the interpreter ends
            while len(self.threads) < len(calls):
                thread = threading.Thread(target=self.serve, name="multismooth", daemon=True)
                thread.start()
                self.threads.append(thread)
        for call in calls[: len(self.threads)]:  # a call that nobody takes would stay in the queue for ever
            self.queue.put(call)

    def serve(self):
        while True:
            self.queue.get()()


_helpers = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.begin)  # threads do not survive a fork


class _Job:
    """The parts of one call. The caller works on them, and each helper does while it holds its own lock.

    At the end the caller takes all the locks: that waits for the helpers at work, and keeps others from beginning.
    """

    def __init__(self, work, parts, helpers):
        self.work, self.left, self.results, self.errors = work, deque(enumerate(parts)), [None] * len(parts), []
        self.locks = [threading.RLock() for _ in range(helpers)]

    def take(self):
        """Work on parts, one after the other, until none is left. After an error nobody takes another."""
        try:
            while True:
                try:
                    index, part = self.left.popleft()  # a deque hands out each part once, to whatever thread
                except IndexError:
                    return
                self.results[index] = self.work(part)
        except BaseException as error:
            self.left.clear()
            self.errors.append(error)

    def help(self, lock):
        """What a helper thread does, unless the call has ended before."""
        if lock.acquire(blocking=False):
            try:
                self.take()
            finally:
                lock.release()

    def end(self):
        """Return when nobody works on a part, and nobody will. The caller may call this twice."""
        self.left.clear()
        for lock in self.locks:
            while True:
                try:
                    lock.acquire()
                    break
                except BaseException as error:  # Ctrl-C: even then wait for the part that a helper is at
                    self.errors.append(error)
        self.work = self.results = None  # a helper that comes too late must keep no array alive


def share(work, parts, workers):
    """[work(part) for part in parts], on this thread and `workers − 1` others, each taking the next part that is left.

    This thread works too: where the others are slow to wake up, it has finished before. However the call ends, nobody
    works on a part afterwards. If a part raises, the first error of any thread is raised here.
    """
    helpers = min(workers, len(parts)) - 1
    if helpers <= 0:
        return [work(part) for part in parts]
    job = _Job(work, parts, helpers)
    results, errors = job.results, job.errors
    try:
        try:
            _helpers.ask([partial(copy_context().run, job.help, lock) for lock in job.locks])
            job.take()
        finally:
            job.end()
    finally:
        job.end()  # an interrupt may have ended the first call before it began
    if errors:
        _raise_first(errors)
    return results


def _raise_first(errors):
    error = errors[0]
    errors.clear()  # else the error would keep itself alive through its traceback, and the arrays of this call
    try:
        raise error
    finally:
        del error
