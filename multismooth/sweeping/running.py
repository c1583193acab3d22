"""Runs a sweep: the missing runs, in this process or in several, each kept in a file as soon as it is there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from multiprocessing import get_context, parent_process
from numbers import Real
from pathlib import Path
from threading import Thread
from typing import Any

from multismooth.api.argument_checks import integer, positive
from multismooth.errors import SmoothingError, complain
from multismooth.sweeping import run as runs
from multismooth.sweeping.results import Sweep
from multismooth.sweeping.run import Run

OnRun = Callable[[Run, bool], None]
"""Called after each run with the run and whether it was found in its file."""


def sweep(
    train: Callable[[float, int], tuple],
    label_smoothing: Sequence[float] = (0, 0.02, 0.05, 0.1, 0.2, 0.3),
    *,
    seeds: int | Sequence[int] = 3,
    processes: int = 1,
    out: str | Path | None = None,
    resume: bool = True,
    on_run: OnRun | None = None,
) -> Sweep:
    """Train with each ε and seed, fit the temperature on validation data, and measure on test data.

    Args:
        train: `train(label_smoothing, seed)` returns (val_logits, val_targets, test_logits, test_targets), and as a
            fifth, if you like, (test_features, classifier) for the picture of the clusters.
        label_smoothing: the ε.
        seeds: how many, from 0, or which.
        processes: more than 1 trains in parallel; `train` must then be importable by its name.
        out: a folder in which each run is kept. None keeps nothing.
        resume: take the runs that are in `out` already. False trains all of them again, as is needed after `train`
            itself has changed, which nothing here can notice.
        on_run: called after each run with it and whether it was taken from `out`.

    Returns:
        A `Sweep`: `.table()`, `.to_json()`, `.page(path)`.

    Raises:
        ValueError: an ε or a seed that is none, or `out` has runs of another `train`.
    """
    cases = list(product(_smoothings(label_smoothing), _seeds(seeds)))
    processes = positive("processes", processes, "1 trains in this process.")
    name, folder = name_of(train), None if out is None else Path(out)
    found: dict[tuple[float, int], Run] = {}
    if folder is not None:
        _claim(folder, name, resume)
        found = {case: run for case in cases if resume and (run := runs.read(folder, *case)) is not None}
    for run in found.values():
        if on_run:
            on_run(run, True)
    missing = [case for case in cases if case not in found]
    for case, run in _executed(partial(_one, train, folder), missing, processes):
        found[case] = run
        if on_run:
            on_run(run, False)
    return Sweep(name, tuple(found[case] for case in cases))


def name_of(train) -> str:
    """What a train function is called: its own name for it, or module:function."""
    if isinstance(train, partial):
        bound = [*map(repr, train.args), *(f"{key}={value!r}" for key, value in train.keywords.items())]
        return f"{name_of(train.func)}({', '.join(bound)})"
    known = getattr(train, "name", None)
    kind = train if hasattr(train, "__qualname__") else type(train)
    return known if isinstance(known, str) else f"{kind.__module__}:{kind.__qualname__}"


def _one(train, folder, case) -> Run:
    run = runs.evaluated(train, *case)
    if folder is not None:
        runs.write(run, folder)
    return run


def _executed(job, cases, processes) -> Iterator[tuple[Any, Run]]:
    """(case, run) as they are done."""
    if processes == 1 or len(cases) < 2:
        for case in cases:
            yield case, job(case)
        return
    # Fresh processes: a fork of one that runs threads of JAX or PyTorch may hang.
    shared: dict[str, Any] = {"mp_context": get_context("spawn"), "initializer": _end_with_parent}
    with ProcessPoolExecutor(min(processes, len(cases)), **shared) as pool:
        futures = {pool.submit(job, case): case for case in cases}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            expected, remedy = "a function that returns", "What is done is kept in `out`: the same call does the rest."
            raise complain("train", expected, "a process that ended within it", remedy, ChildProcessError) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent():
    """Start a thread that ends this process when its parent is gone, which may be killed without a word."""

    def watch():
        parent = parent_process()
        if parent is not None:
            parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _claim(folder, name, resume):
    """Write whose runs the folder has, or refuse a folder of another train."""
    note = folder / "sweep.json"
    if resume and note.exists():
        before = json.loads(note.read_text(encoding="utf-8")).get("train")
        if before != name:
            raise complain("out", f"runs of {name}", f"runs of {before}", "Name another folder, or pass resume=False.")
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps({"train": name}) + "\n", encoding="utf-8")


def _smoothings(values) -> tuple[float, ...]:
    values = (values,) if isinstance(values, Real) else tuple(values)
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
            raise complain("label_smoothing", "numbers in [0, 1]", repr(value), "Pass (0, 0.1), say.", SmoothingError)
    if not values or len(set(values)) < len(values):
        raise complain("label_smoothing", "at least one ε, each once", repr(values), "Pass (0, 0.1), say.")
    return tuple(float(value) for value in values)


def _seeds(seeds) -> Iterable[int]:
    if integer(seeds) is not None:
        return range(positive("seeds", seeds, "3 are few, 10 are many."))
    found = [integer(seed) for seed in seeds]
    if not found or None in found or len(set(found)) < len(found):
        raise complain("seeds", "a number of seeds, or different integers", repr(seeds), "Pass 3, say.")
    return [int(seed) for seed in found if seed is not None]
