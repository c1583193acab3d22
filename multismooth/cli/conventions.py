"""explain and convert: what the registry knows, without calling anybody's code."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Annotated

import typer

from multismooth.cli.app import AsJson, Smoothing, app, console, refusing, say, say_json
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
            say_json({name: _plain(entry) for name, entry in conventions.items()})
        else:
            console.print(_table(conventions))
        return
    with refusing():
        entry = resolve(convention)
        text = entry.explain(label_smoothing, classes)
        row = entry.target_row(label_smoothing, classes, entry.first_label(classes))
    also = sorted(alias for alias, name in aliases.items() if name == entry.name)
    if as_json:
        say_json(_plain(entry) | {"aliases": also, "text": text, "target_row": row})
        return
    say(text)
    say(f"  source: {entry.source}")
    say(f"  ignores by default: {'no label' if entry.ignore_index is None else entry.ignore_index}")
    if also:
        say(f"  also called: {', '.join(also)}")


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

    with refusing():
        a, b = resolve(original), resolve(other)
        a.first_label(classes)  # there is one, or nothing can be converted
        result = a.smoothing_for(b, label_smoothing, classes)
    rest = {field: [before, after] for field, before, after in _differences(a, b)}
    if as_json:
        say_json({"from": a.name, "to": b.name, "classes": classes, "label_smoothing": result, "differences": rest})
        return
    say(f"{a.name} with ε = {label_smoothing:g} has the targets of {b.name} with ε = {result!r} (K = {classes})")
    for field, (before, after) in rest.items():
        say(f"  still different: {field}: {before} → {after}")


def _differences(a, b):
    """(field, of a, of b) for all but the targets, which ε was converted for."""
    for f in fields(Convention):
        before, after = getattr(a, f.name), getattr(b, f.name)
        if f.name in ("name", "source", "notes", "spread", "smoothing_map") or before == after:
            continue
        if f.name.endswith("denominator"):
            before, after = (DIVIDES_BY.get(kind, "what the loss does") for kind in (before, after))
        yield "ignored label" if f.name == "ignore_index" else f.name.replace("_", " "), before, after


def _plain(convention):
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
