"""Priors that are counted: `unigram_prior`, which `functions` inherits, and `OnlinePrior`."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, Self, TypeVar

from multismooth.alternatives.priors import mean_predictions
from multismooth.api.options import Array, Labels, Result

State = TypeVar("State")  # an array


class PriorFunctions:
    """`unigram_prior`, for `multismooth.api.functions.Functions`."""

    _backend: Any

    def unigram_prior(
        self, targets: Labels, num_classes: int, *, pseudo_count: float = 1.0, ignore_index: int | None = -100
    ) -> Result:
        """(n_k + pseudo_count)/Σ_k (n_k + pseudo_count), n_k being how often the label k occurs: (K,), for `prior=`.

        Args:
            targets: labels of any integer dtype and shape. They are counted in the framework's default float.
            pseudo_count: a number ≥ 0 that is added to every count. With 0, a class that never occurs gets no mass.
            ignore_index: this label is not counted. None counts every label.

        Raises:
            TargetError: labels that name no class; where they cannot be read, the prior is NaN.

        >>> import numpy as np
        >>> import multismooth
        >>> multismooth.unigram_prior(np.array([0, 2, 2, -100]), 3).round(3).tolist()
        [0.333, 0.167, 0.5]

        Source: Pereyra et al. 2017 (arXiv:1701.06548), §3, who smooth towards the unigram distribution.
        """
        from multismooth.api import priors  # which needs NumPy, while `import multismooth` needs only the signatures

        return priors.unigram(self._backend, targets, num_classes, pseudo_count, ignore_index)


class OnlinePrior(NamedTuple, Generic[State]):
    """The mean prediction of each class over an epoch, as the prior of the next one: online label smoothing.

    `loss(z, y, label_smoothing=0.5, prior=state.prior)` is the authors' loss. Row y of `prior` is the mean of
    softmax(z) over the last epoch's rightly predicted elements of class y, and 1/K where there was none. Each method
    returns a new tuple of arrays, which can be saved, and passed through `jax.jit`. For data parallelism, sum `sums`
    and `counts` over the processes before `next_epoch`.

    >>> import numpy as np
    >>> import multismooth
    >>> state = multismooth.OnlinePrior.start(2)
    >>> state = state.update(np.array([[2.0, 0.0], [1.0, 0.0]]), np.array([0, 1])).next_epoch()
    >>> state.prior.round(3).tolist()
    [[0.881, 0.119], [0.5, 0.5]]

    Source: Zhang et al. 2021, Delving Deep into Label Smoothing, eq. 5 and 6 (arXiv:2011.12562).
    """

    prior: State  # (K, K)
    sums: State  # (K, K), Σ softmax(z) of this epoch's rightly predicted elements of each class
    counts: State  # (K,), how many they are

    @classmethod
    def start(cls, num_classes: int) -> Self:
        """The state before the first epoch: every row of the prior is 1/K."""
        from multismooth.api import priors

        return cls(*priors.start(cls._backend(), num_classes))

    def update(
        self, logits: Array, targets: Array, *, ignore_index: int | None = -100, axis: int | None = None
    ) -> Self:
        """The state with the predictions of a batch: logits (N…, K) and labels (N…)."""
        from multismooth.api import priors

        return type(self)(*priors.updated(self._backend(), self, logits, targets, ignore_index, axis))

    def next_epoch(self) -> Self:
        """The state at the start of the next epoch: the means become the prior, and the sums are 0."""
        sums: Any = self.sums
        counts: Any = self.counts
        return type(self)(mean_predictions(sums, counts, self._backend().xp), sums * 0, counts * 0)

    @classmethod
    def _backend(cls) -> Any:
        raise NotImplementedError


def online_prior(backend, module):
    """The OnlinePrior of a backend's module."""
    own = type("OnlinePrior", (OnlinePrior,), {"__slots__": (), "__doc__": OnlinePrior.__doc__, "__module__": module})
    own._backend = classmethod(lambda cls: backend)
    return own
