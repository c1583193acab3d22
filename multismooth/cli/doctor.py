"""doctor: lists what this machine has, and checks that the backends agree on it."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from multismooth.cli.app import AsJson, app, console, print_json, progress


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="One convention and one set of kernels per backend.")] = False,
    world: Annotated[
        int | None,
        typer.Option(
            min=1, help="Also split the classes over so many processes (PyTorch) and devices (JAX) on this CPU."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List backends, versions and devices, and run the conformance cases on each of them.

    Every backend is compared with the float64 specification: values, gradients, dtypes, masks, weights, ignored labels.

    Ends with status 0 if all agree, with 1 if not.

    Example: [bold]multismooth doctor[/bold]
    """
    from multismooth.parity.doctor import survey

    with progress("looking for backends") as step:
        found = survey(on_step=step, quick=quick, world=world)
    if as_json:
        print_json(found.to_dict())
    else:
        versions = Table("package", "version", box=None, pad_edge=False)
        for name, version in found.versions.items():
            versions.add_row(name, version)
        console.print(versions)
        console.print()
        console.print(_checks_table(found))
        for line in found.failures:
            console.print(line, style="red", markup=False, highlight=False)
        console.print()
        console.print(found.verdict, style="bold green" if found else "bold red", markup=False, highlight=False)
    raise typer.Exit(0 if found else 1)


def _checks_table(found):
    table = Table(
        "backend", "device", "kernels", "dtype", "cases", "largest error", "allowed", "", box=None, pad_edge=False
    )
    for row in found.rows:
        verdict = "[green]agrees[/green]" if row.agrees else "[red]differs[/red]"
        table.add_row(
            row.backend,
            row.device,
            row.kernels,
            row.dtype,
            str(row.cases),
            f"{row.error:.1e}",
            f"{row.tolerance:.1e}",
            verdict,
        )
    return table
