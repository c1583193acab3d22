"""The outcome of a demonstration, as one sentence and as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

import multismooth
from multismooth.demo.data import SOURCES, Digits
from multismooth.demo.settings import Settings
from multismooth.demo.training import QUANTITIES, Run
from multismooth.pages.html import scientific

PACKAGES = ("torch", "jax", "flax", "optax", "numpy", "scipy", "scikit-learn", "mlxtend", "matplotlib")


@dataclass(frozen=True)
class Outcome:
    """All runs of one demonstration. `agreed` concerns the float64 runs; the float32 run is only reported."""

    settings: Settings
    digits: Digits
    runs: list[Run]
    float32: Run
    seconds: float

    @property
    def agreed(self) -> bool:
        return all(run.first_disagreement(self.settings.tolerance) is None for run in self.runs)

    @property
    def steps(self) -> int:
        return sum(len(run.losses["torch"]) for run in self.runs)

    @property
    def largest(self) -> float:
        return float(np.max([run.largest for run in self.runs]))

    def largest_of(self, quantity: str) -> float:
        return float(np.max([run.differences[quantity] for run in self.runs]))

    @property
    def verdict(self) -> str:
        """One sentence with the largest difference."""
        if self.agreed:
            return (
                f"PyTorch and Flax agreed at every one of {self.steps:,} steps; "
                f"largest difference {scientific(self.largest)}."
            )
        run, found = next(
            (run, found) for run in self.runs if (found := run.first_disagreement(self.settings.tolerance)) is not None
        )
        step, quantity, difference = found
        verb = "differs" if quantity == "loss" else "differ"
        return (
            f"PyTorch and Flax disagreed, first at step {step + 1} of the run with {run.case}: the {quantity} {verb} "
            f"by {scientific(difference)}, more than the tolerance {scientific(self.settings.tolerance)}."
        )

    @property
    def float32_verdict(self) -> str:
        """One sentence on the short float32 run. It is a measurement, not a test, so it cannot pass or fail."""
        run = self.float32
        first = max(run.differences[quantity][0] for quantity in QUANTITIES)
        return (
            f"In float32 the run with {run.case} differs by {scientific(first)} after its first step, "
            f"and by up to {scientific(run.largest)} within {len(run.losses['torch'])} steps."
        )

    def as_json(self) -> dict[str, Any]:
        """Everything that was measured, with what is needed to repeat it. Undefined numbers are null."""
        digits = self.digits
        return _without_nan(
            {
                "verdict": self.verdict,
                "agreed": self.agreed,
                "steps": self.steps,
                "largest_difference": {name: self.largest_of(name) for name in QUANTITIES},
                "float32": {"verdict": self.float32_verdict, "run": _run(self.float32)},
                "settings": asdict(self.settings),
                "data": {
                    "source": SOURCES[digits.name],
                    "train": len(digits.train),
                    "test": len(digits.test),
                },
                "runs": [_run(run) for run in self.runs],
                "seconds": self.seconds,
                "versions": versions(),
            }
        )


def versions() -> dict[str, str]:
    """Python, the platform and the packages that decide the numbers."""
    found = {"multismooth": multismooth.__version__, "python": platform.python_version()}
    found["platform"] = f"{platform.system()} {platform.machine()}"
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def _run(run: Run) -> dict:
    return {
        "spread": run.case.spread,
        "label_smoothing": run.case.smoothing,
        "dtype": run.dtype,
        "seconds": run.seconds,
        "losses": run.losses,
        "differences": run.differences,
        "test": {
            "largest_logit_difference": run.logit_difference,
            "same_predictions": run.same_predictions,
            **{
                framework: {
                    "accuracy": e.accuracy,
                    "nll": e.nll,
                    "ece": e.ece,
                    "ece_if_calibrated": e.test.expected,
                    "temperature": asdict(e.temperature),
                    "reliability": asdict(e.reliability),
                }
                for framework, e in run.evaluations.items()
            },
        },
    }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, np.ndarray):
        return _without_nan(value.tolist())
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_without_nan(item) for item in value]
    return value
