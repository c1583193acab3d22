"""The pictures of the report. Each is a list of panels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from multismooth.calibration.plotting import reliability_diagram
from multismooth.demo.data import Digits
from multismooth.demo.metrics import BINS
from multismooth.demo.model import CLASSES
from multismooth.demo.settings import SPREADS, Settings
from multismooth.demo.training import QUANTITIES, Run, jax_precision
from multismooth.pages.drawing import INK, LIGHT, PAPER, RULE, SOFT, WIDE, Panel, drawn
from multismooth.pages.html import scientific
from multismooth.registry import conventions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUNDING = 1e-17
"""Drawn for a difference of exactly 0, which a logarithmic axis cannot show."""

ABOVE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "bottom"}
BESIDE: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False, "fontsize": 8.5}


def smoothing_colours(settings: Settings) -> dict[float, str]:
    """One colour per ε: grey for none, then from blue to red."""
    shades = [LIGHT[f"e{index}"] for index in range(5)]
    picks = np.linspace(0, len(shades) - 1, len(settings.smoothings)).round().astype(int)
    return {smoothing: shades[pick] for smoothing, pick in zip(settings.smoothings, picks, strict=True)}


def loss_floor(smoothing: float) -> float:
    """H(q), the entropy of a target smoothed over all classes: the smallest possible cross-entropy."""
    row = np.array(conventions["torch"].target_row(smoothing, CLASSES))
    return float(-np.sum(row[row > 0] * np.log(row[row > 0])))


def targets(smoothing: float = 0.3, label: int = 3) -> list[Panel]:
    """One target row under three conventions."""
    variants = {
        "all": ("“all”: shared by all ten classes", conventions["torch"]),
        "others": ("“others”: shared by the other nine", conventions["others"]),
        "excluded": ("“others”, class 0 excluded", replace(conventions["others"], exclude=(0,))),
    }
    panels: list[Panel] = []
    for name, (title, convention) in variants.items():
        row = np.array(convention.target_row(smoothing, CLASSES, label))
        colour = LIGHT["all" if name == "all" else "others"]
        with drawn(panels, f"targets-{name}", f"{title}: target row {np.round(row, 4).tolist()}") as axes:
            axes.bar(
                range(CLASSES),
                row,
                color=[colour if k == label else SOFT for k in range(CLASSES)],
                width=0.72,
            )
            axes.annotate(f"{row[label]:.4g}", (label, row[label]), (0, 3), **ABOVE)
            axes.annotate(f"{row[-1]:.4g} each", (7, row[-1]), (0, 3), **ABOVE)
            axes.set(title=title, xlabel="class", ylabel="target q", ylim=(0, 0.85), xticks=range(CLASSES))
            axes.grid(visible=False, axis="x")
    return panels


def learning(runs: list[Run], float32: Run, settings: Settings) -> list[Panel]:
    """Training loss in both frameworks, and the largest difference between them at every step."""
    panels: list[Panel] = []
    with drawn(panels, "loss", "Training loss per step in PyTorch (lines) and Flax (dots)", WIDE) as axes:
        _draw_losses(axes, runs, settings)
    with drawn(panels, "difference", "Largest difference between the frameworks at every step", WIDE) as axes:
        _draw_differences(axes, runs, float32, settings)
    return panels


def _draw_losses(axes: Axes, runs: list[Run], settings: Settings) -> None:
    colours = smoothing_colours(settings)
    shown = [run for run in runs if run.case.spread == "all"]
    for run in shown:
        colour = colours[run.case.smoothing]
        width = max(1, settings.steps // 60)
        steps, torch_loss = _window_means(run.losses["torch"], width)
        _, flax_loss = _window_means(run.losses["flax"], width)
        axes.plot(steps, torch_loss, color=colour, linewidth=1.3)
        axes.plot(steps[::2], flax_loss[::2], "o", color=colour, markersize=3)
        if run.case.smoothing:
            axes.axhline(loss_floor(run.case.smoothing), color=colour, linewidth=0.9, linestyle=(0, (1, 2)))
        label = f"ε = {run.case.smoothing:g}"
        axes.annotate(label, (steps[-1], torch_loss[-1]), (5, 0), color=colour, va="center", **BESIDE)
    axes.set(title="Training loss: line PyTorch, dots Flax, dotted H(q)", xlabel="step", ylabel="loss (nats)")
    axes.set(ylim=(0, 2.5), xlim=(0, settings.steps))


def _draw_differences(axes: Axes, runs: list[Run], float32: Run, settings: Settings) -> None:
    shades = {"loss": LIGHT["e1"], "gradients": LIGHT["e3"], "parameters": LIGHT["e4"]}
    for name in QUANTITIES:
        worst = np.max([run.differences[name] for run in runs], axis=0)
        axes.semilogy(np.maximum(worst, ROUNDING), color=shades[name], linewidth=1.2, label=name)
        short = np.maximum(float32.differences[name], ROUNDING)
        axes.semilogy(short, color=shades[name], linewidth=1, linestyle=(0, (2, 1.2)))
    axes.axhline(settings.tolerance, color=INK, linewidth=1)
    end = (settings.steps, settings.tolerance)
    axes.annotate(f"tolerance {scientific(settings.tolerance)}", end, (0, 4), ha="right", **BESIDE)
    axes.set(title="|PyTorch − Flax|: solid float64, dashed float32", xlabel="step", ylabel="largest difference")
    axes.set(xlim=(0, settings.steps), ylim=(ROUNDING, 10))
    axes.legend(ncols=3, loc="upper right", columnspacing=1.2, borderaxespad=0.1)


def _window_means(values: list[float], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Means over windows of `width` steps, at the windows' last steps."""
    usable = len(values) // width * width
    means = np.array(values[:usable]).reshape(-1, width).mean(axis=1)
    return np.arange(1, len(means) + 1) * width, means


@dataclass(frozen=True)
class LogitCurve:
    """Loss and ∂loss/∂z_y as the label's logit z_y moves and the nine others stay 0, from both frameworks."""

    logit: np.ndarray
    loss: dict[str, np.ndarray]
    gradient: dict[str, np.ndarray]

    @property
    def largest_difference(self) -> float:
        return float(max(np.abs(pair["torch"] - pair["flax"]).max() for pair in (self.loss, self.gradient)))


def logit_curve(smoothing: float) -> LogitCurve:
    """Evaluates both backends on the same logits, in float64."""
    import jax.numpy as jnp
    import torch

    import multismooth.jax
    import multismooth.torch

    logit = np.linspace(-4, 12, 129)
    logits = np.zeros((len(logit), CLASSES))
    logits[:, 0] = logit
    labels = np.zeros(len(logit), np.int64)
    shared: dict[str, Any] = {"label_smoothing": smoothing, "convention": SPREADS["all"], "reduction": "none"}
    summed = shared | {"reduction": "sum"}
    with jax_precision("float64"):
        of_torch = torch.from_numpy(logits), torch.from_numpy(labels)
        of_jax = jnp.asarray(logits), jnp.asarray(labels)
        return LogitCurve(
            logit,
            {
                "torch": multismooth.torch.loss(*of_torch, **shared).numpy(),
                "flax": np.asarray(multismooth.jax.loss(*of_jax, **shared)),
            },
            {
                "torch": multismooth.torch.loss_and_grad(*of_torch, **summed)[1].numpy()[:, 0],
                "flax": np.asarray(multismooth.jax.loss_and_grad(*of_jax, **summed)[1])[:, 0],
            },
        )


def optimal_logit(smoothing: float) -> float:
    """The finite logit at which the curve's gradient is zero: softmax = q there."""
    row = conventions["torch"].target_row(smoothing, CLASSES)
    return float(np.log(row[0] / row[1]))


def logit_panels(curves: dict[float, LogitCurve], settings: Settings) -> list[Panel]:
    """Loss and gradient against the label's logit, with and without smoothing."""
    colours = smoothing_colours(settings)
    panels: list[Panel] = []
    for name, title in (("loss", "Loss"), ("gradient", "Gradient ∂loss/∂z")):
        text = f"{title} against the label's logit for several ε"
        with drawn(panels, f"logit-{name}", text, WIDE) as axes:
            for smoothing, curve in curves.items():
                values = getattr(curve, name)
                colour = colours[smoothing]
                axes.plot(curve.logit, values["torch"], color=colour, linewidth=1.3, label=f"ε = {smoothing:g}")
                axes.plot(curve.logit[::8], values["flax"][::8], "o", color=colour, markersize=3)
                if smoothing:
                    best = optimal_logit(smoothing)
                    height = loss_floor(smoothing) if name == "loss" else 0.0
                    axes.plot(best, height, "D", color=colour, markersize=6, markeredgecolor=INK)
            if name == "gradient":
                axes.axhline(0, color=SOFT, linewidth=0.9)
            axes.set(title=f"{title}: line PyTorch, dots JAX, ◆ optimum", xlabel="logit of the label (others 0)")
            axes.set(xlim=(-4, 12))
            axes.legend(loc="upper right" if name == "loss" else "lower right", labelspacing=0.3)
    return panels


def metric_panels(runs: list[Run], count: int) -> list[Panel]:
    """Accuracy, unsmoothed NLL and ECE on `count` held-out digits against ε, for both spreads."""
    columns = {
        "accuracy": "Accuracy ± standard error (%)",
        "nll": "NLL, unsmoothed (nats)",
        "ece": f"ECE, {BINS} bins; dotted: if calibrated",
    }
    panels: list[Panel] = []
    for name, title in columns.items():
        with drawn(panels, f"metric-{name}", f"Held-out {title} against ε for both spreads") as axes:
            for spread, marker, shift in (("all", "o", -0.003), ("others", "s", 0.003)):
                points = [run for run in runs if run.case.spread == spread or not run.case.smoothing]
                smoothings = np.array([run.case.smoothing for run in points])
                values = np.array([getattr(run.evaluations["torch"], name) for run in points])
                style: dict[str, Any] = {"color": LIGHT[spread], "markersize": 4, "label": f"“{spread}”"}
                if name == "accuracy":
                    errors = 100 * np.sqrt(values * (1 - values) / count)
                    axes.errorbar(smoothings + shift, 100 * values, errors, fmt=marker + "-", elinewidth=1, **style)
                else:
                    axes.plot(smoothings, values, marker + "-", **style)
                if name == "ece":
                    floor = [run.evaluations["torch"].test.expected for run in points]
                    axes.plot(smoothings, floor, color=LIGHT[spread], linewidth=1, linestyle=(0, (1, 2)))
            axes.set(title=title, xlabel="ε")
            if name != "accuracy":
                axes.set_ylim(bottom=0)
            axes.legend(loc="lower right" if name == "accuracy" else "upper left")
    return panels


def reliability_panels(runs: list[Run], settings: Settings) -> list[Panel]:
    """How often predictions of a given confidence are right, one panel per ε (spread "all")."""
    colours = smoothing_colours(settings)
    panels: list[Panel] = []
    for run in (run for run in runs if run.case.spread == "all"):
        title = f"ε = {run.case.smoothing:g}    ECE {run.evaluations['torch'].ece:.3f}"
        with drawn(panels, f"reliability-{run.case.smoothing:g}", f"Reliability diagram, {title}") as axes:
            curve, colour = run.evaluations["torch"].reliability, colours[run.case.smoothing]
            reliability_diagram(curve, axes, colour=colour, soft=SOFT, rule=RULE, paper=PAPER)
            axes.set(title=title)
    return panels


def thumbnails(digits: Digits) -> np.ndarray:
    """One held-out digit of each class, side by side, as ink in [0, 1]."""
    firsts = [np.argmax(digits.test.labels == label) for label in range(CLASSES)]
    images = digits.test.images[firsts, :, :, 0]
    ink = (images - images.min()) / (images.max() - images.min())
    gap = digits.side // 2
    return np.concatenate([np.pad(image, ((0, 0), (0, gap))) for image in ink], axis=1)[:, :-gap]
