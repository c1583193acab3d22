"""sweep: trains with several ε and seeds, and shows what smoothing does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from multismooth.cli.app import AsJson, app, error_console, errors_as_status_2, print_text
from multismooth.cli.target import GRAMMAR, load
from multismooth.errors import complain

DIGITS = "multismooth.sweeping.digits:train"
Target = typer.Argument(help=f"{GRAMMAR}; called as train(label_smoothing, seed).", metavar="TRAIN")
Keywords = typer.Option("--with", help="name=value for the function; may be repeated.")


@dataclass(frozen=True)
class Train:
    """A train function by its name, which a process of its own can load again."""

    target: str
    keywords: tuple[str, ...]

    @property
    def name(self) -> str:
        return " ".join([self.target, *self.keywords])

    def __call__(self, label_smoothing, seed) -> Any:
        return load(self.target, self.keywords)(label_smoothing, seed)


@app.command()
def sweep(
    train: Annotated[str, Target] = DIGITS,
    label_smoothing: Annotated[
        str, typer.Option("--label-smoothing", "-e", help="The ε, separated by commas.")
    ] = "0,0.02,0.05,0.1,0.2,0.3",
    seeds: Annotated[int, typer.Option(help="How many trainings for each ε.", min=1)] = 3,
    processes: Annotated[int, typer.Option("--processes", "-p", help="Trainings at a time.", min=1)] = 1,
    out: Annotated[Path, typer.Option(help="Folder for report.html, results.json and runs.", file_okay=False)] = Path(
        "multismooth-sweep"
    ),
    resume: Annotated[
        bool, typer.Option(help="Keep the runs that are in the folder already. --no-resume after a change of TRAIN.")
    ] = True,
    keywords: Annotated[list[str] | None, Keywords] = None,
    as_json: AsJson = False,
) -> None:
    """Train with several ε and seeds; tabulate accuracy, likelihood and calibration, and write one page.

    TRAIN is called as train(label_smoothing, seed) and returns val_logits, val_targets, test_logits, test_targets. The
    temperature is fitted on the first two, everything else is of the last two. Without TRAIN: a small network on the
    digits of scikit-learn.

    A run is kept as soon as it is done: after a kill, the same command does the rest.

    Needs [bold]pip install "multismooth\\[calibration,plot,cli]"[/bold].

    Example: [bold]multismooth sweep mytraining:train -e 0,0.1 --seeds 5 --processes 2[/bold]
    """
    with errors_as_status_2():
        smoothings = _smoothings(label_smoothing)
        job = Train(train, tuple(keywords or ()))
        load(train, job.keywords)  # a wrong name is an error now, and not in each process
        found = _with_progress(job, smoothings, seeds, processes, out, resume)
        found.page(out / "report.html")
        (out / "results.json").write_text(found.to_json() + "\n", encoding="utf-8")
    if as_json:
        typer.echo(found.to_json())
        return
    print_text(found.table())
    print_text(f"Open {out / 'report.html'}")


def _smoothings(text):
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        remedy = "Separate them by commas, as in 0,0.1."
        raise complain("--label-smoothing", "numbers in [0, 1]", repr(text), remedy) from error


def _with_progress(job, smoothings, seeds, processes, out, resume):
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from multismooth.sweeping import sweep as run_sweep

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=error_console) as progress:
        task = progress.add_task("training", total=len(smoothings) * seeds)

        def on_run(run, kept):
            text = f"ε = {run.label_smoothing:g}, seed {run.seed}: accuracy {run.measures['accuracy']:.2%}"
            progress.update(task, advance=1, description=text + (" (kept)" if kept else ""))

        shared = {"seeds": seeds, "processes": processes, "out": out, "resume": resume, "on_run": on_run}
        return run_sweep(job, smoothings, **shared)
