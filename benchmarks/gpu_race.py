"""How `gpu.py` takes time: a problem's contenders in random order, each on fresh numbers and a cold L2 cache."""

import gc
import random
import statistics
import time
from functools import partial

import torch

import multismooth

WARM_UP = 3  # rounds that do not count


class DeadDevice(Exception):
    """A contender left the CUDA context unusable: nothing after it can be measured in this process."""


# --- clocks ---------------------------------------------------------------------------------------------------------


class Device:
    """Where the contenders run, and its clock: events on a GPU, the wall clock on a CPU."""

    def __init__(self, kind):
        self.kind = kind
        if kind == "cuda":
            size = 4 * torch.cuda.get_device_properties(0).L2_cache_size
            self.other = torch.zeros(max(size, 2**28) // 4, device=kind)

    def settle(self, result=None):
        if self.kind == "cuda":
            torch.cuda.synchronize()

    def seconds(self, run):
        if self.kind == "cpu":
            return wall(run, self.settle, 1)
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.other.sum()  # see the L2 cache above
        start.record()
        run()
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / 1000

    def extra(self, run):
        """(result, peak of memory above what stood before, in bytes; None on a CPU)."""
        if self.kind == "cpu":
            return run(), None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return run(), torch.cuda.max_memory_allocated() - before

    def free(self):
        if self.kind == "cuda":
            gc.collect()
            torch.cuda.empty_cache()


def wall(run, settle, calls):
    """Seconds of a call by the wall clock, `calls` in a row."""
    settle(None)
    start = time.perf_counter()
    for _ in range(calls):
        result = run()
    settle(result)
    return (time.perf_counter() - start) / calls


# --- one problem ----------------------------------------------------------------------------------------------------


class Race:
    """The contenders of one problem: who still runs, and why who does not."""

    def __init__(self, problem, contenders, device, without=()):
        self.problem, self.device, self.runs = problem, device, {}
        self.contenders = {contender.name: contender for contender in contenders}
        self.reasons = {name: "not wanted" for name in self.contenders if name.startswith(tuple(without))}
        for name in self.running():
            self.runs[name] = self.attempt(name, self.contenders[name].make, problem)

    def attempt(self, name, step, *arguments):
        """What the step gives; None, and the contender is out, if it fails."""
        try:
            return step(*arguments)
        except Exception as error:  # of other libraries, of any kind: the others are still worth timing
            said = str(error).strip().splitlines() or [""]
            self.reasons[name] = f"{type(error).__name__}: {said[0]}"
        try:
            self.device.settle()
        except Exception as error:
            hint = f"{name} left the device unusable ({self.reasons[name]}); run again with --without {name!r}"
            raise DeadDevice(hint) from error
        self.device.free()
        return None

    def running(self):
        return [name for name in self.contenders if name not in self.reasons]

    def medians(self, rounds, clock, on_round=lambda: None):
        """{name: median seconds}, all in turn within a round."""
        times = {name: [] for name in self.running()}
        for seed in range(WARM_UP + rounds):
            for name in random.sample(self.running(), len(self.running())):
                self.problem.fill(seed)
                times[name].append(self.attempt(name, clock, self.runs[name]))
            on_round()
        return {name: statistics.median(times[name][WARM_UP:]) for name in self.running()}

    def checked(self, name, references):
        """(errors or None, extra memory, kernels of ours that ran) of one more call."""
        contender = self.contenders[name]
        key = contender.smoothing, contender.upstream
        self.problem.fill(0)
        if key not in references and contender.smoothing is not None:
            references[key] = self.problem.exact(contender)
        with multismooth.implementation() as ran:
            result, extra = self.device.extra(self.runs[name])
        return self.problem.error(result, references[key], contender) if key in references else None, extra, ran


def measured(problem, contenders, device, options, on_round):
    """(rows, those left out) of a problem; the first contender is the floor."""
    race = Race(problem, contenders, device, options.without)
    found = race.medians(options.rounds, device.seconds, on_round)
    walls = race.medians(options.rounds, partial(wall, settle=device.settle, calls=20)) if problem.small else {}
    references, about, floor = {}, {"shape": list(problem.shape), "dtype": problem.group}, contenders[0].name
    checks = {name: race.attempt(name, race.checked, name, references) for name in race.running()}
    if floor in race.reasons:
        raise RuntimeError(f"there is no floor: {race.reasons[floor]}")
    rows = []
    for name in race.running():
        wrong, extra, ran = checks[name]
        row = about | {"name": name, "seconds": found[name], "ratio": found[name] / found[floor]}
        row |= {"error": wrong, "memory": None if extra is None else extra / problem.bytes}
        row |= {"remark": race.contenders[name].remark, "ran": sorted(set(ran))}
        rows.append(row | ({"wall": walls[name]} if walls else {}))
    return rows, [about | {"name": name, "reason": reason} for name, reason in race.reasons.items()]
