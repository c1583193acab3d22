"""The table of losses that were found in public code: `found_in` adds one. They are restated, not copied."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import NamedTuple

WILD = []


class Wild(NamedTuple):
    """A loss, where it was found, and what `identify` must say: a name, a phrase, or both."""

    fn: Callable
    source: str
    name: str
    says: str
    scores: str
    framework: str
    num_classes: int | None

    def __str__(self):
        return self.fn.__name__


def found_in(source, name="", *, says="", scores="logits", framework="torch", num_classes=None):
    """Adds a loss to the table."""

    def add(fn):
        WILD.append(Wild(fn, source, name, says, scores, framework, num_classes))
        return fn

    return add


def optional(name):
    """The module, or None: the table is read without its frameworks too."""
    return import_module(name) if find_spec(name) else None
