"""The types of the public functions for type checkers and editors, written from the signatures in `multismooth/api`.

    python tests/support/stubs.py

writes `multismooth/typed/*.pyi`; `tests/test_typing.py` holds them to the signatures. A function whose loss is a number
or an array, as NumPy's is, is written for each. Those of `multismooth` are written for NumPy, and once for all arrays
whose operations give arrays of the same framework.
"""

import inspect
from collections.abc import Iterator
from pathlib import Path

import multismooth
from multismooth.api.functions import Functions
from multismooth.api.options import signature_of
from multismooth.jax.backend import JaxBackend
from multismooth.numpy import NumpyBackend
from multismooth.torch.backend import TorchBackend

FOLDER = Path(multismooth.__file__).parent / "typed"
NAMES = [name for name in multismooth.__all__ if hasattr(Functions, name)]
REDUCED, KEPT = 'Literal["mean", "sum"]', 'Literal["none"]'

HEAD = """# Written by tests/support/stubs.py from the signatures in multismooth/api.
from typing import Any, Literal, Protocol, TypeVar, overload

{imports}from multismooth.api import prior_functions
from multismooth.api.options import Array, Number, Reduction, Rows
from multismooth.convention import Convention
from multismooth.problem import Terms
"""
IMPORTS = {
    "numpy": "from numpy import floating, generic, ndarray\nfrom numpy.typing import NDArray\n\n",
    "torch": "from torch import Tensor\n\n",
    "jax": "import jax\nfrom numpy import ndarray\n\n",
}
LIKE = '''
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

class Like(Protocol[A_co]):
    """An array whose operations give arrays A."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def __neg__(self) -> A_co: ...
'''
# The types of `multismooth.loss`, in turn.
DISPATCHED = (
    (NumpyBackend.types, "ndarray | generic"),
    ({"Result": "A", "Arrays": "A", "Loss": "A"}, "Like[A]"),
)


def written(name: str, signature: inspect.Signature, overloaded: bool) -> Iterator[str]:
    """The lines of one signature."""
    yield from ["", *["@overload"] * overloaded, f"def {name}("]
    starred = False
    for p in signature.parameters.values():
        if p.kind is p.KEYWORD_ONLY and not starred:
            starred = True
            yield "    *,"
        default = "" if p.default is p.empty else " = " + repr(p.default).replace("'", '"')
        yield f"    {p.name}: {p.annotation}{default},"
    yield f") -> {signature.return_annotation}:"
    yield f'    """{inspect.getdoc(getattr(Functions, name)).splitlines()[0]}"""'


def signatures(name: str, own, types) -> Iterator[inspect.Signature]:
    """The signatures of a function: one, or one for each kind of its loss."""
    *kinds, whole = [*types["Loss"].split(" | "), types["Loss"]] if " | " in types["Loss"] else [types["Loss"]]
    method = getattr(Functions, name)
    if "reduction" not in signature_of(method, own).parameters:
        kinds = []
    for loss, reduction in (*zip(kinds, (REDUCED, KEPT), strict=bool(kinds)), (whole, None)):
        found = signature_of(method, own, types | {"Loss": loss})
        parameters = [p for p in found.parameters.values() if p.name != "self"]
        if reduction is not None:
            place = next(k for k, p in enumerate(parameters) if p.name == "reduction")
            default = inspect.Parameter.empty if reduction is KEPT else "mean"
            parameters[place] = parameters[place].replace(annotation=reduction, default=default)
        yield found.replace(parameters=parameters)


def of_backend(backend) -> str:
    lines = [HEAD.format(imports=IMPORTS[backend.name])]
    for name in NAMES:
        found = list(signatures(name, backend.options, dict(backend.types)))
        for signature in found:
            lines += written(name, signature, overloaded=len(found) > 1)
    return "\n".join([*lines, "", f"class OnlinePrior(prior_functions.OnlinePrior[{backend.types['Result']}]): ...\n"])


def of_dispatch() -> str:
    lines = [HEAD.format(imports=IMPORTS["numpy"]) + LIKE]
    for name in NAMES:
        for types, first in DISPATCHED:
            for signature in signatures(name, None, {**types, "Scores": first, "Labels": "Array"}):
                one, *others = signature.parameters.values()
                signature = signature.replace(parameters=[one.replace(annotation=first), *others])
                lines += written(name, signature, overloaded=True)
    return "\n".join(lines) + "\n"


def stubs() -> dict[Path, str]:
    """The text of each stub."""
    backends = {
        FOLDER / f"{backend.name}.pyi": of_backend(backend) for backend in (NumpyBackend, TorchBackend, JaxBackend)
    }
    return backends | {FOLDER / "dispatch.pyi": of_dispatch()}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for path, content in stubs().items():
        path.write_text(content, encoding="utf-8")
