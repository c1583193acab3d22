"""One run of a sweep: what `train` returned, reduced to what the table and the page need, and its file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multismooth.calibration import ReliabilityCurve, reliability_curve, summary
from multismooth.errors import complain

SHOWN = 3  # classes in the picture of the clusters, as in Müller et al.
POINTS = 100  # of each
BINS = 15


@dataclass(frozen=True)
class Run:
    """One ε and seed. `measures` are those of the test part, the temperature that of the validation part."""

    label_smoothing: float
    seed: int
    measures: dict[str, float]
    status: str  # of the temperature
    curve: dict[str, list[float]]
    clusters: dict[str, list[Any]] | None

    @property
    def reliability(self) -> ReliabilityCurve:
        return ReliabilityCurve(**{name: np.array(values, float) for name, values in self.curve.items()})


def evaluated(train, label_smoothing: float, seed: int) -> Run:
    """Train, and measure."""
    parts = tuple(train(label_smoothing, seed))
    if len(parts) not in (4, 5):
        raise complain(
            "train",
            "a function that returns (val_logits, val_targets, test_logits, test_targets[, (features, classifier)])",
            f"{len(parts)} values",
            "The last is for the picture of the clusters and may be left out.",
        )
    val_logits, val_targets, logits, targets = parts[:4]
    fit = summary.quiet_fit(val_logits, val_targets)
    measures = summary.measures(targets, logits=logits, bins=BINS)
    measures |= {"temperature": fit.temperature}
    measures |= summary.after_temperature(logits, targets, fit.temperature, bins=BINS)
    curve = {name: values.tolist() for name, values in vars(reliability_curve(logits, targets, bins=BINS)).items()}
    clusters = None
    if len(parts) == 5 and parts[4] is not None:
        features, classifier = parts[4]
        clusters = projected(features, classifier, targets)
    return Run(float(label_smoothing), int(seed), measures, fit.status, curve, clusters)


def projected(features, classifier, targets) -> dict[str, list[Any]]:
    """Features in the plane through the classifier's rows of three classes (Müller et al. 2019, §2)."""
    features, classifier, targets = (_as_numpy(x) for x in (features, classifier, targets))
    classes = [k for k in range(len(classifier)) if np.any(targets == k)][:SHOWN]
    if len(classes) < SHOWN or features.shape[-1] != classifier.shape[-1]:
        return {"class": [], "x": [], "y": []}
    rows = classifier[classes]
    basis, _ = np.linalg.qr(np.stack([rows[1] - rows[0], rows[2] - rows[0]], axis=1))
    found: dict[str, list[Any]] = {"class": [], "x": [], "y": []}
    for k in classes:
        points = (features[targets == k][:POINTS] - rows[0]) @ basis
        found["class"] += [int(k)] * len(points)
        found["x"] += np.round(points[:, 0], 4).tolist()
        found["y"] += np.round(points[:, 1], 4).tolist()
    return found


def _as_numpy(array):
    if hasattr(array, "detach"):
        array = array.detach().cpu()
    return np.asarray(array)


def place(folder: Path, label_smoothing: float, seed: int) -> Path:
    """The file of a run."""
    return folder / "runs" / f"{label_smoothing!r}-{seed}.json"


def write(run: Run, folder: Path) -> None:
    """Write a run's file whole or not at all: a kill leaves no half of one."""
    path = place(folder, run.label_smoothing, run.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}.part")
    beside.write_text(json.dumps(asdict(run)), encoding="utf-8")
    beside.replace(path)


def read(folder: Path, label_smoothing: float, seed: int) -> Run | None:
    """The run in its file; None if there is none yet."""
    path = place(folder, label_smoothing, seed)
    if not path.exists():
        return None
    try:
        return Run(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise complain("out", "files of a sweep", f"{path} ({error})", "Delete it, and it runs again.") from error
