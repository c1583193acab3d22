"""The outcome of a sweep: means over seeds with their standard errors, as text, as JSON and as a page."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import multismooth
from multismooth.sweeping.run import Run

COLUMNS = {  # measure: (heading, factor, digits)
    "accuracy": ("accuracy %", 100, 2),
    "nll": ("NLL", 1, 4),
    "ece": ("ECE %", 100, 2),
    "ece_if_calibrated": ("if calibrated", 100, 2),
    "temperature": ("T", 1, 3),
    "nll_after": ("NLL after T", 1, 4),
    "ece_after": ("ECE after T", 100, 2),
    "ece_if_calibrated_after": ("if calibrated", 100, 2),
    "brier": ("Brier", 1, 4),
    "miscalibration": ("miscalibration", 1, 4),
    "discrimination": ("discrimination", 1, 4),
    "aurc": ("AURC ×1000", 1000, 2),
}


@dataclass(frozen=True)
class Mean:
    """A mean over seeds and its standard error, which is NaN for one seed."""

    value: float
    error: float

    def text(self, factor: float, digits: int) -> str:
        around = f" ± {factor * self.error:.{digits}f}" if math.isfinite(self.error) else ""
        return f"{factor * self.value:.{digits}f}{around}"


@dataclass(frozen=True)
class Sweep:
    """All runs of a sweep, in order of ε and seed."""

    train: str
    runs: tuple[Run, ...]

    @property
    def smoothings(self) -> list[float]:
        return list(dict.fromkeys(run.label_smoothing for run in self.runs))

    @property
    def seeds(self) -> list[int]:
        return list(dict.fromkeys(run.seed for run in self.runs))

    @cached_property
    def means(self) -> dict[float, dict[str, Mean]]:
        """{ε: {measure: mean over seeds}}."""
        return {smoothing: self._means(smoothing) for smoothing in self.smoothings}

    def _means(self, smoothing):
        rows = [run.measures for run in self.runs if run.label_smoothing == smoothing]
        found = {}
        for name in rows[0]:
            values = np.array([row[name] for row in rows])
            spread = float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
            found[name] = Mean(float(np.mean(values)), spread)
        return found

    @property
    def without_temperature(self) -> list[Run]:
        """Runs whose validation data has no best temperature; theirs is 1."""
        return [run for run in self.runs if run.status != "converged"]

    def rows(self) -> list[list[str]]:
        """The table's cells: ε, then mean ± standard error of each of `COLUMNS`."""
        return [
            [f"{smoothing:g}", *(means[name].text(factor, digits) for name, (_, factor, digits) in COLUMNS.items())]
            for smoothing, means in self.means.items()
        ]

    def table(self) -> str:
        """The table as text."""
        lines = [["ε", *(heading for heading, _, _ in COLUMNS.values())], *self.rows()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = "\n".join("  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines)
        notes = [
            f"{len(self.seeds)} seeds, mean ± standard error; T fitted on validation data, the rest is of test data"
        ]
        notes += [
            f"ε = {run.label_smoothing:g}, seed {run.seed}: no temperature is best ({run.status}), T is 1"
            for run in self.without_temperature
        ]
        return "\n".join([text, *notes])

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the means and every run's measures."""
        return _plain(
            {
                "train": self.train,
                "multismooth": multismooth.__version__,
                "seeds": self.seeds,
                "means": [
                    {"label_smoothing": smoothing}
                    | {name: {"mean": mean.value, "standard_error": mean.error} for name, mean in means.items()}
                    for smoothing, means in self.means.items()
                ],
                "runs": [
                    {"label_smoothing": run.label_smoothing, "seed": run.seed, "status": run.status} | run.measures
                    for run in self.runs
                ],
            }
        )

    def to_json(self) -> str:
        """One JSON document; numbers that are undefined are null."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)

    def page(self, path: str | Path) -> None:
        """Write one self-contained page."""
        from multismooth.sweeping.page import write

        write(self, Path(path))

    def __str__(self) -> str:
        return self.table()


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
