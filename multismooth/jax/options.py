"""The keyword that JAX alone has: `axis_name`, the mesh axes that split the classes inside `jax.shard_map`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

from multismooth.api import options


class _Split(TypedDict, total=False):
    axis_name: str | tuple[str, ...] | None


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
