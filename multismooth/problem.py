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
    row_tolerance: float = 1e-3  # how far from 1 the sum of a soft row may be that nobody can look at
    accumulate: str = "float32"  # what a head's gradient is summed in over chunks; "input": in its own dtype


class Usual(Settings):
    """Settings of calls whose only arrays are logits and labels, for one shape and one ε, all labels classes.

    `plan` is what such calls have in common once it was computed; it lacks the labels. `kernels` is what was chosen for
    them, with a gradient and without.
    """

    def __init__(self, *_):
        self.plan, self.kernels = None, {}

    def _replace(self, **changes):
        """Settings of another call, about which nothing is known yet."""
        return Settings(*self)._replace(**changes)


class Terms(NamedTuple):
    """Per-element results: the mean loss is Σ loss / Σ weight, the unsmoothed one Σ nll / Σ weight."""

    loss: Any
    nll: Any
    weight: Any
