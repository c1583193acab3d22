"""The keywords that the PyTorch backend alone has: of logits whose classes are split over a process group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from multismooth.api import options


class _Split(TypedDict, total=False):
    group: Any
    num_classes: int | None
    class_start: int | None


OWN = tuple(_Split.__annotations__)


class LossOptions(options.LossOptions, _Split, total=False):
    """Of `loss`."""


class TermsOptions(options.TermsOptions, _Split, total=False):
    """Of `terms`."""


class HeadOptions(options.HeadOptions, _Split, total=False):
    """Of `linear_loss`."""


class HeadTermsOptions(options.HeadTermsOptions, _Split, total=False):
    """Of `linear_terms`."""


OPTIONS: Mapping[type, type] = {
    options.LossOptions: LossOptions,
    options.TermsOptions: TermsOptions,
    options.HeadOptions: HeadOptions,
    options.HeadTermsOptions: HeadTermsOptions,
}
