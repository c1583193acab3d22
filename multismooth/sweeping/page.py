"""The page of a sweep: what was measured in one sentence, the table, curves against ε, and pictures of each ε."""

from __future__ import annotations

from html import escape
from pathlib import Path

import numpy as np

from multismooth.calibration import plotting
from multismooth.pages import html
from multismooth.pages.drawing import LIGHT, PAPER, RULE, SOFT, Panel, drawn
from multismooth.sweeping.results import COLUMNS, Sweep

SHADES = [LIGHT[f"e{index}"] for index in range(5)]
CLASS_SHADES = (LIGHT["all"], LIGHT["others"], LIGHT["flax"])


def write(sweep: Sweep, path: Path) -> None:
    """Write the page."""
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = [_top(sweep), _curves(sweep), _reliability(sweep), _clusters(sweep), _limits(sweep)]
    path.write_text(html.document(f"multismooth sweep: {sweep.train}", parts), encoding="utf-8")


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


def _top(sweep):
    columns = ["ε", *(heading for heading, _, _ in COLUMNS.values())]
    first = 1 + list(COLUMNS).index("nll_after")  # two tables side by side are too wide for a screen
    lost = "; ".join(f"ε = {run.label_smoothing:g}, seed {run.seed}: {run.status}" for run in sweep.without_temperature)
    note = f" No best temperature, so 1: {escape(lost)}." if lost else ""
    return f"""<header>
<h1>multismooth sweep: {escape(sweep.train)}</h1>
<p class="verdict">{html.prose(verdict(sweep))}</p>
<p>{len(sweep.runs)} trainings, {len(sweep.seeds)} seed{"s" if len(sweep.seeds) > 1 else ""} for each ε. Numbers are of
test data, mean&nbsp;±&nbsp;standard error over the seeds. The temperature T was fitted on validation data; T below 1
means that the model is under-confident. “If calibrated” is the error that a perfectly calibrated model with these
confidences would show: an error near it cannot be told from none.{note}</p>
{_table(sweep, columns, range(first))}
{_table(sweep, columns, [0, *range(first, len(columns))])}
</header>"""


def _table(sweep, columns, shown):
    """The given columns of the table; the first is ε."""
    rows = [
        "".join(f"<td{' class=name' if i == 0 else ''}>{escape(row[i])}</td>" for i in shown) for row in sweep.rows()
    ]
    return html.table([columns[i] for i in shown], rows)


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
    return f"""<section>
<h2>Against ε</h2>
{html.panels_of(made)}
<p class="note">Bars are standard errors over the seeds. They do not count the sampling of the test data.</p>
</section>"""


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
    return f"""<section>
<h2>Confidence against truth</h2>
<p>Seed {sweep.seeds[0]}. Dots are bins of predictions, lines their exact 95&nbsp;% intervals, grey bars their share;
hollow dots hold fewer than {plotting.FEWEST}. Above the diagonal a model is under-confident.</p>
{html.panels_of(curves)}
<h2>How sure the model is</h2>
{html.panels_of(histograms)}
</section>"""


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
    if not made:
        return ""
    return f"""<section>
<h2>The last layer’s features</h2>
<p>Test examples of three classes, in the plane through the classifier’s rows of these classes (Müller et al. 2019):
smoothing draws a class together and sets the classes equally far apart.</p>
{html.panels_of(made)}
</section>"""


def _limits(sweep):
    return f"""<footer>
<h2>What this does not say</h2>
<p>Seeds vary the training, not the data: one split, one test set. The ε with the best number here was chosen among
{len(sweep.smoothings)}, so its number is optimistic: choose ε on validation data. Smoothing lowers the confidence
whether or not the model was over-confident; a temperature costs one number and does it after training. The loss that
was minimised is not in the table: it has a floor, H(q), and its exponential is no perplexity.</p>
</footer>"""
