"""What this machine has, and whether every backend on every device agrees with the float64 specification."""

import json
import platform
import subprocess
import sys
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
from multismooth.parity.checking.cases import ARGUMENT_CASES
from multismooth.parity.checking.run import FLOAT32_ROUNDING

INSTALL_WITH = {
    "numpy": "pip install multismooth",
    "torch": 'pip install "multismooth[torch]"',
    "numba": 'pip install "multismooth[fast]"',
    "triton": "it comes with CUDA builds of PyTorch",
    "jax": 'pip install "multismooth[jax]"',
    "flax": 'pip install "multismooth[jax]"',
    "optax": 'pip install "multismooth[jax]"',
}
CONVENTIONS = ("torch", "flax-examples", "fastai")  # together they have every kind of term and two kinds of denominator


@dataclass(frozen=True)
class Row:
    """All cases of one dtype on one device: the largest relative error, and the tolerance for it.

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

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; an error that is not finite is the text "inf"."""
        return asdict(self) | {"error": self.error if isfinite(self.error) else "inf"}


@dataclass(frozen=True)
class Survey:
    """What `survey` found.

    versions: {package: its version, or why it cannot be used}. rows: what was checked. failures: the first failure of
    each backend, device and convention.
    """

    versions: dict[str, str]
    rows: tuple[Row, ...]
    failures: tuple[str, ...]

    def __bool__(self):
        return not self.failures

    @property
    def verdict(self) -> str:
        """All rows in one sentence."""
        cases, places = sum(row.cases for row in self.rows), {(row.backend, row.device) for row in self.rows}
        where = ", ".join(f"{backend} on {device}" for backend, device in sorted(places))
        if self:
            return f"everything agrees: {cases} cases on {where}"
        return f"{len(self.failures)} of the checks on {where or 'no backend'} failed: see above"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {"agrees": bool(self)} | asdict(self) | {"rows": [row.to_dict() for row in self.rows]}


def survey(
    on_step: Callable[[str, int, int], Any] = lambda text, done, total: None, *, quick=False, world: int | None = None
) -> Survey:
    """Check every backend on every device.

    `on_step(text, done, total)` is called with what is checked next. quick: one convention, and each backend once.
    world: check sharded calls too, with the classes split over so many devices or processes of this machine's CPU.

    >>> from multismooth.parity.doctor import survey
    >>> bool(survey())
    True
    """
    versions = {
        "python": f"{platform.python_version()} on {platform.machine()}",
        "multismooth": multismooth.__version__,
    }
    versions |= {package: _version(package) for package in INSTALL_WITH}
    conventions = CONVENTIONS[:1] if quick else CONVENTIONS
    places = list(_backends(versions))
    if quick:
        places = list({place[:2]: place for place in places}.values())
    todo = [(f"{place[0]} on {place[1]}", partial(check_place, *place)) for place in places]
    if world is not None:
        todo += [(f"{name}, split over {world}", partial(_check_world, name, world)) for name in _worlds(versions)]
    rows, failures = [], []
    for number, (text, check_it) in enumerate(todo):
        on_step(text, number, len(todo))
        found = check_it(conventions)
        rows += found[0]
        failures += found[1]
    return Survey(versions, tuple(rows), tuple(failures))


def check_place(backend, device, fn, context, conventions):
    """(the Rows of a loss that runs on a device, its first failures). `context`: what to call it in."""
    outcomes: list = []
    kernels: set = set()
    failures = []
    for name in conventions:
        accepts = [a for a in ARGUMENT_CASES if a != "prior" or multismooth.conventions[name].spread == "all"]
        try:
            with context() as ran:
                report = check(partial(fn, convention=name), name, framework=backend, accepts=accepts)
        except Exception as error:  # a device that cannot compute is a finding, and must not hide the others
            failures.append(f"{backend} on {device}, {name}: {type(error).__name__}: {error}")
            break
        outcomes += report.outcomes
        kernels.update(ran or ())
        failures += [f"{backend} on {device}, {name}: {o}" for o in report.outcomes if disagrees(o)][:1]
    return list(_rows(backend, device, ", ".join(sorted(kernels)), outcomes)), failures


def disagrees(outcome):
    """Whether it fails here: in float64 a difference like float32's rounding does too, which `check` passes."""
    return outcome.status == "fail" or (outcome.dtype == "float64" and outcome.tolerance == FLOAT32_ROUNDING)


# The module of each backend that checks its sharded calls, in a process of its own: it prints what `check_place` gives.
WORLDS = {"torch": "multismooth.parity.processes", "jax": "multismooth.parity.devices"}


def _worlds(versions):
    return [backend for backend in WORLDS if not versions[backend].startswith(("not installed", "broken"))]


def _check_world(backend, world, conventions):
    command = [sys.executable, "-m", WORLDS[backend], str(world), *conventions]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return [], [f"{backend}, split over {world}: {done.stderr.strip()[-1000:]}"]
    found = json.loads(done.stdout.splitlines()[-1])
    return [Row(**row | {"error": float(row["error"])}) for row in found["rows"]], found["failures"]


def _rows(backend, device, kernels, outcomes):
    for dtype in dict.fromkeys(o.dtype for o in outcomes if o.difference is not None):
        of_dtype = [o for o in outcomes if o.dtype == dtype]
        measured = [o for o in of_dtype if o.difference is not None]
        worst = max(measured, key=lambda o: o.difference / o.tolerance if o.tolerance else o.difference)
        agrees = not any(map(disagrees, of_dtype))
        yield Row(backend, device, kernels, dtype, len(measured), worst.difference, worst.tolerance, agrees)


def _version(package):
    """The version of a package, or why it cannot be used."""
    try:
        module = import_module(package)
        if package == "jax":
            module.devices()  # raises where JAX was installed for a device that is missing
        return version(package)
    except PackageNotFoundError:
        return "present, without a version"
    except ModuleNotFoundError as error:
        if error.name == package:
            return f"not installed: {INSTALL_WITH[package]}"
        return f"broken: {error}"
    except Exception as error:  # any error of a package that is installed but cannot be loaded
        return f"broken: {type(error).__name__}: {error}"


def _backends(versions) -> Iterator[tuple[str, str, Callable, Callable]]:
    """(backend, device, a loss that runs there, a context to call it in)."""
    usable = [name for name, text in versions.items() if not text.startswith(("not installed", "broken"))]
    kernels = [("spec",), ("chunked", "spec")] + [("numba", "chunked", "spec")] * ("numba" in usable)
    for names in kernels:
        yield "numpy", "cpu", multismooth.numpy.loss_and_grad, partial(multismooth.implementation, *names)
    if "torch" in usable:
        import torch

        for device in ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]:
            fn = partial(_torch_loss, device)
            yield "torch", device, fn, multismooth.implementation
            for names in kernels[1:] if device == "cpu" else ():
                yield "torch", device, fn, partial(multismooth.implementation, *names, "whole")
    if "jax" in usable:
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
    """A context in which JAX keeps float64 (wide), or makes it float32."""
    try:
        from jax import enable_x64
    except ImportError:  # JAX before 0.8
        from jax.experimental import enable_x64
    return enable_x64(wide)
