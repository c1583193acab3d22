"""Assertions on losses for test suites. The message of a failure is a report."""

from typing import Any

from multismooth.convention import Convention
from multismooth.parity import check

__all__ = ["assert_matches_convention"]


def assert_matches_convention(fn: Any, convention: str | Convention = "torch", **settings: Any) -> None:
    """Assert that fn(logits, targets) is `multismooth.loss(logits, targets, convention=…)`, in values and gradients.

    Arguments are those of `multismooth.parity.check`. Raises AssertionError with its report, which says what differs
    first and what to pass, and shows the smallest failing case as code.

    >>> import multismooth
    >>> from multismooth.testing import assert_matches_convention
    >>> assert_matches_convention(multismooth.numpy.loss, "torch", label_smoothing=0.1)
    """
    check(fn, convention, **settings).raise_if_failed()


def __dir__():
    return __all__
