"""explain and convert: what the registry says of conventions. They call no user's code."""

from __future__ import annotations

from dataclasses import asdict, fields
from math import log
from typing import Annotated

import typer

from multismooth.cli.app import AsJson, Smoothing, app, errors_as_status_2, print_json, print_text
from multismooth.cli.target import load_convention
from multismooth.convention import DIVIDES_BY, Convention

Classes = Annotated[int, typer.Option("--num-classes", "-k", help="K, the number of classes.", min=1)]
Name = typer.Argument(help="A name or alias in the registry, such as torch, fairseq or hf.", metavar="CONVENTION")


@app.command()
def explain(
    convention: Annotated[str | None, Name] = None,
    label_smoothing: Smoothing = 0.1,
    classes: Classes = 5,
    everything: Annotated[bool, typer.Option("--list", help="All conventions, two lines each.")] = False,
    about: Annotated[str, typer.Option("--filter", help="With --list: those whose text has these words.")] = "",
    as_json: AsJson = False,
) -> None:
    """Say what a library computes when it is given label_smoothing: formula, target row, what "mean" divides by.

    Without a name: all names.

    Example: [bold]multismooth explain fairseq -e 0.1 -k 3[/bold]
    """
    from multismooth.registry import aliases, conventions, resolve

    if everything or convention is None:
        chosen = {name: entry for name, entry in conventions.items() if _is_about(entry, about)}
        if as_json:
            print_json({name: _as_json(entry) for name, entry in chosen.items()})
        else:
            for name, entry in chosen.items():
                print_text(f"{name:<22} {_summary(entry)}\n    {entry.source}")
            print_text(f"{len(chosen)} of {len(conventions)} conventions" if about else f"{len(chosen)} conventions")
        return
    with errors_as_status_2():
        entry = resolve(load_convention(convention))
        text = entry.explain(label_smoothing, classes)
        floor = _floor(entry, label_smoothing, classes)
        row = entry.target_row(label_smoothing, classes, entry.first_label(classes))
    also = sorted(alias for alias, name in aliases.items() if name == entry.name)
    if as_json:
        print_json(_as_json(entry) | {"aliases": also, "text": text, "target_row": row, "floor": floor})
        return
    print_text(text)
    print_text(f"  the loss of an element is at least {floor:.6g}" + (": H(q), in nats" if floor else ""))
    print_text(f"  source: {entry.source}")
    print_text(f"  ignores by default: {'no label' if entry.ignore_index is None else entry.ignore_index}")
    if also:
        print_text(f"  also called: {', '.join(also)}")


@app.command()
def convert(
    original: Annotated[str, typer.Argument(help="The convention that your ε belongs to.", metavar="FROM")],
    other: Annotated[str, typer.Argument(help="The convention that you port to.", metavar="TO")],
    label_smoothing: Smoothing = 0.1,
    classes: Classes = 5,
    as_json: AsJson = False,
) -> None:
    """Give the ε with which TO has the targets that FROM has, and say what differs all the same.

    Example: [bold]multismooth convert fairseq torch -e 0.1 -k 32000[/bold]
    """
    from multismooth.registry import resolve

    with errors_as_status_2():
        a, b = (resolve(load_convention(name)) for name in (original, other))
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


def _floor(convention, label_smoothing, classes):
    """The least loss of one element: H(q), and 0 for a KL divergence."""
    if convention.objective == "kl":
        return 0.0
    row = convention.target_row(label_smoothing, classes, convention.first_label(classes))
    return convention.scale * sum(-q * log(q) for q in row if q > 0)


def _summary(entry):
    """Where ε goes, what a mean divides by and which label is ignored, in a line."""
    spread = {"all": "ε over all K", "others": "ε over the K − 1 others"}[entry.spread]
    spread += f" but {', '.join(map(str, entry.exclude))}" if entry.exclude else ""
    objective = ", KL" if entry.objective == "kl" else ""
    ignored = "no label" if entry.ignore_index is None else str(entry.ignore_index)
    return f"{spread}{objective}; mean by {entry.denominator.replace('_', ' ')}; ignores {ignored}"


def _is_about(entry, words):
    """Whether every word is in the name, the summary, the source or the notes."""
    text = f"{entry.name} {_summary(entry)} {entry.source} {entry.notes}".lower()
    return all(word in text for word in words.lower().split())
