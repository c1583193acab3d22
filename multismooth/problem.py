"""The data of one call: its arguments (Problem, Settings) and its results per element (Terms)."""

from typing import Any, Generic, NamedTuple, TypeVar


def traceable(record):
    """The NamedTuple, with a `_replace` that torch.compile can trace. Up to PyTorch 2.8 it cannot trace Python's."""

    def _replace(self, **changes):
        return record(*map(changes.get, record._fields, self))

    record._replace = _replace
    return record


@traceable
class Problem(NamedTuple):
    """The arrays of one call, checked and on one device. None for an argument that was not passed."""

    logits: Any  # (N…, K)
    targets: Any  # (N…) integers, or (N…, K) floats
    label_smoothing: Any  # number, or broadcasts to (N…)
    weight: Any = None  # (K,)
    prior: Any = None  # (K,) or (K, K)
    class_mask: Any = None  # (K,), or broadcasts to (N…, K)
    sample_weight: Any = None  # broadcasts to (N…)
    z_loss: Any = None
    logit_softcap: Any = None
    normalizer: Any = None


@traceable
class Settings(NamedTuple):
    """The hashable settings of a call. A compiler may compile anew for other settings, but not for another Problem."""

    convention: Any
    axis: int = -1
    soft: bool = False
    ignore_index: int | None = -100
    reduction: str = "mean"
    valid: bool = False  # targets are checked (each is a class, ignored, or a distribution), or used unchecked
    clean: bool = False  # valid, and no label is ignored
    positive: bool = False  # class weights and normalizer are checked: all are > 0
    row_tolerance: float = 1e-3  # for soft rows that no check can read: their sum is this close to 1
    nothing_is_nan: bool = False  # a mean over no elements is NaN, as PyTorch's, where a GPU's kernels make the plan
    axis_name: tuple = ()  # the mesh axes that split the classes, inside JAX's shard_map
    shares: bool = True  # whether the elements' shares of a mean's denominators are asked for
    accumulate: str = "float32"  # dtype of a linear head's gradient sum over chunks; "input": that of the classifier


new = tuple.__new__  # new(Problem, values) skips the constructor that Python gives a NamedTuple, in Python


class Memo:
    """A cache that calls of one kind (with equal Settings, shapes and dtypes) share. The first such call fills it.

    kernels: (with a gradient?, requested implementations) → (replay of the plan or None, name of the kernel).
    """

    __slots__ = ("kernels", "settings")

    def __init__(self, settings):
        self.settings, self.kernels = settings, {}


@traceable
class Call(NamedTuple):
    """One checked call of a public function, as its backend receives it."""

    problem: Problem
    settings: Settings
    memo: Memo | None = None  # None: the first call of its kind, or a call that cannot be cached
    values: Any = None  # with a memo: the Problem's fields as NumPy sees them, and of the logits at most one element's


Array = TypeVar("Array")


class Terms(NamedTuple, Generic[Array]):
    """Per-element results: the mean loss is Σ loss / Σ weight, the unsmoothed one Σ nll / Σ weight.

    `loss`, `nll` and `lse` are differentiable. An element that is switched off has 0 in these, and −1, which names no
    class, as its prediction.
    """

    loss: Array  # what `loss` gives for the reduction "none", unless its terms have different denominators
    nll: Array  # the loss at ε = 0, without a z-loss
    weight: Array  # the element's share of the mean's denominator
    lse: Array  # log Σ exp z over the existing classes
    predicted: Array  # the existing class with the largest logit, the first of equals; an integer
