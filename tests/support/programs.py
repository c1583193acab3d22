"""Runs Python programs in forks of one process that has imported their frameworks: the imports take longer than most.

A program runs as `python -W error` runs a path, `-m module` or `-c code` and arguments: as `__main__`, with its
arguments, folder, output and exit code. Of multismooth nothing is imported before the fork. What a test process starts
first stays until its end, for all tests that run programs.
"""

import atexit
import functools
import gc
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path


def run(*command, imports=(), cwd=".", timeout=300, imported_with=(), **environment):
    """What a program printed and its exit code. The modules of `imports` are those that it may find imported.

    `imported_with`: names and values of environment variables that they read when they are imported.
    `environment`: variables of its own; one that is None is taken away.
    """
    forking = server(tuple(imported_with))
    with tempfile.TemporaryDirectory() as output:
        command = [str(word) for word in command]
        print(json.dumps([imports, [command, str(cwd), timeout, environment, output]]), file=forking.stdin, flush=True)
        code = int(forking.stdout.readline())
        texts = [(Path(output) / name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(command, code, *texts)


@functools.cache
def server(variables=()):
    command = [sys.executable, "-W", "error", __file__]
    environment = os.environ | {"MPLBACKEND": "agg"} | dict(variables)  # Matplotlib reads it when it is imported
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment, **pipes)
    atexit.register(process.communicate)  # it ends where its input ends
    return process


def serve():
    for line in sys.stdin:
        imports, wanted = json.loads(line)
        for name in imports:
            import_module(name)
        gc.freeze()  # else a fork's collector copies what is shared
        fork = multiprocessing.get_context("fork").Process(target=program, args=wanted)
        fork.start()
        fork.join()
        print(fork.exitcode, flush=True)


def program(command, cwd, timeout, environment, output):
    """The life of a fork. multiprocessing ends it without taking apart what was imported, which is half of its time."""
    signal.alarm(timeout)
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    os.chdir(cwd)
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.dup2(os.open(Path(output) / name, os.O_WRONLY | os.O_CREAT), number)
    if command[0] == "-m":
        sys.argv, sys.path[0] = command[1:], cwd
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    elif command[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *command[2:]], cwd
        exec(command[1], vars(sys.modules["__main__"]))
    else:
        sys.argv, sys.path[0] = command, str(Path(command[0]).parent)
        runpy.run_path(command[0], run_name="__main__")


if __name__ == "__main__":
    serve()
