"""The keywords that the PyTorch backend alone has: of logits whose classes are split over a process group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multismooth.api import options

OWN = ("group", "num_classes", "class_start")


class LossOptions(options.LossOptions, total=False):
    group: Any
    num_classes: int | None
    class_start: int | None


class TermsOptions(options.TermsOptions, total=False):
    group: Any
    num_classes: int | None
    class_start: int | None


class HeadOptions(options.HeadOptions, total=False):
    group: Any
    num_classes: int | None
    class_start: int | None


class HeadTermsOptions(options.HeadTermsOptions, total=False):
    group: Any
    num_classes: int | None
    class_start: int | None


OPTIONS: Mapping[type, type] = {
    options.LossOptions: LossOptions,
    options.TermsOptions: TermsOptions,
    options.HeadOptions: HeadOptions,
    options.HeadTermsOptions: HeadTermsOptions,
}
