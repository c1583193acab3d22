"""Writes the report: one self-contained page (`pages/templates/demo.html`), the pictures and the numbers."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import TypeAlias

import numpy as np

from multismooth.calibration.plotting import FEWEST
from multismooth.demo import figures
from multismooth.demo.data import SOURCES
from multismooth.demo.metrics import Evaluation
from multismooth.demo.results import Outcome, versions
from multismooth.demo.training import QUANTITIES, Run
from multismooth.pages import html
from multismooth.pages.drawing import Panel

Drawings: TypeAlias = dict[str, list[Panel]]


def write(outcome: Outcome, out: Path) -> None:
    """Write report.html, results.json and one PNG per panel to the directory `out`."""
    out.mkdir(parents=True, exist_ok=True)
    settings = outcome.settings
    curves = {smoothing: figures.logit_curve(smoothing) for smoothing in settings.smoothings}
    drawings = {
        "targets": figures.targets(),
        "learning": figures.learning(outcome.runs, outcome.float32, settings),
        "logit": figures.logit_panels(curves, settings),
        "metrics": figures.metric_panels(outcome.runs, len(outcome.digits.test)),
        "reliability": figures.reliability_panels(outcome.runs, settings),
    }
    for panels in drawings.values():
        for panel in panels:
            (out / f"{panel.name}.png").write_bytes(panel.png())
    results = outcome.as_json()
    results["logit_curve_largest_difference"] = max(curve.largest_difference for curve in curves.values())
    (out / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    html.write(out / "report.html", "demo.html", **_values(outcome, drawings, results))


def _values(outcome: Outcome, drawings: Drawings, results: dict) -> dict:
    """What the template says of this outcome."""
    settings, digits = outcome.settings, outcome.digits
    first, last = outcome.runs[0], outcome.runs[-1]
    return {
        "title": f"multismooth demo: {settings.data}",
        "outcome": outcome,
        "settings": settings,
        "drawings": drawings,
        "verdict": _emphasised(outcome.verdict),
        "largest": {name: outcome.largest_of(name) for name in QUANTITIES},
        "digits": _digits(outcome),
        "source": SOURCES[digits.name],
        "train": len(digits.train),
        "count": len(digits.test),
        "floor": figures.loss_floor,
        "rounding": figures.ROUNDING,
        "fewest": FEWEST,
        "optima": [
            (f"{smoothing:g}", f"{figures.optimal_logit(smoothing):.3f}", f"{figures.loss_floor(smoothing):.3f}")
            for smoothing in settings.smoothings
            if smoothing
        ],
        "logit_difference": results["logit_curve_largest_difference"],
        "metric_difference": _metric_difference(outcome),
        "measured": {
            "columns": list(_measured(first, 1)),
            "rows": [_measured(run, len(digits.test)).values() for run in outcome.runs],
        },
        "confidences": [(str(run.case), *_confidence(run)) for run in (first, last)],
        "best": min(outcome.runs, key=lambda run: run.evaluations["torch"].ece),
        "versions": versions(),
    }


def _emphasised(verdict: str):
    """The verdict with its verb in bold."""
    text = html.prose(verdict)
    for word in ("agreed", "disagreed"):
        text = text.replace(f" {word}", type(text)(f" <b>{word}</b>"), 1)
    return text


def _metric_difference(outcome: Outcome) -> float:
    return max(
        abs(getattr(run.evaluations["torch"], name) - getattr(run.evaluations["flax"], name))
        for run in outcome.runs
        for name in ("accuracy", "nll", "ece")
    )


def _confidence(run: Run) -> tuple[float, float]:
    """(mean confidence, accuracy)."""
    result = run.evaluations["torch"]
    return result.reliability.mean_confidence, result.accuracy


def _measured(run: Run, count: int) -> dict[str, str]:
    """A row of the table, by column."""
    result, case = run.evaluations["torch"], run.case
    return {
        "ε": f"{case.smoothing:g}",
        "spread": case.spread if case.smoothing else "either",
        "accuracy": f"{result.accuracy:.2%}",
        "± s.e.": f"{np.sqrt(result.accuracy * (1 - result.accuracy) / count):.2%}",
        "NLL": f"{result.nll:.4f}",
        "ECE": f"{result.ece:.4f}",
        "if calibrated": f"{result.test.expected:.4f}",
        "T": _temperature(result),
        "largest |Δ|": html.number(run.largest),
        "same predictions": f"{run.same_predictions:,} of {count:,}",
    }


def _temperature(result: Evaluation) -> str:
    fit = result.temperature
    if fit.status != "converged":
        return fit.status
    return f"{fit.temperature:.2f}\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{fit.standard_error:.2f}"


def _digits(outcome: Outcome) -> str:
    """Held-out digits as a data URI: black on transparent, which a dark page inverts."""
    from matplotlib.image import imsave

    ink = figures.thumbnails(outcome.digits)
    buffer = io.BytesIO()
    imsave(buffer, np.dstack([np.zeros((*ink.shape, 3)), ink]), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
