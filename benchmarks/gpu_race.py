"""How `gpu.py` measures: the contenders of a problem in random order, each with new numbers and a cold L2 cache."""

import gc
import random
import statistics
import time
from functools import partial

import torch

import multismooth

WARM_UP_ROUNDS = 3  # they do not count


class DeadDevice(Exception):
    """A contender left the CUDA context unusable. This process can measure nothing more."""


# --- clocks ---------------------------------------------------------------------------------------------------------


class Device:
    """Where the contenders run, and its clock: CUDA events on a GPU, the wall clock on a CPU."""

    def __init__(self, kind):
        self.kind = kind
        if kind == "cuda":
            size = 4 * torch.cuda.get_device_properties(0).L2_cache_size
            self.cache_filler = torch.zeros(max(size, 2**28) // 4, device=kind)

    def synchronize(self, result=None):
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run):
        if self.kind == "cpu":
            return wall_seconds(run, self.synchronize, 1)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.cache_filler.sum()  # fills the L2 cache with clean lines, so that no contender finds its data there
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1000

    def run_with_peak(self, run):
        """(result, peak memory above the memory before, in bytes; None on a CPU)."""
        if self.kind == "cpu":
            return run(), None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return run(), torch.cuda.max_memory_allocated() - before

    def free(self):
        if self.kind == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def wall_seconds(run, synchronize, calls):
    """Seconds per call by the wall clock, of `calls` successive calls."""
    synchronize(None)
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
    synchronize(result)
    return (time.perf_counter() - start) / calls


# --- one problem ----------------------------------------------------------------------------------------------------


class Race:
    """The contenders of one problem: their functions, and the reasons of those that are left out."""

    def __init__(self, problem, contenders, device, without=()):
        self.problem, self.device, self.runs = problem, device, {}
        self.contenders = {contender.name: contender for contender in contenders}
        self.reasons = {name: "not requested" for name in self.contenders if name.startswith(tuple(without))}
        for name in self.running():
            self.runs[name] = self.attempt(name, self.contenders[name].make, problem)

    def attempt(self, name, step, *arguments):
        """The result of a step of a contender. None if it fails: then the contender is left out."""
        try:
            return step(*arguments)
        except Exception as error:  # other libraries raise any kind of exception; the other contenders are still timed
            lines = str(error).strip().splitlines() or [""]
            self.reasons[name] = f"{type(error).__name__}: {lines[0]}"
        try:
            self.device.synchronize()
        except Exception as error:
            hint = f"{name} left the device unusable ({self.reasons[name]}); run again with --without {name!r}"
            raise DeadDevice(hint) from error
        self.device.free()
        return None

    def running(self):
        return [name for name in self.contenders if name not in self.reasons]

    def medians(self, rounds, clock, on_round=lambda: None):
        """{name: median seconds}. In each round all contenders run, in random order."""
        times = {name: [] for name in self.running()}
        for seed in range(WARM_UP_ROUNDS + rounds):
            for name in random.sample(self.running(), len(self.running())):
                self.problem.fill(seed)
                times[name].append(self.attempt(name, clock, self.runs[name]))
            on_round()
        return {name: statistics.median(times[name][WARM_UP_ROUNDS:]) for name in self.running()}

    def check(self, name, references):
        """(errors or None, extra memory, implementations of this library that ran) of one more call."""
        contender = self.contenders[name]
        key = contender.smoothing, contender.upstream
        self.problem.fill(0)
        if key not in references and contender.smoothing is not None:
            references[key] = self.problem.exact(contender)
        with multismooth.implementation() as ran:
            result, extra = self.device.run_with_peak(self.runs[name])
        return self.problem.error(result, references[key], contender) if key in references else None, extra, ran


def measure(problem, contenders, device, options, on_round):
    """(rows, left out) of a problem. The first contender is the floor."""
    race = Race(problem, contenders, device, options.without)
    found = race.medians(options.rounds, device.seconds, on_round)
    by_wall = partial(wall_seconds, synchronize=device.synchronize, calls=20)
    walls = race.medians(options.rounds, by_wall) if problem.small else {}
    references, about, floor = {}, {"shape": list(problem.shape), "dtype": problem.group}, contenders[0].name
    checks = {name: race.attempt(name, race.check, name, references) for name in race.running()}
    if floor in race.reasons:
        raise RuntimeError(f"the floor could not be measured: {race.reasons[floor]}")
    rows = []
    for name in race.running():
        errors, extra, ran = checks[name]
        row = about | {"name": name, "seconds": found[name], "ratio": found[name] / found[floor]}
        row |= {"error": errors, "memory": None if extra is None else extra / problem.bytes}
        row |= {"remark": race.contenders[name].remark, "ran": sorted(set(ran))}
        rows.append(row | ({"wall": walls[name]} if walls else {}))
    return rows, [about | {"name": name, "reason": reason} for name, reason in race.reasons.items()]
