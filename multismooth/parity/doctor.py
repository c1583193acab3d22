"""What this machine has, and whether every backend on every device agrees with the float64 specification."""

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from typing import Any

import multismooth
from multismooth.parity import check
from multismooth.parity.checking.cases import VARIED

SOURCES = {
    "numpy": "pip install multismooth",
    "torch": 'pip install "multismooth[torch]"',
    "numba": 'pip install "multismooth[fast]"',
    "triton": "it comes with CUDA builds of PyTorch",
    "jax": 'pip install "multismooth[jax]"',
    "flax": 'pip install "multismooth[jax]"',
    "optax": 'pip install "multismooth[jax]"',
}
CONVENTIONS = ("torch", "flax-examples", "fastai")  # between them every kind of term, and two divisors


@dataclass(frozen=True)
class Row:
    """All cases of one dtype on one device: the largest relative error beside what is allowed for it.

    kernels: the implementations that ran, see `multismooth.implementation`; empty in JAX, which has one.
    """

    backend: str
    device: str
    kernels: str
    dtype: str
    cases: int
    error: float
    tolerance: float
    agrees: bool


@dataclass(frozen=True)
class Survey:
    """versions: {package: its version, or why it is not there}; rows: what was checked; failures: first ones."""

    versions: dict[str, str]
    rows: tuple[Row, ...]
    failures: tuple[str, ...]

    def __bool__(self):
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values; an error that is not finite is the text "inf"."""
        rows = [asdict(row) | {"error": row.error if isfinite(row.error) else "inf"} for row in self.rows]
        return {"agrees": bool(self)} | asdict(self) | {"rows": rows}


def survey(on_step: Callable[[str], Any] = lambda text: None) -> Survey:
    """Look at all backends and devices; `on_step(text)` is told what is being checked.

    >>> from multismooth.parity.doctor import survey
    >>> bool(survey())
    True
    """
    versions = {
        "python": f"{platform.python_version()} on {platform.machine()}",
        "multismooth": multismooth.__version__,
    }
    versions |= {package: _version(package) for package in SOURCES}
    rows, failures = [], []
    for backend, device, fn, context in _places(versions):
        on_step(f"{backend} on {device}")
        outcomes: list = []
        kernels: set = set()
        for name in CONVENTIONS:
            varied = [a for a in VARIED if a != "prior" or multismooth.conventions[name].spread == "all"]
            try:
                with context() as ran:
                    report = check(partial(fn, convention=name), name, framework=backend, accepts=varied)
            except Exception as error:  # a device that cannot compute is what this looks for; the others go on
                failures.append(f"{backend} on {device}, {name}: {type(error).__name__}: {error}")
                break
            outcomes += report.outcomes
            kernels.update(ran or ())
            if not report:
                failures.append(f"{backend} on {device}, {name}: {report.first}")
        rows += _rows(backend, device, ", ".join(sorted(kernels)), outcomes)
    return Survey(versions, tuple(rows), tuple(failures))


def _rows(backend, device, kernels, outcomes):
    for dtype in dict.fromkeys(o.dtype for o in outcomes if o.difference is not None):
        here = [o for o in outcomes if o.dtype == dtype]
        measured = [o for o in here if o.difference is not None]
        worst = max(measured, key=lambda o: o.difference / o.tolerance if o.tolerance else o.difference)
        agrees = all(o.status != "fail" for o in here)
        yield Row(backend, device, kernels, dtype, len(measured), worst.difference, worst.tolerance, agrees)


def _version(package):
    try:
        module = import_module(package)
        if package == "jax":
            module.devices()  # where an installation without its device first says so
        return version(package)
    except PackageNotFoundError:
        return "present, without a version"
    except ModuleNotFoundError as error:
        if error.name == package:
            return f"not installed: {SOURCES[package]}"
        return f"broken: {error}"
    except Exception as error:  # a package that is there and cannot be loaded is worth seeing
        return f"broken: {type(error).__name__}: {error}"


def _places(versions) -> Iterator[tuple[str, str, Callable, Callable]]:
    """(backend, device, its loss there, a context to call it in)."""
    there = [name for name, text in versions.items() if not text.startswith(("not installed", "broken"))]
    ways = [("spec",), ("chunked", "spec")] + [("numba", "chunked", "spec")] * ("numba" in there)
    for names in ways:
        yield "numpy", "cpu", multismooth.numpy.loss_and_grad, partial(multismooth.implementation, *names)
    if "torch" in there:
        import torch

        for device in ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]:
            fn = partial(_torch_loss, device)
            yield "torch", device, fn, multismooth.implementation
            for names in ways[1:] if device == "cpu" else ():
                yield "torch", device, fn, partial(multismooth.implementation, *names, "whole")
    if "jax" in there:
        import jax

        for device in dict.fromkeys([*jax.devices(), *jax.devices("cpu")]):
            yield "jax", str(device), multismooth.jax.loss, partial(_jax_in_float64, device)


def _torch_loss(device, logits, targets, **settings):
    import torch

    settings = {n: v.to(device) if isinstance(v, torch.Tensor) else v for n, v in settings.items()}
    return multismooth.torch.loss(logits.to(device), targets.to(device), **settings).to(logits.device)


@contextmanager
def _jax_in_float64(device):
    import jax

    with jax_x64(True), jax.default_device(device):
        yield


def jax_x64(wide):
    """A context in which JAX keeps float64, or not."""
    try:
        from jax import enable_x64
    except ImportError:  # JAX before 0.8
        from jax.experimental import enable_x64
    return enable_x64(wide)
