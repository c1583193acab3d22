"""The keywords of the public functions, once: their types in TypedDicts, their defaults in DEFAULTS.

A public function takes `**options: Unpack[LossOptions]` and passes them on. `signature_of` writes them out with types
and defaults, for `help`, completion and errors.

To add a keyword of `loss`: a line in DEFAULTS, a line in the TypedDict of the functions that take it, and a parameter
of `CallCache.__call__`, where it becomes a part of the key. A keyword that one backend alone has stands in a TypedDict
of that backend, which `Backend.options` names; it reaches `Arguments.checked`.
"""

from collections.abc import Mapping
from inspect import Parameter, Signature, signature
from typing import Any, Literal, TypedDict, get_args, get_origin

from multismooth.convention import Convention

Reduction = Literal["mean", "sum", "none"]

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
    prior: Any
    ignore_index: int | None


class _Target(_Any, total=False):
    convention: str | Convention


class TrainerOptions(_Any, total=False):
    """Of the losses for a trainer, which itself passes what differs from batch to batch, and reduces."""

    weight: Any
    class_mask: Any
    z_loss: Any
    logit_softcap: Any
    axis: int | None
    validate: bool | None


class _Element(_Target, TrainerOptions, total=False):
    sample_weight: Any


class _Reduced(TypedDict, total=False):
    reduction: Reduction
    normalizer: Any


class TargetOptions(_Target, total=False):
    """Of `smooth_targets`."""

    label_smoothing: Any
    class_mask: Any


class CorrectionOptions(_Target, _Reduced, total=False):
    """Of `smoothing_correction`."""

    label_smoothing: Any
    sample_weight: Any
    axis: int | None
    validate: bool | None


class TermsOptions(_Element, total=False):
    """Of `terms`: those of `loss` without a reduction."""

    label_smoothing: Any


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


def signature_of(function, own: Mapping[type, type] | None = None) -> Signature:
    """The signature of a function, in which its **options are the keywords of their TypedDict.

    own: `Backend.options`.
    """
    plain = signature(function)
    *parameters, last = plain.parameters.values() or [None]
    if last is None or last.kind is not Parameter.VAR_KEYWORD:
        return plain
    (options,) = get_args(last.annotation)
    options = get_origin(options) or options
    types = (own or {}).get(options, options).__annotations__
    names = [*(name for name in DEFAULTS if name in types), *(name for name in types if name not in DEFAULTS)]
    written = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=DEFAULTS.get(name), annotation=types[name]) for name in names
    ]
    return plain.replace(parameters=[*parameters, *written])


def by_default(function):
    """The function, whose keyword-only parameters have the defaults of DEFAULTS."""
    function.__kwdefaults__ = {
        name: DEFAULTS[name]
        for name, parameter in signature(function).parameters.items()
        if parameter.kind is Parameter.KEYWORD_ONLY
    }
    return function
