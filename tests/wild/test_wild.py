"""Losses found in public code: what each is, by someone who read it, and what `identify` says. None may be wrong."""

from pathlib import Path

import pytest
import wild_arrays  # noqa: F401 adds to the table
import wild_torch  # noqa: F401
from requirements import need
from wild import WILD

from multismooth import parity
from multismooth.parity.doctor import jax_x64

PAGE = Path(__file__).parents[2] / "docs" / "wild.md"


def identified(wild):
    need(wild.framework)
    options = {"num_classes": wild.num_classes}
    if wild.framework == "jax":
        with jax_x64(True):
            return parity.identify(wild.fn, "jax", **options)
    return parity.identify(wild.fn, wild.framework, **options)


@pytest.mark.thorough
@pytest.mark.parametrize("wild", WILD, ids=str)
def test_what_was_found_is_named_or_refused(wild):
    found = identified(wild)
    assert wild.name in found.names or not wild.name, str(found)
    assert wild.says in str(found), str(found)
    assert found.form.scores == wild.scores
    assert bool(found) == bool(wild.name or "sentence" in wild.says), str(found)
    assert f"| `{wild}` |" in PAGE.read_text(encoding="utf-8"), (
        "PYTHONPATH=tests/support python tests/wild/table.py writes the page"
    )


def test_the_losses_are_many():
    assert len(WILD) >= 45
    assert len({str(wild) for wild in WILD}) == len(WILD)
    assert all(wild.fn.__doc__ and wild.source for wild in WILD)
