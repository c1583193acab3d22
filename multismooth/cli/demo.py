"""demo: trains one classifier in two frameworks and compares them after every step."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from multismooth.cli.app import app, console, error_console


class Data(StrEnum):
    digits = "digits"
    mnist = "mnist"


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer ε and fewer steps: within a minute on two cores.")
    ] = False,
    data: Annotated[
        Data, typer.Option(help="digits: 1,797 of 8 × 8 pixels. mnist: 5,000 of 28 × 28 pixels.")
    ] = Data.digits,
    out: Annotated[
        Path, typer.Option(help="Directory for report.html, results.json and the pictures.", file_okay=False)
    ] = Path("multismooth-demo"),
) -> None:
    """Train one digit classifier in PyTorch and in Flax, and check that every step agrees.

    Compares loss, gradients and parameters after each step, for several ε
    and for both spreads of the smoothed mass, and writes a page to read.

    Ends with status 0 if all float64 steps agree within 1e-9, with 1 if not,
    with 2 if a package is missing.

    Needs [bold]pip install "multismooth\\[demo]"[/bold]; downloads nothing when it runs.

    Example: [bold]multismooth demo --quick --data mnist --out here[/bold]
    """
    from multismooth.demo import Settings, require

    try:
        require(data.value)
    except ModuleNotFoundError as error:
        error_console.print(f"[red]{escape(str(error))}[/red]")
        raise typer.Exit(2) from error
    settings = Settings.of(data.value, quick=quick)
    outcome = _run_with_progress(settings, out)
    console.print(f"[bold {'green' if outcome.agreed else 'red'}]{escape(outcome.verdict)}[/]", highlight=False)
    console.print(outcome.float32_verdict, highlight=False)
    console.print(f"Open {out / 'report.html'}", highlight=False, soft_wrap=True)
    if not outcome.agreed:
        raise typer.Exit(1)


def _run_with_progress(settings, out):
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from multismooth.demo import run

    columns = (
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("loading", total=settings.total_steps)

        def on_step(case, dtype, largest):
            progress.update(task, advance=1, description=f"{case}, {dtype}: largest difference {largest:.0e}")

        outcome = run(settings, out, on_step=on_step)
        progress.update(task, description="done")
    return outcome
