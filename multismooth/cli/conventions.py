"""explain and convert: what the registry says of conventions. They call no user's code."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated

import typer

from multismooth.cli.app import AsJson, Smoothing, app, console, errors_as_status_2, print_json, print_text
from multismooth.convention import DIVIDES_BY, Convention

Name = typer.Argument(help="A name or alias in the registry, such as torch, fairseq or hf.", metavar="CONVENTION")


@app.command()
def explain(
    convention: Annotated[str | None, Name] = None,
    label_smoothing: Smoothing = 0.1,
    classes: Annotated[int, typer.Option("--classes", "-k", help="K, the number of classes.", min=1)] = 5,
    everything: Annotated[bool, typer.Option("--list", help="All conventions in a table.")] = False,
    as_json: AsJson = False,
) -> None:
    """Say what a library computes when it is given label_smoothing: formula, target row, what "mean" divides by.

    Without a name: all names.

    Example: [bold]multismooth explain fairseq -e 0.1 -k 3[/bold]
    """
    from multismooth.registry import aliases, conventions, resolve

    if everything or convention is None:
        if as_json:
            print_json({name: _as_json(entry) for name, entry in conventions.items()})
        else:
            console.print(_table(conventions))
        return
    with errors_as_status_2():
        entry = resolve(convention)
        text = entry.explain(label_smoothing, classes)
        row = entry.target_row(label_smoothing, classes, entry.first_label(classes))
    also = sorted(alias for alias, name in aliases.items() if name == entry.name)
    if as_json:
        print_json(_as_json(entry) | {"aliases": also, "text": text, "target_row": row})
        return
    print_text(text)
    print_text(f"  source: {entry.source}")
    print_text(f"  ignores by default: {'no label' if entry.ignore_index is None else entry.ignore_index}")
    if also:
        print_text(f"  also called: {', '.join(also)}")


@app.command()
def convert(
    original: Annotated[str, typer.Argument(help="The convention that your ε belongs to.", metavar="FROM")],
    other: Annotated[str, typer.Argument(help="The convention that you port to.", metavar="TO")],
    label_smoothing: Smoothing = 0.1,
    classes: Annotated[int, typer.Option("--classes", "-k", help="K, the number of classes.", min=1)] = 1000,
    as_json: AsJson = False,
) -> None:
    """Give the ε with which TO has the targets that FROM has, and say what differs all the same.

    Example: [bold]multismooth convert fairseq torch -e 0.1 -k 32000[/bold]
    """
    from multismooth.registry import resolve

    with errors_as_status_2():
        a, b = resolve(original), resolve(other)
        a.first_label(classes)  # raises where no class can receive smoothed mass
        result = a.smoothing_for(b, label_smoothing, classes)
    different = {field: [before, after] for field, before, after in _differences(a, b)}
    if as_json:
        print_json(
            {"from": a.name, "to": b.name, "classes": classes, "label_smoothing": result, "differences": different}
        )
        return
    print_text(f"{a.name} with ε = {label_smoothing:g} has the targets of {b.name} with ε = {result!r} (K = {classes})")
    for field, (before, after) in different.items():
        print_text(f"  still different: {field}: {before} → {after}")


def _differences(a, b):
    """(field, its value in a, its value in b) for all fields but those of the targets, for which ε was converted."""
    for f in fields(Convention):
        before, after = getattr(a, f.name), getattr(b, f.name)
        if f.name in ("name", "source", "notes", "spread", "smoothing_map") or before == after:
            continue
        if f.name.endswith("denominator"):
            before, after = (DIVIDES_BY.get(kind, "what the loss does") for kind in (before, after))
        yield "ignored label" if f.name == "ignore_index" else f.name.replace("_", " "), before, after


def _as_json(convention):
    return asdict(convention) | {"exclude": list(convention.exclude)}


def _table(conventions):
    from rich.table import Column, Table

    columns = (
        Column("name", no_wrap=True),
        "ε goes to",
        "mean divides by",
        "ignores",
        Column("source", overflow="fold"),
    )
    table = Table(*columns, box=None, pad_edge=False)
    for name, entry in conventions.items():
        spread = {"all": "all K", "others": "K − 1 others"}[entry.spread]
        spread += f" but {', '.join(map(str, entry.exclude))}" if entry.exclude else ""
        objective = ", KL" if entry.objective == "kl" else ""
        ignored = "–" if entry.ignore_index is None else str(entry.ignore_index)
        table.add_row(name, spread + objective, entry.denominator.replace("_", " "), ignored, entry.source)
    return table
