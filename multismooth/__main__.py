"""`python -m multismooth`: the command line."""

import sys


def main() -> None:
    """Run the command line, or say which extra it needs."""
    try:
        from multismooth.cli import app
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("typer", "rich"):
            raise
        sys.exit(f'the command line needs {error.name}, not installed here: pip install "multismooth[cli]"')
    app(prog_name="multismooth")


if __name__ == "__main__":
    main()
