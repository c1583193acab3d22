"""Writes the report: one self-contained page, the pictures and the numbers."""

from __future__ import annotations

import base64
import io
import json
from html import escape
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
from multismooth.pages.html import number, panels_of, prose, table

Sections: TypeAlias = dict[str, list[Panel]]


def write(outcome: Outcome, out: Path) -> None:
    """Write report.html, results.json and one PNG per panel to the directory `out`."""
    out.mkdir(parents=True, exist_ok=True)
    settings = outcome.settings
    curves = {smoothing: figures.logit_curve(smoothing) for smoothing in settings.smoothings}
    sections = {
        "targets": figures.targets(),
        "learning": figures.learning(outcome.runs, outcome.float32, settings),
        "logit": figures.logit_panels(curves, settings),
        "metrics": figures.metric_panels(outcome.runs, len(outcome.digits.test)),
        "reliability": figures.reliability_panels(outcome.runs, settings),
    }
    for panels in sections.values():
        for panel in panels:
            (out / f"{panel.name}.png").write_bytes(panel.png)
    results = outcome.as_json()
    results["logit_curve_largest_difference"] = max(curve.largest_difference for curve in curves.values())
    (out / "results.json").write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (out / "report.html").write_text(_page(outcome, sections, results), encoding="utf-8")


def _page(outcome: Outcome, sections: Sections, results: dict) -> str:
    parts = [
        _top(outcome),
        _targets(sections),
        _learning(outcome, sections),
        _logit(outcome, sections, results),
    ]
    parts += [_held_out(outcome, sections), _about(outcome)]
    return html.document(f"multismooth demo: {outcome.settings.data}", parts)


def _top(outcome: Outcome) -> str:
    settings, digits = outcome.settings, outcome.digits
    verdict = prose(outcome.verdict)
    for word in ("agreed", "disagreed"):
        verdict = verdict.replace(f" {word}", f" <b>{word}</b>", 1)
    compared = ", ".join(f"{name} {number(outcome.largest_of(name))}" for name in QUANTITIES)
    return f"""<header>
<h1>multismooth demo: label smoothing on real digits, in two frameworks</h1>
<p class="verdict{"" if outcome.agreed else " bad"}">{verdict}</p>
<p>One small convolutional classifier was trained {len(outcome.runs)} times in PyTorch and {len(outcome.runs)} times in
Flax NNX, in float64, from the same first weights on the same batches. After every step the loss, the gradient of every
parameter and every parameter were compared. Largest differences: {compared}; tolerance
{number(settings.tolerance)}.</p>
<img class="digits" alt="Ten of the held-out digits, one of each class" src="{_digits(outcome)}">
<p class="note">{escape(SOURCES[digits.name])}: {len(digits.train):,} to train on, {len(digits.test):,} held out.</p>
</header>"""


def _targets(sections: Sections) -> str:
    return f"""<section>
<h2>One name, several targets</h2>
<p>Label smoothing with ε&nbsp;=&nbsp;0.3 on the digit 3. The same argument, <code>label_smoothing=0.3</code>, means
different target rows in different libraries: shared by all classes (PyTorch, Optax, Keras), shared by the other
classes only (tensor2tensor, fairseq), or shared by the others except a class that must get none, such as
padding.</p>
{panels_of(sections["targets"])}
<p>The first two are one family: “others” at ε is “all” at ε·K/(K&nbsp;−&nbsp;1), so a port can be converted:
<code>convention="others"</code>, or <code>Convention.smoothing_for</code>. A Kullback–Leibler loss has the target
of its spread but reports a smaller number: cross-entropy minus H(q), with the same gradient.</p>
</section>"""


def _learning(outcome: Outcome, sections: Sections) -> str:
    largest = max(outcome.settings.smoothings)
    return f"""<section>
<h2>The loss has a floor, and both frameworks walk down to it together</h2>
<p>A smoothed target is not certain, so no prediction reaches zero loss. The least cross-entropy is the target’s
entropy, H(q)&nbsp;=&nbsp;−Σ&nbsp;q&nbsp;log&nbsp;q: {figures.loss_floor(largest):.3f} nats at
ε&nbsp;=&nbsp;{largest:g}. A training loss that stops there has nothing left to learn; it is not stuck.</p>
{panels_of(sections["learning"], "wide")}
<p class="note">Losses are those of the training batches with spread “all”, averaged over neighbouring steps.
Differences are not averaged: the worst of all {len(outcome.runs)} float64 runs at each step, and an exact 0 is drawn at
{number(figures.ROUNDING)}.</p>
<p>{prose(outcome.float32_verdict)} Neither framework is wrong: a ReLU whose input lies within
rounding of zero opens in one framework and not in the other, the gradient jumps, and training amplifies the jump.
That is why the comparison is made in float64, and why this run is a measurement and not a test.</p>
</section>"""


def _logit(outcome: Outcome, sections: Sections, results: dict) -> str:
    rows = [
        f"<td class=name>{smoothing:g}</td><td>{figures.optimal_logit(smoothing):.3f}</td>"
        f"<td>{figures.loss_floor(smoothing):.3f}</td>"
        for smoothing in outcome.settings.smoothings
        if smoothing
    ]
    return f"""<section>
<h2>What ε does to the gradient</h2>
<p>Without smoothing the gradient of the label’s logit, p&nbsp;−&nbsp;1, is negative everywhere: more confidence always
pays, and the logit grows without bound. With smoothing it is p&nbsp;−&nbsp;q. It crosses zero where
p&nbsp;=&nbsp;q, at a finite logit, and past that point confidence costs.</p>
{panels_of(sections["logit"], "wide")}
{table(["ε", "best logit", "H(q), nats"], rows)}
<p class="note">Lines and dots are computed by <code>multismooth.torch</code> and <code>multismooth.jax</code>; they
differ by at most {number(results["logit_curve_largest_difference"])}.</p>
</section>"""


def _held_out(outcome: Outcome, sections: Sections) -> str:
    count = len(outcome.digits.test)
    columns = [
        "ε",
        "spread",
        "accuracy",
        "± s.e.",
        "NLL",
        "ECE",
        "if calibrated",
        "T",
        "largest |Δ|",
        "same predictions",
    ]
    rows = []
    for run in outcome.runs:
        result, case = run.evaluations["torch"], run.case
        error = np.sqrt(result.accuracy * (1 - result.accuracy) / count)
        rows.append(
            f"<td class=name>{case.smoothing:g}</td><td>{case.spread if case.smoothing else 'either'}</td>"
            f"<td>{result.accuracy:.2%}</td><td>{error:.2%}</td><td>{result.nll:.4f}</td><td>{result.ece:.4f}</td>"
            f"<td>{result.test.expected:.4f}</td><td>{_temperature(result)}</td>"
            f"<td>{number(run.largest)}</td><td>{run.same_predictions:,} of {count:,}</td>"
        )
    largest_difference = max(
        abs(getattr(run.evaluations["torch"], name) - getattr(run.evaluations["flax"], name))
        for run in outcome.runs
        for name in ("accuracy", "nll", "ece")
    )
    return f"""<section>
<h2>Held-out digits</h2>
<p>Accuracy, the negative log-likelihood of the true class (never smoothed) and the expected calibration error, in
PyTorch; Flax’s differ by at most {number(largest_difference)}. “If calibrated” is the error that a perfectly calibrated
model with these confidences would show: chance alone, so no error below it means anything. T is the temperature that
would suit these held-out digits: above 1 the model is over-confident, below 1 under-confident, as smoothed models
usually are.</p>
{panels_of(sections["metrics"])}
{table(columns, rows)}
<p>One seed. The standard errors count only the sampling of {count:,} test digits, not the luck of training: this table
shows what these runs measured, not which ε is best.</p>
<h2>Confidence against truth</h2>
<p>Each dot is a bin of predictions: how confident they were and how often they were right. Its size, and the grey bar
below it, say how many they are; hollow dots are fewer than {FEWEST}. Lines are exact 95&nbsp;% intervals. Below the
diagonal a classifier is overconfident, above it underconfident. {_calibration(outcome)}</p>
{panels_of(sections["reliability"])}
</section>"""


def _temperature(result: Evaluation) -> str:
    fit = result.temperature
    if fit.status != "converged":
        return fit.status
    return f"{fit.temperature:.2f}&nbsp;±&nbsp;{fit.standard_error:.2f}"


def _calibration(outcome: Outcome) -> str:
    """Sentences on the confidences and calibration errors of this run."""

    def confidence(run: Run) -> str:
        result = run.evaluations["torch"]
        return f"{result.reliability.mean_confidence:.1%} confident and {result.accuracy:.1%} right"

    first, last = outcome.runs[0], outcome.runs[-1]
    best = min(outcome.runs, key=lambda run: run.evaluations["torch"].ece)
    return (
        "Smoothing teaches a confidence near 1&nbsp;−&nbsp;ε, whether or not the model was overconfident: on average "
        f"it is {confidence(first)} at {escape(str(first.case))}, {confidence(last)} at {escape(str(last.case))}. "
        f"The smallest calibration error here is {best.evaluations['torch'].ece:.3f}, at {escape(str(best.case))}."
    )


def _about(outcome: Outcome) -> str:
    settings = outcome.settings
    packages = [f"<td class=name>{escape(name)}</td><td>{escape(text)}</td>" for name, text in versions().items()]
    return f"""<footer>
<h2>How it was done</h2>
<p>Two 3&nbsp;×&nbsp;3 convolutions (16 and 32 channels) with ReLU and average pooling, a hidden layer of 64,
ten classes. No dropout: two frameworks do not draw the same masks. First weights are drawn once with NumPy and
converted; batches of {settings.batch_size} are drawn once and shared. Pixels are standardised with the training part’s
mean and deviation.
Optimiser: <code>torch.optim.AdamW</code> and <code>optax.adamw</code> as they are, with one learning rate
({settings.learning_rate:g}), one decoupled weight decay ({settings.weight_decay:g}, on all parameters; their defaults
differ), and the β and ϵ that both have by default. Both compute
θ&nbsp;←&nbsp;θ&nbsp;−&nbsp;η·(m̂/(√v̂&nbsp;+&nbsp;ϵ)&nbsp;+&nbsp;λθ).
{settings.steps} steps a run, seed {settings.seed}, {outcome.seconds:.0f} s in all. Every number is in
<code>results.json</code>.</p>
{table(["package", "version"], packages)}
</footer>"""


def _digits(outcome: Outcome) -> str:
    """Held-out digits as a data URI: black on transparent, which a dark page inverts."""
    from matplotlib.image import imsave

    ink = figures.thumbnails(outcome.digits)
    buffer = io.BytesIO()
    imsave(buffer, np.dstack([np.zeros((*ink.shape, 3)), ink]), format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
