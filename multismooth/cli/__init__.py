"""The command line: `multismooth`, also `python -m multismooth`. Each command imports what it needs when it runs."""

from multismooth.cli import calibrate, conventions, demo, doctor, losses, sweep
from multismooth.cli.app import app

__all__ = ["app", "calibrate", "conventions", "demo", "doctor", "losses", "sweep"]
