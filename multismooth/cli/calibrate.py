"""calibrate: what the probabilities of one model's predictions are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from multismooth.cli.app import AsJson, app, console, errors_as_status_2, print_json, print_text, spinner
from multismooth.errors import complain

NAMES = {
    "logits": ("logits", "test_logits", "scores"),
    "probs": ("probs", "probabilities", "test_probs"),
    "targets": ("targets", "labels", "test_targets", "test_labels", "y", "y_true"),
    "validation logits": ("val_logits", "validation_logits"),
    "validation targets": ("val_targets", "validation_targets", "val_labels"),
}
File = typer.Argument(help="An .npz file with logits (N, K) or probs (N, K), and targets (N,).", exists=True)


@app.command()
def calibrate(
    file: Annotated[Path, File],
    logits: Annotated[str | None, typer.Option(help="Name of the logits in the file; by default logits.")] = None,
    probs: Annotated[str | None, typer.Option(help="Name of the probabilities; by default probs.")] = None,
    targets: Annotated[str | None, typer.Option(help="Name of the labels; by default targets or labels.")] = None,
    bins: Annotated[int, typer.Option(help="Bins of equal width.", min=1)] = 15,
    ignore_index: Annotated[int, typer.Option(help="The label of rows that do not count.")] = -100,
    out: Annotated[Path, typer.Option(help="The page.", dir_okay=False)] = Path("calibration.html"),
    as_json: AsJson = False,
) -> None:
    """Say how well a model's confidence fits its accuracy: numbers, and a page with pictures.

    The error stands beside its floor, the error of a perfectly calibrated model, and beside what other libraries would
    call by the same name. With val_logits and val_targets in the file, the temperature is fitted on these.

    Save the file by [bold]np.savez("logits.npz", logits=logits, targets=labels)[/bold].

    Needs [bold]pip install "multismooth\\[calibration,plot,cli]"[/bold].

    Example: [bold]multismooth calibrate logits.npz --out calibration.html[/bold]
    """
    with errors_as_status_2(), spinner(f"reading {file}"):
        from multismooth.calibration import page

        arrays = _arrays(file)
        scores = _scores(arrays, logits, probs)
        labels = _take(arrays, "targets", targets)
        validation = [_found(arrays, f"validation {what}") for what in ("logits", "targets")]
        given = validation if all(x is not None for x in validation) and "logits" in scores else None
        found = page.assess(file.name, labels, **scores, validation=given, bins=bins, ignore_index=ignore_index)
        page.write(found, out)
    if as_json:
        print_json(found.to_dict() | {"page": str(out)})
        return
    print_text(found.verdict)
    table = Table("", "", "meaning", box=None, pad_edge=False)
    for row in page.rows_of(found):
        table.add_row(*row)
    console.print(table)
    print_text(f"Open {out}")


def _arrays(file):
    import numpy as np

    try:
        with np.load(file) as opened:
            return dict(opened)
    except (ValueError, OSError, TypeError) as error:
        expected, remedy = "an .npz file of arrays", 'np.savez("logits.npz", logits=logits, targets=labels) writes one.'
        raise complain("file", expected, f"{file} ({error})", remedy) from error


def _scores(arrays, logits, probs):
    """{"logits" or "probs": the array}. What the caller named comes first; they are never guessed from values."""
    if logits is None and probs is None:
        found = {what: array for what in ("logits", "probs") if (array := _found(arrays, what)) is not None}
        if len(found) == 1:
            return found
    elif logits is None or probs is None:
        what, name = ("logits", logits) if probs is None else ("probs", probs)
        return {what: _take(arrays, what, name)}
    names = ", ".join(arrays) or "none"
    raise complain("file", "one array of logits or of probs", f"arrays {names}", "--logits or --probs names it.")


def _found(arrays, what):
    return next((arrays[name] for name in NAMES[what] if name in arrays), None)


def _take(arrays, what, name):
    """The array of that name, or of a usual one."""
    array = _found(arrays, what) if name is None else arrays.get(name)
    if array is None:
        remedy = f"--{what} names the array."
        raise complain("file", f"an array {name or ' or '.join(NAMES[what])}", f"arrays {', '.join(arrays)}", remedy)
    return array
