"""The page of `multismooth calibrate`: one model's numbers, its pictures, and the same data in other dialects."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from multismooth.calibration import plotting, summary
from multismooth.calibration.conventions import conventions
from multismooth.calibration.coverage import RiskCoverage, risk_coverage
from multismooth.calibration.error import expected_calibration_error
from multismooth.calibration.reliability import ReliabilityCurve, reliability_curve
from multismooth.calibration.temperature import TemperatureFit
from multismooth.pages import html
from multismooth.pages.drawing import LIGHT, PAPER, RULE, SOFT, Panel, drawn


@dataclass(frozen=True)
class Assessment:
    """What one model's predictions amount to."""

    source: str
    count: int
    classes: int
    measures: dict[str, float]
    fit: TemperatureFit | None  # None for probabilities, which have no temperature
    fitted_on: str  # what the temperature was fitted on
    after: dict[str, float]  # with that temperature, if it was fitted on other data
    dialects: dict[str, float]
    curve: ReliabilityCurve
    risk: RiskCoverage

    @property
    def verdict(self) -> str:
        """What the numbers say, in one sentence."""
        m = self.measures
        gap = m["confidence"] - m["accuracy"]
        if m["p_value"] > 0.05:
            return (
                f"ECE {m['ece']:.4f} is what chance gives a perfectly calibrated model "
                f"({m['ece_if_calibrated']:.4f}): no miscalibration is visible in {self.count:,} predictions."
            )
        side = "over" if gap > 0 else "under"
        return (
            f"The model is {side}-confident: {m['confidence']:.1%} confident and {m['accuracy']:.1%} right. ECE "
            f"{m['ece']:.4f}, where a perfectly calibrated model would show {m['ece_if_calibrated']:.4f}."
        )

    def to_dict(self) -> dict:
        """For JSON."""
        fit = None if self.fit is None else {"fitted_on": self.fitted_on} | vars(self.fit)
        return {
            "source": self.source,
            "verdict": self.verdict,
            "count": self.count,
            "classes": self.classes,
            "measures": _finite(self.measures | self.after),
            "temperature": None if fit is None else _finite(fit),
            "dialects": _finite(self.dialects),
        }


def _finite(numbers: dict) -> dict:
    """JSON has no NaN and no infinity; both become null."""
    return {name: None if isinstance(x, float) and not np.isfinite(x) else x for name, x in numbers.items()}


def assess(source, targets, *, logits=None, probs=None, validation=None, bins=15, ignore_index=-100) -> Assessment:
    """Compute everything. `validation` is (logits, targets) to fit the temperature on."""
    arguments = {"logits": logits, "probs": probs, "targets": targets, "ignore_index": ignore_index}
    fit, fitted_on, after = None, "", {}
    if logits is not None:
        own = validation is None
        fit = summary.quiet_fit(*((logits, targets) if own else validation), ignore_index=ignore_index)
        fitted_on = "these predictions themselves" if own else "the validation data"
        if not own:
            after = summary.after_temperature(logits, targets, fit.temperature, bins=bins, ignore_index=ignore_index)
    curve = reliability_curve(**arguments, bins=bins)
    return Assessment(
        source,
        int(curve.count.sum()),
        (logits if probs is None else probs).shape[-1],
        summary.measures(targets, logits=logits, probs=probs, bins=bins, ignore_index=ignore_index),
        fit,
        fitted_on,
        after,
        {name: expected_calibration_error(**arguments, convention=entry) for name, entry in conventions.items()},
        curve,
        risk_coverage(**arguments),
    )


def write(found: Assessment, path: Path) -> None:
    """Write the page (`pages/templates/calibration.html`)."""
    dialects = [*found.dialects.values()]
    html.write(
        path,
        "calibration.html",
        title=f"Calibration of {found.source}",
        found=found,
        fewest=plotting.FEWEST,
        drawings=panels(found),
        numbers=[(name, meaning, value) for name, value, meaning in rows_of(found)],
        dialects=[(name, _text(name), f"{value:.4f}") for name, value in found.dialects.items()],
        low=np.nanmin(dialects),
        high=np.nanmax(dialects),
    )


def panels(found: Assessment) -> list[Panel]:
    made: list[Panel] = []
    colour = LIGHT["all"]
    with drawn(made, "reliability", "Accuracy against confidence, with exact intervals") as axes:
        plotting.reliability_diagram(found.curve, axes, colour=colour, soft=SOFT, rule=RULE, paper=PAPER)
        axes.set(title=f"Reliability, ECE {found.measures['ece']:.4f}")
    with drawn(made, "confidence", "How many predictions have which confidence") as axes:
        plotting.confidence_histogram(found.curve, axes, colour=colour, soft=SOFT)
        axes.set(title="Confidence")
    with drawn(made, "risk", "Risk against coverage") as axes:
        plotting.risk_coverage_curve(found.risk, axes, colour=colour, soft=SOFT)
        axes.set(title=f"Risk, AURC {found.risk.aurc:.4f}")
    return made


def rows_of(found) -> list[tuple[str, str, str]]:
    """(name, number, meaning) of the table."""
    lines = [(name.replace("_", " "), f"{x:.4f}", summary.MEANINGS[name]) for name, x in found.measures.items()]
    if found.fit is not None:
        fit = found.fit
        known = fit.status == "converged"
        text = f"{fit.temperature:.4g} ± {fit.standard_error:.2g}" if known else fit.status
        lines.append(("temperature", text, f"fitted on {found.fitted_on}"))
    names = {"nll_after": "nll after", "ece_after": "ece after", "ece_if_calibrated_after": "if calibrated, after"}
    lines += [(names[name], f"{x:.4f}", "with that temperature") for name, x in found.after.items()]
    return lines


def _text(name):
    return str(conventions[name]).partition(": ")[2]
