"""The data of one call: what comes in (Problem, Settings) and what goes out per element (Terms)."""

from typing import Any, NamedTuple


def traceable(record):
    """The NamedTuple, with a `_replace` that torch.compile sees through: up to PyTorch 2.8 it refuses Python's own."""

    def _replace(self, **changes):
        return record(*[changes.get(name, value) for name, value in zip(record._fields, self, strict=True)])

    record._replace = _replace
    return record


@traceable
class Problem(NamedTuple):
    """The arrays of one call, checked and on one device; None where nothing was given."""

    logits: Any  # (N…, K)
    targets: Any  # (N…) integers, or (N…, K) floats
    label_smoothing: Any  # number, or broadcasts to (N…)
    weight: Any = None  # (K,)
    prior: Any = None  # (K,) or (K, K)
    class_mask: Any = None  # (K,), or broadcasts to (N…, K)
    sample_weight: Any = None  # broadcasts to (N…)
    z_loss: Any = None
    normalizer: Any = None


@traceable
class Settings(NamedTuple):
    """What shapes the computation, hashable: a new value may recompile, a new Problem may not."""

    convention: Any
    axis: int = -1
    soft: bool = False
    ignore_index: int | None = -100
    reduction: str = "mean"
    valid: bool = False  # the targets were looked at: each is a class, ignored or a distribution; or taken as they are
    clean: bool = False  # valid, and none is ignored
    positive: bool = False  # class weights and normalizer were looked at: all are > 0
    row_tolerance: float = 1e-3  # how far from 1 the sum of a soft row may be that nobody can look at
    accumulate: str = "float32"  # what a head's gradient is summed in over chunks; "input": in its own dtype


class Memo:
    """What calls of one kind have in common, beside their Settings. The first of them that needs it fills it in.

    kernels: what `choice` of a backend found, by what was asked for.
    """

    __slots__ = ("kernels", "settings")

    def __init__(self, settings):
        self.settings, self.kernels = settings, {}


class Call(NamedTuple):
    """One checked call of a public function: what its backend is given."""

    problem: Problem
    settings: Settings
    memo: Memo | None = None  # None: the first call of its kind, or one that cannot be like another
    values: Any = None  # with a memo: the Problem's arrays as NumPy sees them


class Terms(NamedTuple):
    """Per-element results: the mean loss is Σ loss / Σ weight, the unsmoothed one Σ nll / Σ weight."""

    loss: Any
    nll: Any
    weight: Any
