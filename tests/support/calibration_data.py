"""The recorded logits of tests/golden/calibration, and what libraries returned for them."""

import json
from functools import cache
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parents[1] / "golden" / "calibration"
NAMES = ("cancer-mlp", "characters-mlp", "digits-mlp", "mnist5k-cnn")


@cache
def record(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@cache
def sets():
    """{(name, ε): (validation logits, validation labels, test logits, test labels), all of them float64 and int64}."""
    found = {}
    for name in NAMES:
        with np.load(FOLDER / f"{name}.npz") as file:
            arrays = dict(file)
        for smoothing in record(name)["by_smoothing"]:
            parts = [(f"logits_{part}_{smoothing}", f"labels_{part}") for part in ("val", "test")]
            found[name, smoothing] = [
                arrays[key].astype(np.float64 if key.startswith("logits") else np.int64)
                for pair in parts
                for key in pair
            ]
    return found


def recorded(name, smoothing):
    return record(name)["by_smoothing"][smoothing]


def softmax(logits):
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)
