"""The plugin `cpu_seconds`: slow tests fail, and are listed."""

import shutil

import cpu_seconds
import programs
import pytest

SPINS = """
import time

def test_spins():
    start = time.process_time()
    while time.process_time() < start + 0.3:
        pass
"""


@pytest.mark.parametrize(("limit", "code"), [("0.01", 1), ("60", 0)])
def test_a_test_above_the_limit_fails_and_the_slowest_are_listed(tmp_path, limit, code):
    shutil.copy(cpu_seconds.__file__, tmp_path)
    (tmp_path / "test_spins.py").write_text(SPINS, encoding="utf-8")
    command = ("-m", "pytest", "-p", "cpu_seconds", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path)
    done = programs.run(*command, cwd=tmp_path, MULTISMOOTH_CPU_LIMIT=limit)
    assert done.returncode == code, done.stdout + done.stderr
    assert "the slowest of 1 tests" in done.stdout
    assert ("took 0.3 CPU seconds, more than" in done.stdout) == bool(code)


def test_the_limit_is_higher_on_a_slower_machine(monkeypatch):
    assert cpu_seconds.slowness() >= 1
    monkeypatch.setattr(cpu_seconds, "seconds_of_a_loop", lambda _: 3 * cpu_seconds.ON_OUR_MACHINE)
    assert cpu_seconds.slowness() == pytest.approx(3)
