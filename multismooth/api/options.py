"""The keywords of the public functions, once: their types in TypedDicts, their defaults in DEFAULTS.

A public function takes `**options: Unpack[LossOptions]` and passes them on. `signature_of` writes them out with types
and defaults, for `help`, completion and errors.

To add a keyword of `loss`: a line in DEFAULTS, a line in the TypedDict of the functions that take it, a parameter of
`CallCache.__call__`, where it becomes a part of the key, and `python tests/support/stubs.py`, which writes the types
that checkers and editors read. A keyword that one backend alone has stands in a TypedDict of that backend, which
`Backend.options` names; it reaches `Arguments.checked`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from inspect import Parameter, Signature, signature
from typing import Any, Literal, Protocol, TypeAlias, TypedDict

from multismooth.convention import Convention

Reduction = Literal["mean", "sum", "none"]


class Array(Protocol):
    """An array of any framework."""

    @property
    def shape(self) -> Any: ...

    @property
    def dtype(self) -> Any: ...


Number = float | Array
Rows = Sequence[float] | Sequence[Sequence[float]] | Sequence[Sequence[Sequence[float]]]

# What a backend takes and returns, by the names in the signatures; `Backend.types` has them for each.
Scores: TypeAlias = Any  # logits, features, classifiers
Labels: TypeAlias = Any  # labels or distributions
Result: TypeAlias = Any  # a floating array
Arrays: TypeAlias = Any  # a floating or integer array
Loss: TypeAlias = Any  # an array, or the sum or mean of one

# In the order in which they are shown.
DEFAULTS: Mapping[str, Any] = {
    "label_smoothing": 0.1,
    "convention": "torch",
    "weight": None,
    "prior": None,
    "class_mask": None,
    "sample_weight": None,
    "ignore_index": -100,
    "z_loss": 0.0,
    "logit_softcap": None,
    "reduction": "mean",
    "normalizer": None,
    "axis": None,
    "validate": None,
    "chunk_rows": None,
    "accumulate": "float32",
}


class _Any(TypedDict, total=False):
    prior: Array | Rows | None
    ignore_index: int | None


class _Target(_Any, total=False):
    convention: str | Convention


class TrainerOptions(_Any, total=False):
    """Of the losses for a trainer, which itself passes what differs from batch to batch, and reduces."""

    weight: Array | Rows | None
    class_mask: Array | Rows | None
    z_loss: Number
    logit_softcap: Number | None
    axis: int | None
    validate: bool | None


class _Element(_Target, TrainerOptions, total=False):
    sample_weight: Array | Rows | None


class _Reduced(TypedDict, total=False):
    reduction: Reduction
    normalizer: Number | None


class TargetOptions(_Target, total=False):
    """Of `smooth_targets`."""

    label_smoothing: Number | Rows
    class_mask: Array | Rows | None


class CorrectionOptions(_Target, _Reduced, total=False):
    """Of `smoothing_correction`."""

    label_smoothing: Number | Rows
    sample_weight: Array | Rows | None
    axis: int | None
    validate: bool | None


class TermsOptions(_Element, total=False):
    """Of `terms`: those of `loss` without a reduction."""

    label_smoothing: Number | Rows


class UnsmoothedOptions(_Element, _Reduced, total=False):
    """Of the losses beside smoothing, each of which has a `label_smoothing` of its own, 0 by default."""


class LossOptions(UnsmoothedOptions, TermsOptions, total=False):
    """Of `loss`."""


class HeadOptions(LossOptions, total=False):
    """Of `linear_loss`."""

    chunk_rows: int | None
    accumulate: Literal["float32", "input"]


class HeadTermsOptions(TermsOptions, total=False):
    """Of `linear_terms`."""

    chunk_rows: int | None


def signature_of(function, own: Mapping[type, type] | None = None, types: Mapping[str, str] | None = None) -> Signature:
    """The signature of a function, in which its **options are the keywords of their TypedDict.

    own, types: `Backend.options` and `Backend.types`.
    """
    plain = signature(function)
    parameters = list(plain.parameters.values())
    if parameters and parameters[-1].kind is Parameter.VAR_KEYWORD:
        known = {**globals(), **function.__globals__}
        options = known[parameters.pop().annotation.removeprefix("Unpack[").removesuffix("]")]
        found = (own or {}).get(options, options).__annotations__
        names = [*(name for name in DEFAULTS if name in found), *(name for name in found if name not in DEFAULTS)]
        parameters += [
            Parameter(
                name,
                Parameter.KEYWORD_ONLY,
                default=DEFAULTS.get(name),
                annotation=getattr(found[name], "__forward_arg__", found[name]),
            )
            for name in names
        ]

    def here(annotation):
        if types is None or not isinstance(annotation, str):
            return annotation
        return re.sub(r"\w+", lambda found: types.get(found[0], found[0]), annotation)

    written = [parameter.replace(annotation=here(parameter.annotation)) for parameter in parameters]
    return plain.replace(parameters=written, return_annotation=here(plain.return_annotation))


def by_default(function):
    """The function, whose keyword-only parameters have the defaults of DEFAULTS."""
    function.__kwdefaults__ = {
        name: DEFAULTS[name]
        for name, parameter in signature(function).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }
    return function
