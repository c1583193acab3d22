"""A pytest plugin: a test that takes more than MULTISMOOTH_CPU_LIMIT CPU seconds fails, and the slowest are listed.

It counts CPU seconds, because on a shared machine a test may wait long for its turn. A module's or class's fixtures
count for the first test that needs them. Child processes count while they run on Linux, elsewhere once they have ended.
The limit is that of the machine on which the tests were timed. On a slower one it is as much higher.
"""

import os
import time
from pathlib import Path

import pytest

NAME = "cpu_seconds"
LISTED = 10
COVERAGE_FACTOR = 3  # A test takes about twice as long while coverage traces its lines.
ROUNDS, ON_OUR_MACHINE = 2_000_000, 0.015  # of an empty loop, and the CPU seconds that it took there
START = pytest.StashKey[float]()


def cpu_seconds():
    """Of this process and its children, so far."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system + sum(map(of_a_child, children()))


def children():
    """The processes that the main thread has started and that run."""
    found = Path(f"/proc/self/task/{os.getpid()}/children")
    return found.read_text().split() if found.exists() else []


def of_a_child(process):
    """The CPU seconds of a child and of its own children that have ended; none where it has just ended itself."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def slowness():
    """How many times as long as ours this machine takes for the same work, at least 1."""
    return max(1.0, min(map(seconds_of_a_loop, range(3))) / ON_OUR_MACHINE)


def seconds_of_a_loop(_):
    start = time.process_time()
    for _ in range(ROUNDS):
        pass
    return time.process_time() - start


def pytest_configure(config):
    limit = float(os.environ.get("MULTISMOOTH_CPU_LIMIT") or 0)
    if limit:
        covered = getattr(config.option, "cov_source", None)
        config.pluginmanager.register(CpuSeconds(limit * slowness() * (COVERAGE_FACTOR if covered else 1)))


class CpuSeconds:
    def __init__(self, limit):
        self.limit, self.tests = limit, []

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item):
        item.stash[START] = cpu_seconds()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item, call):
        if call.when != "teardown":
            return (yield)
        seconds = cpu_seconds() - item.stash[START]
        item.user_properties.append((NAME, seconds))  # goes with the report from an xdist worker to its controller
        report = yield
        if seconds > self.limit and report.passed:
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} took {seconds:.1f} CPU seconds, more than {self.limit:.3g}"
        return report

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            self.tests += [(seconds, report.nodeid) for name, seconds in report.user_properties if name == NAME]

    def pytest_terminal_summary(self, terminalreporter):
        total = sum(seconds for seconds, _ in self.tests)
        terminalreporter.section(f"the slowest of {len(self.tests)} tests, which took {total:.0f} CPU seconds")
        for seconds, name in sorted(self.tests, reverse=True)[:LISTED]:
            terminalreporter.line(f"{seconds:6.1f}  {name}")
