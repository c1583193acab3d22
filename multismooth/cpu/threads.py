"""Work in parts on the cores of this process. Kernels let go of the interpreter's lock, so plain threads are enough."""

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
    """The cores that this process may use: those it is bound to, as many as its container's quota is worth.

    OMP_NUM_THREADS lowers it, as it does for everybody else; of a list, a number for each level, the first counts.
    """
    available = min(_bound(), _quota())
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(available, int(asked)) if asked.isdigit() and int(asked) > 0 else available


def _bound():
    if hasattr(os, "process_cpu_count"):  # Python 3.13; it listens to PYTHON_CPU_COUNT, too
        return os.process_cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@lru_cache
def _quota(groups="/proc/self/cgroup", mounted="/sys/fs/cgroup"):
    """The cores that Linux grants the control groups of this process, of either version; infinite without a limit."""
    least = math.inf
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
                for depth in range(len(steps) + 1):  # a limit of any group above holds, too
                    least = min(least, _granted("/".join([base, *steps[:depth]]), names))
    return least if least == math.inf else math.ceil(least)


def _granted(folder, names):
    """Quota over period of one control group."""
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
    """Threads that wait for calls. As daemons: what they wait for is nothing that the end of the interpreter waits for.

    A pool of the standard library has to be told to end, and one of whose threads an interrupt kept it from taking
    notice hangs there.
    """

    calls: SimpleQueue
    threads: list[threading.Thread]

    def __init__(self):
        self.begin()

    def begin(self):
        self.calls, self.threads = SimpleQueue(), []

    def ask(self, number, calls):
        for call in calls:
            self.calls.put(call)
        while len(self.threads) < number:
            thread = threading.Thread(target=self.serve, name="multismooth", daemon=True)
            thread.start()
            self.threads.append(thread)

    def serve(self):
        while True:
            self.calls.get()()


_helpers = _Helpers()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.begin)  # threads do not survive a fork


class _Job:
    """The parts of a call that are left. Nobody works on one but the caller, and helpers while they hold their turn."""

    def __init__(self, work, parts, helpers):
        self.work, self.left, self.results, self.errors = work, deque(enumerate(parts)), [None] * len(parts), []
        self.turns = [threading.RLock() for _ in range(helpers)]

    def take(self):
        """Parts, one after the other, until none is left. After an error nobody takes another."""
        try:
            while True:
                try:
                    index, part = self.left.popleft()  # a deque hands out each once, whatever the interpreter locks
                except IndexError:
                    return
                self.results[index] = self.work(part)
        except BaseException as error:
            self.left.clear()
            self.errors.append(error)

    def help(self, turn):
        """What another thread does if it comes before the end."""
        if turn.acquire(blocking=False):
            try:
                self.take()
            finally:
                turn.release()

    def end(self):
        """Returns when nobody is at work any more, or will be: then the turns are the caller's, who may ask again."""
        self.left.clear()
        for turn in self.turns:
            while True:
                try:
                    turn.acquire()
                    break
                except BaseException as error:  # Ctrl-C: even then a part that was begun is waited for
                    self.errors.append(error)
        self.work = None  # a helper that comes too late keeps no array active


def share(work, parts, workers):
    """[work(part) for part in parts], on this thread and `workers − 1` others, each taking the next part that is left.

    The caller works too: where the others are slow to wake up, it is done before they are. However the call ends, no
    part is worked on afterwards; what it raises is the first error of any thread.
    """
    helpers = min(workers, len(parts)) - 1
    if helpers <= 0:
        return [work(part) for part in parts]
    job = _Job(work, parts, helpers)
    try:
        try:
            with suppress(
                RuntimeError
            ):  # no thread can be started, as when the interpreter ends: the caller does it all
                _helpers.ask(helpers, [partial(copy_context().run, job.help, turn) for turn in job.turns])
            job.take()
        finally:
            job.end()
    finally:
        job.end()  # an interrupt may have ended the first before it began to listen
    if job.errors:
        _raise_first(job.errors)
    return job.results


def _raise_first(errors):
    error = errors[0]
    errors.clear()  # or the error would hold itself, through its traceback, and the arrays of this call
    try:
        raise error
    finally:
        del error
