"""The ways to ask for a loss and its derivatives, in a table; each says which rows it does not apply to and why.

A path is given a row and yields (quantity, result, dtype): see `hard_answers`. `hard_numpy`, `hard_torch` and
`hard_jax` enter theirs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

PATHS: dict[str, "Path"] = {}
REDUCTIONS = ("mean", "sum", "none")
OTHER_LABELS = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Path:
    """`unfit`: rules, row → why this path does not take it, or None."""

    name: str
    backend: str
    run: Callable
    unfit: tuple[Callable, ...]

    def excluded(self, hard):
        return next((reason for rule in self.unfit if (reason := rule(hard))), None)


def path(name, backend, *unfit):
    """Enter a function of rows in the table."""

    def enter(run):
        PATHS[f"{backend}: {name}"] = Path(f"{backend}: {name}", backend, run, (BACKENDS[backend], *unfit))
        return run

    return enter


def loss_dtype(hard):
    return "float64" if hard.dtype == "float64" else "float32"


def options(hard, settings, reduction):
    """The arguments for a reduction; None: of a function that has none."""
    plain = {name: value for name, value in settings.items() if reduction == "mean" or name != "normalizer"}
    return plain if reduction is None else plain | {"reduction": reduction}


# --- reasons ----------------------------------------------------------------------------------------------------------


def floating(array):
    return array.dtype.kind in "fV"  # V: bfloat16


def infinite(hard):
    """Whether a live logit of an existing class is infinite."""
    live = ~hard.dead[..., None] & hard.last(hard.existing)
    return not np.isfinite(hard.last(hard.logits).astype(float)[live]).all()


def rule(reason):
    """A predicate of rows as a rule."""

    def decorate(predicate):
        return lambda hard: reason if predicate(hard) else None

    return decorate


@rule("labels have no gradient")
def labels(hard):
    return not floating(hard.targets)


@rule("rows have no label")
def soft(hard):
    return hard.soft


@rule("an infinite logit's target has an infinite derivative")
def infinite_slopes(hard):
    return infinite(hard)


@rule("an infinite logit has an infinite derivative, and what counts for nothing has none")
def unlike_slopes(hard):
    if infinite(hard) or hard.dead.any() or hard.logits.size == 0:
        return True
    weight = hard.settings.get("weight")
    weightless = weight is not None and not hard.soft and not weight[hard.targets].any()
    return weightless or np.abs(hard.logits.astype(float)).max() > 1e38


@rule("an entropy has an infinite derivative where a target is 0")
def infinite_entropy(hard):
    kl = getattr(hard.settings.get("convention"), "objective", "") == "kl"
    return kl and hard.soft and hard.settings.get("label_smoothing") == 0.0


@rule("no product has its −inf logits, or parts of the product's gradient are beyond float16")
def no_head(hard):
    return hard.head is None or (hard.dtype == "float16" and np.abs(hard.logits.astype(float)).max(initial=0) > 1e4)


@rule("the arrays are another row's by the time that this is computed")
def alike(hard):
    return hard.layout not in ("plain", "strided") or str(hard.targets.dtype) in OTHER_LABELS


@rule("PyTorch's forward mode makes float64 of a number times a tensor without axes")
def no_axes(hard):
    return hard.elements == ()


@rule("torch.func.jvp takes no memory that several entries share")
def shared_memory(hard):
    return hard.layout == "expanded"


@rule("compiles for seconds: rows that are `core` stand for it")
def not_core(hard):
    return not hard.core


@rule("`smooth_targets` has no sample weight that makes these no targets")
def no_targets(hard):
    return not np.isfinite(hard.targets.astype(float)).all() or hard.targets.max(initial=0) == 99


@rule("a correction of rank one has labels, one mean row, and no class weights or masks")
def not_of_rank_one(hard):
    prior = hard.settings.get("prior")
    return hard.soft or bool({"weight", "class_mask"} & set(hard.settings)) or (prior is not None and prior.ndim > 1)


@rule("the original has no such argument, or its classes elsewhere")
def not_in_the_original(hard):
    known = set(hard.settings) <= {"weight", "ignore_index", "label_smoothing", "axis"}
    scalar = isinstance(hard.settings.get("label_smoothing", 0.0), float)
    return not (known and scalar and hard.axis == min(hard.logits.ndim - 1, 1)) or hard.targets.dtype == bool


@rule("the original refuses these labels")
def refused_labels(hard):
    beside = hard.layout == "arrays beside tensors"
    return beside or (hard.targets.dtype.kind in "iu" and str(hard.targets.dtype) not in ("int64", "uint8"))


@rule("the original takes (N, D) features alone")
def not_rows(hard):
    return hard.logits.ndim != 2


@rule("another backend's memory, dtype or mode")
def not_numpys(hard):
    arrays = (hard.logits, hard.targets, *hard.settings.values())
    return hard.under != "nothing" or "V" in {np.asarray(a).dtype.kind for a in arrays if isinstance(a, np.ndarray)}


@rule("another backend's memory, dtype or mode")
def not_torchs(hard):
    return hard.layout in ("backwards", "read-only")


@rule("another backend's memory, dtype or mode")
def not_jaxs(hard):
    return hard.under != "nothing"


BACKENDS = {"numpy": not_numpys, "torch": not_torchs, "jax": not_jaxs}
