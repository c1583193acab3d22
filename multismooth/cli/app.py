"""The application to which the commands belong, and what they share: consoles, output, the exit status of errors."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, redirect_stdout
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Label smoothing that agrees between PyTorch, JAX and NumPy, and says what other libraries compute.",
)
console = Console()
error_console = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
Smoothing = Annotated[float, typer.Option("--label-smoothing", "-e", help="ε, a number in [0, 1].")]


def _version(asked: bool) -> None:
    if asked:
        from multismooth import __version__

        typer.echo(f"multismooth {__version__}")
        raise typer.Exit


Version = typer.Option("--version", callback=_version, is_eager=True, help="The version, and nothing else.")


@app.callback()
def main(version: Annotated[bool, Version] = False) -> None:
    """Label smoothing that agrees between PyTorch, JAX and NumPy, and says what other libraries compute."""


@contextmanager
def errors_as_status_2():
    """An error of this library or a mistake of its user ends the program with its text and status 2, no traceback."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        error_console.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def spinner(text):
    """A spinner on stderr. What the user's code prints goes to stderr too, so that stdout has the result only."""
    with error_console.status(text) as status, redirect_stdout(sys.stderr):
        yield status


@contextmanager
def progress(text):
    """A bar on stderr; yields step(text, done, total). What the user's code prints goes to stderr too."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=error_console, transient=True) as bar, redirect_stdout(sys.stderr):
        task = bar.add_task(text, total=None)
        yield lambda text, done, total: bar.update(task, description=text, completed=done, total=total)


def print_text(text):
    console.print(escape(str(text)), highlight=False, soft_wrap=True)


def print_json(value):
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
