"""What outlives a call: machine code on disk, helper threads, memory that is kept. Mostly in processes of their own."""

import gc
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
import weakref
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import programs
import pytest
from requirements import need

import multismooth
from multismooth.cpu import buffers, threads

PACKAGE = Path(multismooth.__file__).parent
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def python(code, place=PACKAGE.parent, /, *, limit=300, **variables):
    """What a new process prints that imports the package from `place`; a variable that is None is taken away."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(place), *filter(None, sys.path)])}
    for name, value in variables.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = str(value)
    command = [sys.executable, "-P", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def forked(code, place, /, **variables):
    """The same in a fork of a process that has imported Numba, which takes half a second, and nothing of ours."""
    code = f"import sys\nsys.path.insert(0, {str(place)!r})\n{code}"
    variables = {name: value if value is None else str(value) for name, value in variables.items()}
    done = programs.run("-c", code, imports=("numba",), **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- machine code on disk -------------------------------------------------------------------------------------------

# 1 + 2⁻⁸ lies between two bfloat16. `rounded`, which rounds it, is inlined from another file than `store` is in. Only
# compiled functions can call `store`.
ROUNDED = """
import numba
import numpy as np
from multismooth.cpu.compiled import by_rows
{more}
out = np.zeros(1, np.uint16)
numba.njit(lambda out, e: by_rows.store(out, e))(out, np.full(1, 1 + 2.0**-8, np.float32))
stats = by_rows.store.stats
print(hex(out[0]), "found" if stats.cache_hits else "compiled")
"""
LOSS = """
import numpy as np
import multismooth.numpy
z = np.array([[-2, 0, 1], [3, 1, -4]], np.float32)
print(round(float(multismooth.numpy.loss(z, np.array([0, 1]))), 4), end=" ")
from multismooth.cpu.compiled import by_columns
print("found" if by_columns.images.stats.cache_hits else "compiled")
"""
ROUNDING, LOG_OF_TWO = ("0x7FFF", "0x8FFF"), ("0.6931471805599453", "0.6131471805599453")


@pytest.fixture
def copied(tmp_path):
    """A copy of the package, and what its processes are told of places: the package's own, and a user's without any."""
    need("numba")
    target, nowhere = tmp_path / "multismooth", tmp_path / "file"
    nowhere.write_text("no folder can be made below a file")
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("__pycache__"))
    home = {"HOME": nowhere, "XDG_CACHE_HOME": nowhere, "NUMBA_CACHE_DIR": None, "OMP_NUM_THREADS": 1}
    return target, home | {"PYTHONDONTWRITEBYTECODE": 1}


def changed(package, before, after):
    """Another constant in the file of helpers, which stays as long and, by its date, as old as it was."""
    path = package / "cpu" / "compiled" / "arithmetic.py"
    date, text = path.stat(), path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))
    os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))


def rounded(package, home, more="", run=forked):
    return run(ROUNDED.format(more=textwrap.dedent(more)), package.parent, **home)


def test_a_changed_helper_recompiles_a_loss_and_an_unchanged_one_does_not(copied):
    package, home = copied
    assert python(LOSS, package.parent, **home) == "2.705 compiled"
    assert python(LOSS, package.parent, **home) == "2.705 found"
    changed(package, *LOG_OF_TWO)
    value, origin = python(LOSS, package.parent, **home).split()
    assert abs(float(value) - 2.705) > 0.001
    assert origin == "compiled"


@pytest.mark.thorough
def test_each_state_of_the_helpers_finds_its_own_code(copied):
    package, home = copied
    assert rounded(package, home) == "0x3f80 compiled"
    changed(package, *ROUNDING)
    assert rounded(package, home) == "0x3f81 compiled"
    assert rounded(package, home) == "0x3f81 found"
    changed(package, *reversed(ROUNDING))
    assert rounded(package, home) == "0x3f80 found"


@pytest.mark.thorough
def test_machine_code_is_filed_under_the_code_that_ran_not_under_what_its_file_says_by_now(copied):
    """Python itself runs old bytecode if size and date are the same; what is then compiled is not the new file's."""
    package, home = copied
    home["PYTHONDONTWRITEBYTECODE"] = None
    assert rounded(package, home) == "0x3f80 compiled"
    changed(package, *ROUNDING)
    assert rounded(package, home) == "0x3f80 found"
    for path in package.rglob("arithmetic.*.pyc"):
        path.unlink()
    assert rounded(package, home) == "0x3f81 compiled"
    replaced = f"""
        from pathlib import Path
        path = Path(by_rows.__file__).with_name("arithmetic.py")
        path.write_text(path.read_text().replace({ROUNDING[1]!r}, {ROUNDING[0]!r}))
    """
    shutil.rmtree(package / "cpu" / "compiled" / "__pycache__")
    assert rounded(package, home, replaced) == "0x3f81 compiled"
    assert rounded(package, home) == "0x3f80 compiled"


def test_an_upgrade_compiles_anew(copied):
    package, home = copied
    more = "import numpy; numpy.__version__ += '.1'"
    assert rounded(package, home, more) == "0x3f80 compiled"
    assert rounded(package, home) == "0x3f80 compiled"
    assert rounded(package, home, more) == "0x3f80 found"


def test_the_digest_is_of_all_that_compiles_and_of_how(monkeypatch):
    """Numba's own files say only which Numba wrote them, and for which processor."""
    numba, numpy, llvmlite = map(need, ("numba", "numpy", "llvmlite"))
    from multismooth.cpu.compiled import disk

    before = {disk.digest()}
    for place, name, value in (
        (numba, "__version__", "9"),
        (numpy, "__version__", "9"),
        (llvmlite, "__version__", "9"),
        (sys, "version", "9"),
        (numba.config, "OPT", 0),
        (numba.config, "BOUNDSCHECK", 1),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, value)
            assert disk.digest() not in before
            before.add(disk.digest())


def test_every_module_of_the_kernels_is_in_the_digest():
    need("numba")
    from multismooth.cpu.compiled import disk

    there = {name for name in sys.modules if name.startswith("multismooth.cpu.compiled.")} - {disk.__name__}
    known = {code.co_filename for code, _ in disk._modules}
    assert known == {sys.modules[name].__file__ for name in there}


def test_damaged_files_are_compiled_anew(copied):
    package, home = copied
    rounded(package, home)
    paths = list(package.rglob("by_rows.store*.nb?"))
    assert paths
    for path in paths:
        path.write_bytes(path.read_bytes()[:-7])
    assert rounded(package, home) == "0x3f80 compiled"
    assert rounded(package, home) == "0x3f80 found"


def test_a_file_is_read_whole_or_not_at_all(tmp_path):
    need("numba")
    from multismooth.cpu.compiled import disk

    files = disk.Files(str(tmp_path), "f")
    for damage in (lambda data: b"", lambda data: data[:-7], lambda data: data[:-99] + bytes(99)):
        files.save("key", b"code" * 99)
        assert files.load("key") == b"code" * 99
        (path,) = tmp_path.rglob("*.nbc")
        path.write_bytes(damage(path.read_bytes()))
        assert files.load("key") is None


def test_without_a_place_to_write_everything_works(copied):
    package, home = copied
    (package / "cpu" / "compiled" / "__pycache__").write_text("a file, where a folder is wanted")
    assert rounded(package, home) == "0x3f80 compiled"
    assert rounded(package, home) == "0x3f80 compiled"


def test_a_place_that_is_lost_meanwhile_is_done_without(copied):
    """As a disk that is full, or mounted read-only, by the time that there is something to write."""
    package, home = copied
    more = """
        import shutil
        from pathlib import Path
        place = Path(by_rows.__file__).with_name("__pycache__")
        shutil.rmtree(place)
        place.write_text("a file, where the folder was")
    """
    assert rounded(package, home, more) == "0x3f80 compiled"


def test_a_read_only_installation_keeps_its_code_with_the_user(copied):
    package, home = copied
    (package / "cpu" / "compiled" / "__pycache__").write_text("a file, where a folder is wanted")
    home = home | {"HOME": package.parent / "home", "XDG_CACHE_HOME": package.parent / "cache"}
    assert rounded(package, home) == "0x3f80 compiled"
    assert rounded(package, home) == "0x3f80 found"


def test_from_a_zip_without_a_place_to_write(copied):
    package, home = copied
    archive = package.parent / "all.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in package.rglob("*.py"):
            file.write(path, path.relative_to(package.parent))
    shutil.rmtree(package)
    assert forked(ROUNDED.format(more=""), archive, **home) == "0x3f80 compiled"


def test_processes_that_write_at_once_do_not_take_each_others_code(tmp_path):
    """Two that begin with the same index, as Numba keeps one, write one file for two signatures."""
    need("numba")
    from multismooth.cpu.compiled import disk

    first, second = disk.Files(str(tmp_path), "f"), disk.Files(str(tmp_path), "f")
    first.save("float32", b"single" * 999)
    second.save("float64", b"double" * 999)
    first.save("float64", b"double" * 999)
    assert first.load("float32") == second.load("float32") == b"single" * 999
    assert first.load("float64") == second.load("float64") == b"double" * 999
    assert first.load("float16") is None
    assert len(list(tmp_path.rglob("*"))) == 3


def test_three_processes_compile_at_once(copied):
    package, home = copied
    with ThreadPoolExecutor(3) as pool:
        for value in pool.map(lambda _: rounded(package, home, run=python), range(3)):
            assert value.startswith("0x3f80")
    assert rounded(package, home) == "0x3f80 found"


def test_old_folders_of_machine_code_are_removed(tmp_path):
    need("numba")
    from multismooth.cpu.compiled import disk

    for day in range(20):
        (old := tmp_path / f"{disk.PREFIX}{day}").mkdir()
        os.utime(old, (day, day))
    (tmp_path / "other").mkdir()
    disk.Files(str(tmp_path), "f").save("key", b"")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"other", disk.PREFIX + disk.digest(), *(f"{disk.PREFIX}{day}" for day in range(13, 20))}


def test_with_the_compiler_switched_off_other_kernels_compute():
    need("numba")
    code = """
        import numpy as np
        import multismooth
        z = np.zeros((40, 100), np.float32)
        with multismooth.implementation() as ran:
            multismooth.loss_and_grad(z, np.zeros(40, int))
        print(ran)
    """
    assert python(code, NUMBA_DISABLE_JIT=1) == "['chunked']"


# --- helper threads -------------------------------------------------------------------------------------------------


class Workers:
    """Parts that say who is at one. The caller's wait until a helper has begun, a helper's take as long as told."""

    def __init__(self, caller, helper):
        self.caller, self.helper, self.main = caller, helper, threading.get_ident()
        self.begun, self.busy, self.done = threading.Event(), 0, []

    def __call__(self, part):
        if threading.get_ident() == self.main:
            assert self.begun.wait(30)
            return self.caller()
        self.busy += 1
        self.begun.set()
        try:
            return self.helper()
        finally:
            self.busy -= 1
            self.done.append(part)


def fails(error, after=0.0):
    def run():
        time.sleep(after)
        raise error

    return run


def test_after_an_error_nobody_works_any_more():
    work = Workers(caller=fails(KeyError("caller")), helper=lambda: time.sleep(0.3))
    with pytest.raises(KeyError, match="caller"):
        threads.share(work, range(50), 2)
    assert work.busy == 0
    assert len(work.done) == 1
    time.sleep(0.1)
    assert len(work.done) == 1


@pytest.mark.parametrize("error", [KeyError("helper"), KeyboardInterrupt("helper"), SystemExit("helper")])
def test_the_first_error_is_raised(error):
    work = Workers(caller=fails(ValueError("caller"), after=0.3), helper=fails(error))
    with pytest.raises(type(error), match="helper"):
        threads.share(work, range(50), 2)
    assert len(work.done) == 1


def test_an_interrupted_caller_waits_for_its_helpers():
    """Also when it is interrupted again while it waits."""
    code = """
        import signal, threading, time
        from multismooth.cpu import threads

        main, begun, busy, done = threading.main_thread().ident, threading.Event(), [], []
        def interrupt():
            for _ in range(3):
                time.sleep(0.1)
                signal.pthread_kill(main, signal.SIGINT)

        def work(part):
            if threading.get_ident() == main:
                begun.wait()
                raise KeyboardInterrupt if part % 2 else ValueError
            busy.append(part)
            begun.set()
            interrupt()
            time.sleep(0.2)
            done.append(busy.pop())

        for parts in (range(0, 50, 2), range(1, 51, 2)):
            done.clear()
            begun.clear()
            try:
                threads.share(work, parts, 2)
            except (KeyboardInterrupt, ValueError) as error:
                print(type(error).__name__, busy, len(done))
        time.sleep(0.1)
        print(busy, len(done))
    """
    assert python(code) == "ValueError [] 1\nKeyboardInterrupt [] 1\n[] 1"


def test_interrupts_at_any_moment_leave_nobody_at_work():
    code = """
        import random, signal, threading, time
        from multismooth.cpu import threads

        busy, wrong, alarms, interrupted = set(), 0, random.Random(0), 0
        def work(part):
            if threading.current_thread() is not threading.main_thread():
                busy.add(part)
                time.sleep(0.0005)
                busy.remove(part)
            else:
                time.sleep(0.0003)

        def alarm(seconds):
            signal.setitimer(signal.ITIMER_REAL, seconds)

        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for _ in range(400):
            try:
                alarm(alarms.uniform(0.0001, 0.003))
                threads.share(work, range(20), 3)
                alarm(0)
            except KeyboardInterrupt:
                interrupted += 1
            wrong += len(busy)
            time.sleep(0.001)
            wrong += len(busy)
        print(wrong, interrupted > 100)
    """
    assert python(code, limit=60) == "0 True"


def test_errors_of_parts_that_look_like_an_empty_queue_come_out():
    with pytest.raises(IndexError, match="mine"):
        threads.share(lambda part: fails(IndexError("mine"))(), range(9), 3)


def test_work_within_work_ends():
    code = """
        from multismooth.cpu.threads import share

        def count(depth):
            return 1 if depth == 0 else sum(share(count, [depth - 1] * 5, 4))
        print(count(5))
    """
    assert python(code, limit=60) == str(5**5)


def test_when_the_interpreter_ends_the_caller_works_alone():
    code = """
        import atexit
        from multismooth.cpu.threads import share

        print(share(abs, [-1, -2, -3], 3))
        atexit.register(lambda: print(share(abs, [-4, -5, -6], 3)))
    """
    assert python(code) == "[1, 2, 3]\n[4, 5, 6]"


def test_without_more_threads_the_caller_works_alone(monkeypatch):
    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads, "_helpers", threads._Helpers())
    monkeypatch.setattr(threading.Thread, "start", start)
    for _ in range(3):
        assert threads.share(abs, [-1, -2, -3], 3) == [1, 2, 3]
    assert threads._helpers.queue.empty()  # nobody would ever take a call out of it


def test_an_error_keeps_nothing_alive():
    class Array:
        pass

    def call():
        array = Array()

        def work(part):
            raise KeyError(id(array))

        try:
            threads.share(work, range(9), 3)
        except KeyError:
            return weakref.ref(array)

    gc.disable()
    try:
        found = call()
        until = time.monotonic() + 10
        while found() is not None and time.monotonic() < until:  # a helper may be at its last step
            time.sleep(0.01)
        assert found() is None
    finally:
        gc.enable()


def test_a_helper_that_comes_too_late_keeps_nothing_alive():
    class Array:
        pass

    hold, held = threading.Event(), threading.Semaphore(0)

    def wait(part):
        held.release()
        return hold.wait(60)

    callers = [threading.Thread(target=threads.share, args=(wait, range(2), 2)) for _ in range(20)]
    for caller in callers:
        caller.start()
    try:
        for _ in callers:
            assert held.acquire(timeout=30)
        time.sleep(0.2)
        array = Array()
        results = threads.share(lambda part, array=array: Array(), range(4), 2)
        left = [weakref.ref(value) for value in (array, *results)]
        del array, results
        gc.collect()
        assert [value() for value in left] == [None] * 5
    finally:
        hold.set()
        for caller in callers:
            caller.join()


FORK = """
    import os, signal, sys, threading, warnings

    warnings.simplefilter("ignore")  # that a process with threads forks
    def forked(call):
        "Its result in a child that is given ten seconds."
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            signal.alarm(10)
            print(call(), flush=True)
            os._exit(0)
        return os.waitpid(child, 0)[1]
"""


@forks
def test_a_child_works_though_a_thread_was_starting_helpers():
    code = """
        from concurrent.futures import ThreadPoolExecutor
        from multismooth.cpu import threads

        begun, go = threading.Event(), threading.Event()
        def slowly(function):
            def run(*arguments, **names):
                if threading.current_thread() is not threading.main_thread() and os.getpid() == parent:
                    begun.set()
                    go.wait()
                return function(*arguments, **names)
            return run

        ThreadPoolExecutor.__init__ = slowly(ThreadPoolExecutor.__init__)
        threading.Thread.start = slowly(threading.Thread.start)
        parent, other = os.getpid(), threading.Thread(target=threads.share, args=(abs, [1, 2], 2))
        other.start()
        begun.wait()
        print(forked(lambda: threads.share(abs, [-1, -2, -3], 2)))
        go.set()
        other.join()
        print(threads.share(abs, [-1, -2, -3], 2))
    """
    assert python(textwrap.dedent(FORK) + textwrap.dedent(code)) == "[1, 2, 3]\n0\n[1, 2, 3]"


@forks
def test_a_child_has_helpers_of_its_own():
    code = """
        from multismooth.cpu import threads

        def names(part):
            entered.wait(5)
            return threading.get_ident()

        def helped():
            global entered
            entered = threading.Barrier(2)
            return len(set(threads.share(names, range(2), 2)))
        print(helped())
        print(forked(helped))
    """
    assert python(textwrap.dedent(FORK) + textwrap.dedent(code)) == "2\n2\n0"


# --- how many cores -------------------------------------------------------------------------------------------------

GROUPS = {
    "none": ("0::/a/b\n", {}, float("inf")),
    "without a limit": ("0::/\n", {"cpu.max": "max 100000"}, float("inf")),
    "of the process": ("0::/a/b\n", {"a/b/cpu.max": "250000 100000"}, 3),
    "of a group above": ("0::/a/b\n", {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}, 1),
    "of a container that sees itself as the root": ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    "of a container that sees the host's path": ("0::/docker/1f\n", {"cpu.max": "200000 100000"}, 2),
    "version 1": (
        "5:memory:/x\n4:cpu,cpuacct:/x\n",
        {"cpu,cpuacct/x/cpu.cfs_quota_us": "150000", "cpu,cpuacct/x/cpu.cfs_period_us": "100000"},
        2,
    ),
    "version 1 without a limit": (
        "4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"},
        float("inf"),
    ),
    "garbled": ("0::/a\n", {"a/cpu.max": "lots"}, float("inf")),
}


@pytest.mark.parametrize(("own", "files", "expected"), GROUPS.values(), ids=GROUPS)
def test_a_container_s_quota_is_kept(tmp_path, monkeypatch, own, files, expected):
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    assert threads._quota(str(tmp_path / "own"), str(tmp_path / "mounted")) == expected
    assert threads._quota(str(tmp_path / "no file"), str(tmp_path / "mounted")) == float("inf")
    monkeypatch.setattr(threads, "_quota", lambda: expected)
    monkeypatch.setattr(threads, "_affinity", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads.cores() == min(8, expected)
    for asked in ("1", " 1 ", "1,4"):
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
        assert threads.cores() == 1


# --- memory that is kept --------------------------------------------------------------------------------------------

MIB = 2**20


@forks
def test_a_child_computes_though_a_thread_was_making_a_buffer():
    code = """
        import numpy as np
        from multismooth.cpu import buffers

        begun, go, empty = threading.Event(), threading.Event(), np.empty
        class Slow:
            def __getattr__(self, name):
                return getattr(np, name)

            def empty(self, *arguments, **names):
                if threading.current_thread() is not threading.main_thread():
                    begun.set()
                    go.wait()
                return empty(*arguments, **names)

        buffers.np = Slow()
        other = threading.Thread(target=buffers.gradient_memory, args=(2**20, np.float32))
        other.start()
        begun.wait()
        print(forked(lambda: buffers.gradient_memory(2**20, np.float32).nbytes))
        go.set()
        other.join()
    """
    assert python(textwrap.dedent(FORK) + textwrap.dedent(code)) == "4194304\n0"


@forks
def test_a_child_starts_without_the_memory_of_its_parent():
    code = """
        import numpy as np
        from multismooth.cpu import buffers

        def kept():
            return sum(block.size for block in (buffers.GRADIENTS, buffers.SCRATCH))
        buffers.gradient_memory(2**20, np.float32)
        buffers.SCRATCH.take(100)
        print(forked(kept))
        print(kept())
    """
    assert python(textwrap.dedent(FORK) + textwrap.dedent(code)) == "0\n0\n4194404"


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize("wanted", [True, False], ids=["gradient", "loss"])
@pytest.mark.parametrize("shape", [(64, 10), (700, 1000)], ids=str)
def test_memory_that_was_needed_once_is_given_back(framework, wanted, shape):
    need(framework)
    module = need(f"multismooth.{framework}")
    rng = np.random.default_rng(0)

    def problem(*shape):
        z, y = rng.standard_normal(shape, np.float32), rng.integers(0, shape[1], shape[0])
        if framework == "torch":
            from_numpy = need("torch").from_numpy
            return from_numpy(z), from_numpy(y)
        return z, y

    large, small = problem(4000, 1000), problem(*shape)
    call = module.loss_and_grad if wanted else module.loss
    module.loss_and_grad(*large)  # what is compiled stays
    call(*small)
    buffers.GRADIENTS.release()
    gc.collect()
    tracemalloc.start()
    try:
        module.loss_and_grad(*large)
        assert tracemalloc.get_traced_memory()[0] > 15 * MIB
        for _ in range(100):
            call(*small)
        assert tracemalloc.get_traced_memory()[0] < 4 * MIB
    finally:
        tracemalloc.stop()


def test_memory_is_kept_through_a_few_smaller_calls():
    kept = buffers.BufferCache()
    address = kept.take(9 * MIB).ctypes.data
    for _ in range(5):
        for _ in range(buffers.MAX_IDLE_CALLS):
            assert kept.take(MIB).ctypes.data == address
        assert kept.take(8 * MIB).ctypes.data == address
        for _ in range(buffers.MAX_IDLE_CALLS):
            kept.age()
        assert kept.take(5 * MIB).ctypes.data == address
    for _ in range(buffers.MAX_IDLE_CALLS + 1):
        kept.take(MIB)
    assert kept.size == MIB
    for _ in range(buffers.MAX_IDLE_CALLS + 1):
        kept.age()
    assert kept.size == 0


def test_the_bytes_that_are_kept_have_a_limit():
    try:
        multismooth.keep_buffers(8 * MIB)
        for entries, kept in ((7 * MIB, 7 * MIB), (9 * MIB, 7 * MIB), (8 * MIB, 8 * MIB)):
            assert buffers.gradient_memory(entries, np.uint8).nbytes == entries
            assert buffers.GRADIENTS.size == kept
        multismooth.keep_buffers(4 * MIB)
        assert buffers.GRADIENTS.size == 0
        for wrong in (-1, 0.5, "much", None):
            with pytest.raises(ValueError, match="`keep`: expected True, False or a number of bytes"):
                multismooth.keep_buffers(wrong)
        assert buffers.GRADIENTS.limit == 4 * MIB
    finally:
        multismooth.keep_buffers()


def test_the_scratch_is_given_back_too():
    torch, module = need("torch"), need("multismooth.torch")
    z, y = torch.zeros(2000, 1000), torch.zeros(2000, dtype=torch.int64)
    with multismooth.implementation("chunked"):
        module.loss(z, y)
        assert buffers.SCRATCH.size > 0
        multismooth.keep_buffers(False)
        try:
            assert buffers.SCRATCH.size == 0
            module.loss(z, y)
            assert buffers.SCRATCH.size == 0
        finally:
            multismooth.keep_buffers()


@pytest.fixture
def hasty():
    """The interpreter goes from thread to thread as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_no_two_threads_get_the_same_memory(hasty):
    kept, wrong = buffers.BufferCache(), []

    def use(number):
        for turn in range(400):
            memory = kept.take(1000 + 100 * (turn % 3))
            part = memory[::7] if turn % 2 else memory.view(np.uint8)
            del memory
            part[...] = number
            for _ in range(20):
                pass
            if (part != number).any():
                wrong.append(number)

    together = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert not wrong


def test_losses_of_several_threads_do_not_share_a_scratch(hasty):
    torch, module = need("torch"), need("multismooth.torch")
    problems = [
        (torch.randn(rows, 2000, generator=torch.Generator().manual_seed(rows)), torch.arange(rows) % 2000)
        for rows in (301, 400, 533)
    ]

    def computed(problem):
        with multismooth.implementation("chunked"):
            return [x.clone() for x in module.loss_and_grad(*problem)]

    alone = [computed(problem) for problem in problems]
    with ThreadPoolExecutor(6) as pool:
        for number, found in enumerate(pool.map(computed, problems * 8)):
            for mine, right in zip(found, alone[number % 3], strict=True):
                assert torch.equal(mine, right)


def views():
    """Far from what was lent: the chain of NumPy's bases must not lead past it."""
    yield lambda x: x[3:9][1:]
    yield lambda x: x.view(np.float32).reshape(-1, 4).T[1]
    yield lambda x: np.lib.stride_tricks.as_strided(x, (5,), (3,))
    yield lambda x: np.asarray(memoryview(x)[5:])
    yield lambda x: np.frombuffer(x, np.int32)[2:]
    yield lambda x: np.from_dlpack(x)


def views_of_torch():
    torch = need("torch")
    yield lambda x: torch.from_numpy(x[4:]).view(-1)[::2].detach()
    yield lambda x: torch.from_numpy(x).view(torch.float32)[3:].numpy()
    yield lambda x: torch.utils.dlpack.from_dlpack(x)
    yield lambda x: torch.frombuffer(x, dtype=torch.int32, offset=8)


@pytest.mark.parametrize("made", [views, views_of_torch])
def test_memory_is_free_when_the_last_view_is_gone_and_not_before(made):
    for view in made():
        kept = buffers.BufferCache()
        lent = kept.take(MIB)
        address, part = lent.ctypes.data, view(lent)
        del lent
        gc.collect()
        other = kept.take(MIB)
        assert other.ctypes.data != address
        address = other.ctypes.data
        del part, other
        gc.collect()
        assert kept.take(MIB).ctypes.data == address
