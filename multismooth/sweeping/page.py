"""The page of a sweep: what was measured in one sentence, the table, curves against ε, and pictures of each ε."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from multismooth.calibration import plotting
from multismooth.pages import html
from multismooth.pages.drawing import LIGHT, PAPER, RULE, SOFT, Panel, drawn
from multismooth.sweeping.results import COLUMNS, Sweep

SHADES = [LIGHT[f"e{index}"] for index in range(5)]
CLASS_SHADES = (LIGHT["all"], LIGHT["others"], LIGHT["flax"])


def write(sweep: Sweep, path: Path) -> None:
    """Write the page (`pages/templates/sweep.html`)."""
    reliability, histograms = _reliability(sweep)
    html.write(
        path,
        "sweep.html",
        title=f"multismooth sweep: {sweep.train}",
        sweep=sweep,
        verdict=verdict(sweep),
        tables=_tables(sweep),
        curves=_curves(sweep),
        reliability=reliability,
        histograms=histograms,
        clusters=_clusters(sweep),
        fewest=plotting.FEWEST,
    )


def verdict(sweep: Sweep) -> str:
    """What the means say; "clearly" is more than two standard errors of the difference."""
    first, means = sweep.smoothings[0], sweep.means
    best = max(sweep.smoothings, key=lambda e: means[e]["accuracy"].value)
    calibrated = min(sweep.smoothings, key=lambda e: means[e]["ece"].value)
    a, b = means[first]["accuracy"], means[best]["accuracy"]
    text = f"The most accurate is ε = {best:g} with {b.value:.2%}"
    if best != first:
        gain = np.hypot(a.error, b.error)
        sure = np.isfinite(gain) and b.value - a.value > 2 * gain
        text += f", {100 * (b.value - a.value):.2f} points above ε = {first:g}"
        text += " (more than two standard errors)" if sure else " (within what the choice of seeds does)"
    last = sweep.smoothings[-1]
    side = "under" if means[last]["confidence"].value < means[last]["accuracy"].value else "over"
    return (
        f"{text}. The smallest calibration error is {100 * means[calibrated]['ece'].value:.2f} % at "
        f"ε = {calibrated:g}, where chance alone gives {100 * means[calibrated]['ece_if_calibrated'].value:.2f} %. "
        f"At ε = {last:g} the model is {side}-confident."
    )


def _tables(sweep):
    """(columns, rows) of two tables that begin with ε: in one they are too wide for a screen."""
    columns = ["ε", *(heading for heading, _, _ in COLUMNS.values())]
    first = 1 + list(COLUMNS).index("nll_after")
    halves = range(first), [0, *range(first, len(columns))]
    return [([columns[i] for i in half], [[row[i] for i in half] for row in sweep.rows()]) for half in halves]


def _curves(sweep):
    made: list[Panel] = []
    for name, title, factor, floor in (
        ("accuracy", "Accuracy (%)", 100, None),
        ("nll", "NLL (nats); dashed after T", 1, "nll_after"),
        ("ece", "ECE (%); dashed after T, dotted if calibrated", 100, "ece_after"),
        ("temperature", "Temperature", 1, None),
        ("miscalibration", "Brier: miscalibration", 1, None),
        ("aurc", "AURC × 1000", 1000, None),
    ):
        with drawn(made, f"against-{name}", f"{title} against ε") as axes:
            _line(axes, sweep, name, factor, fmt="o-", color=LIGHT["all"])
            if floor:
                _line(axes, sweep, floor, factor, fmt="s--", color=LIGHT["flax"])
            if name == "ece":
                _line(axes, sweep, "ece_if_calibrated", factor, fmt=":", color=SOFT)
            if name == "temperature":
                axes.axhline(1, color=SOFT, linewidth=0.9)
            axes.set(title=title, xlabel="ε")
    return made


def _line(axes, sweep, name, factor, **style):
    means = [sweep.means[smoothing][name] for smoothing in sweep.smoothings]
    values, errors = ([factor * getattr(mean, part) for mean in means] for part in ("value", "error"))
    axes.errorbar(sweep.smoothings, values, np.nan_to_num(errors), elinewidth=1, markersize=4, **style)


def _firsts(sweep):
    """(the first seed's run of each ε, its colour)."""
    firsts = [next(run for run in sweep.runs if run.label_smoothing == e) for e in sweep.smoothings]
    picks = np.linspace(0, len(SHADES) - 1, len(firsts)).round().astype(int)
    return [(run, SHADES[pick]) for run, pick in zip(firsts, picks, strict=True)]


def _reliability(sweep):
    curves: list[Panel] = []
    histograms: list[Panel] = []
    for run, colour in _firsts(sweep):
        name = f"ε = {run.label_smoothing:g}"
        with drawn(curves, f"reliability-{run.label_smoothing:g}", f"Reliability at {name}") as axes:
            plotting.reliability_diagram(run.reliability, axes, colour=colour, soft=SOFT, rule=RULE, paper=PAPER)
            axes.set(title=f"{name}    ECE {run.measures['ece']:.3f}")
        with drawn(histograms, f"confidence-{run.label_smoothing:g}", f"Confidences at {name}") as axes:
            plotting.confidence_histogram(run.reliability, axes, colour=colour, soft=SOFT)
            axes.set(title=f"{name}    confidence {run.measures['confidence']:.3f}")
    return curves, histograms


def _clusters(sweep):
    made: list[Panel] = []
    for run, _ in _firsts(sweep):
        if not run.clusters or not run.clusters["class"]:
            continue
        classes = np.array(run.clusters["class"])
        with drawn(made, f"clusters-{run.label_smoothing:g}", f"Features at ε = {run.label_smoothing:g}") as axes:
            for k, colour in zip(np.unique(classes), CLASS_SHADES, strict=True):
                x, y = (np.array(run.clusters[axis])[classes == k] for axis in ("x", "y"))
                axes.scatter(x, y, s=7, color=colour, label=f"class {k}")
            axes.set(title=f"ε = {run.label_smoothing:g}", xticks=[], yticks=[])
            axes.set_aspect("equal", "datalim")
            axes.legend(loc="best", handletextpad=0.1)
    return made
