"""The application that the commands belong to, and what they share: consoles, JSON, statuses to end with."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager, redirect_stdout
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    help="Label smoothing that agrees between PyTorch, JAX and NumPy, and says what other libraries compute.",
)
console = Console()
errors = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
Smoothing = Annotated[float, typer.Option("--label-smoothing", "-e", help="ε, a number in [0, 1].")]


@app.callback()
def main() -> None:
    """Label smoothing that agrees between PyTorch, JAX and NumPy, and says what other libraries compute."""


@contextmanager
def refusing():
    """Errors of this library and its users' mistakes end with status 2 and their text, not with a traceback."""
    try:
        yield
    except (ValueError, ImportError, OSError) as error:
        errors.print(f"[red]{escape(str(error))}[/red]", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def aside(text):
    """A spinner on stderr, where all that the code of others prints goes meanwhile: stdout has the result alone."""
    with errors.status(text) as status, redirect_stdout(sys.stderr):
        yield status


def say(text):
    console.print(escape(str(text)), highlight=False, soft_wrap=True)


def say_json(value):
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))
