"""Trains the same classifier in both frameworks and compares them after every step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import jax
import numpy as np
import torch

from multismooth.demo import with_flax, with_torch
from multismooth.demo.data import Digits, batch_order
from multismooth.demo.metrics import Evaluation, evaluate
from multismooth.demo.model import first_weights, largest_difference
from multismooth.demo.settings import Case, Settings

QUANTITIES = ("loss", "gradients", "parameters")

OnStep = Callable[[Case, str, float], None]
"""Called after each step with the case, the dtype and the largest difference so far."""


@dataclass
class Run:
    """One case trained in both frameworks: the losses (steps,) of each, and {quantity: differences (steps,)}."""

    case: Case
    dtype: str
    losses: dict[str, list[float]] = field(default_factory=lambda: {"torch": [], "flax": []})
    differences: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in QUANTITIES})
    evaluations: dict[str, Evaluation] = field(default_factory=dict)
    logit_difference: float = float("nan")
    same_predictions: int = 0
    seconds: float = 0.0

    @property
    def largest(self) -> float:
        """Largest difference of any quantity at any step; NaN if one was NaN."""
        return float(np.max([self.differences[name] for name in QUANTITIES]))

    def first_disagreement(self, tolerance: float) -> tuple[int, str, float] | None:
        """(step, quantity, difference) of the first difference above the tolerance, or None. NaN is above it."""
        for step in range(len(self.losses["torch"])):
            for name in QUANTITIES:
                difference = self.differences[name][step]
                if not difference <= tolerance:
                    return step, name, difference
        return None


def train(
    case: Case,
    digits: Digits,
    settings: Settings,
    *,
    torch_loss: Callable,
    jax_loss: Callable,
    dtype: str = "float64",
    steps: int | None = None,
    on_step: OnStep = lambda case, dtype, largest: None,
) -> Run:
    """Train one case in both frameworks, from the same first weights on the same batches."""
    start = time.perf_counter()
    run = Run(case, dtype)
    images = digits.train.images.astype(dtype)
    weights = first_weights(digits.side, settings.seed)
    steps = settings.steps if steps is None else steps
    with jax_precision(dtype), one_torch_thread():
        shared = (weights, digits.side, dtype, case, settings)
        trainers: dict[str, with_torch.Trainer | with_flax.Trainer] = {
            "torch": with_torch.Trainer(*shared, torch_loss),
            "flax": with_flax.Trainer(*shared, jax_loss),
        }
        largest = 0.0
        for batch in batch_order(len(digits.train), settings.batch_size, steps, settings.seed):
            results = {
                name: trainer.step(images[batch], digits.train.labels[batch]) for name, trainer in trainers.items()
            }
            _record(run, results)
            largest = max(largest, *(run.differences[name][-1] for name in QUANTITIES))
            on_step(case, dtype, largest)
        _evaluate(run, trainers, digits)
    run.seconds = time.perf_counter() - start
    return run


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """One thread for PyTorch: steps this small wait longer for a second thread than it saves. Restores the setting.

    On two busy cores, steps took 5 to 10 times as long with two threads (100 ms against 10 for 8 × 8 digits).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def jax_precision(dtype: str) -> Iterator[None]:
    """Sets jax_enable_x64 for float64, without which JAX computes in float32. Restores the setting."""
    before = jax.config.read("jax_enable_x64")
    jax.config.update("jax_enable_x64", dtype == "float64")
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


def _record(run: Run, results: dict) -> None:
    (torch_loss, *torch_trees), (flax_loss, *flax_trees) = results["torch"], results["flax"]
    run.losses["torch"].append(torch_loss)
    run.losses["flax"].append(flax_loss)
    run.differences["loss"].append(abs(torch_loss - flax_loss))
    for name, a, b in zip(QUANTITIES[1:], torch_trees, flax_trees, strict=True):
        run.differences[name].append(largest_difference(a, b))


def _evaluate(run: Run, trainers: dict, digits: Digits) -> None:
    images = digits.test.images.astype(run.dtype)
    logits = {name: trainer.logits(images) for name, trainer in trainers.items()}
    run.evaluations = {name: evaluate(array, digits.test.labels) for name, array in logits.items()}
    run.logit_difference = float(np.abs(logits["torch"] - logits["flax"]).max())
    predictions = [array.argmax(axis=1) for array in logits.values()]
    run.same_predictions = int(np.sum(predictions[0] == predictions[1]))
