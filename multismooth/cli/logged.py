"""Reads logits, labels and a loss that a training run logged, from .npz and JSON files."""

import json
from pathlib import Path

import numpy as np

from multismooth.errors import complain

NAMES = {
    "logits": ("logits", "outputs", "scores", "z", "arr_0"),
    "labels": ("labels", "targets", "target", "y", "arr_1"),
    "loss": ("loss", "value", "arr_2"),
}


def logged(path, loss=None):
    """(logits, labels, loss) in a file. `path` may be logits.npy,labels.npy, with the loss beside it.

    The loss is text where its digits say how exact it is.
    """
    paths = path.split(",")
    two = len(paths) == 2
    found = dict(zip(("logits", "labels"), map(_read, paths), strict=True)) if two else _read(path)
    if not isinstance(found, dict):
        raise complain("--numbers", "a file with logits and labels", f"{path}", "Or two files: logits.npy,labels.npy.")
    logits, labels = (_of(found, name, path) for name in ("logits", "labels"))
    loss = _of(found, "loss", path) if loss is None else loss
    labels = np.asarray(labels)
    return logits, labels.astype(np.int64) if labels.dtype.kind in "iuf" else labels, _number(loss)


def _number(loss):
    return loss if isinstance(loss, str) else float(np.asarray(loss).reshape(-1)[0])


def _of(found, name, path):
    known = [key for key in NAMES[name] if key in found]
    if not known:
        remedy = "Pass it as --loss." if name == "loss" else f"Name the array {name}."
        raise complain("--numbers", f"{name} in {path}", ", ".join(map(str, found)) or "nothing", remedy)
    return found[known[0]]


def _read(path):
    """A file as {name: array}, or as one array."""
    try:
        if path.endswith(".json"):
            found = json.loads(Path(path).read_text(encoding="utf-8"), parse_float=str)  # text keeps the digits
            return found | {key: np.array(found[key], np.float64) for key in NAMES["logits"] if key in found}
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found:
            return dict(found)
    except (OSError, ValueError) as error:
        raise complain(
            "--numbers", "a .npz, .npy or .json file", f"{path}: {error}", "Save it with np.savez."
        ) from error
