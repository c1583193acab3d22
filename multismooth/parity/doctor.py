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
from multismooth.parity.checking.cases import ARGUMENT_CASES

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
        """Everything as JSON values; an error that is not finite is the text "inf"."""
        rows = [asdict(row) | {"error": row.error if isfinite(row.error) else "inf"} for row in self.rows]
        return {"agrees": bool(self)} | asdict(self) | {"rows": rows}


def survey(on_step: Callable[[str, int, int], Any] = lambda text, done, total: None, *, quick=False) -> Survey:
    """Check every backend on every device.

    `on_step(text, done, total)` is called with what is checked next. quick: one convention, and each backend once.

    >>> from multismooth.parity.doctor import survey
    >>> bool(survey())
    True
    """
    versions = versions_of(INSTALL_WITH)
    rows: list = []
    failures: list = []
    todo = list(_backends(versions))
    if quick:
        todo = list({(backend, device): one for one in todo for backend, device in [one[:2]]}.values())
    for number, (backend, device, fn, context) in enumerate(todo):
        on_step(f"{backend} on {device}", number, len(todo))
        own, wrong = checked(backend, device, fn, context, quick)
        rows, failures = rows + own, failures + wrong
    return Survey(versions, tuple(rows), tuple(failures))


def checked(backend, device, fn, context, quick=False):
    """(rows, failures) of one loss. `context` says which implementations run."""
    outcomes: list = []
    failures: list = []
    kernels: set = set()
    for name in CONVENTIONS[:1] if quick else CONVENTIONS:
        accepts = [a for a in ARGUMENT_CASES if a != "prior" or multismooth.conventions[name].spread == "all"]
        try:
            with context() as ran:
                report = check(partial(fn, convention=name), name, framework=backend, accepts=accepts)
        except Exception as error:  # a device that cannot compute is a finding, and must not hide the others
            failures.append(f"{backend} on {device}, {name}: {type(error).__name__}: {error}")
            break
        outcomes += report.outcomes
        kernels.update(ran or ())
        if not report:
            failures.append(f"{backend} on {device}, {name}: {report.first}")
    return [*_rows(backend, device, ", ".join(sorted(kernels)), outcomes)], failures


def versions_of(packages):
    """{package: its version, or why it cannot be used}, with those of Python and multismooth."""
    own = {
        "python": f"{platform.python_version()} on {platform.machine()}",
        "multismooth": multismooth.__version__,
    }
    return own | {package: _version(package) for package in packages}


def _rows(backend, device, kernels, outcomes):
    for dtype in dict.fromkeys(o.dtype for o in outcomes if o.difference is not None):
        of_dtype = [o for o in outcomes if o.dtype == dtype]
        measured = [o for o in of_dtype if o.difference is not None]
        worst = max(measured, key=lambda o: o.difference / o.tolerance if o.tolerance else o.difference)
        agrees = all(o.status != "fail" for o in of_dtype)
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
