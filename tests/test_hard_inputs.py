"""One table of hard inputs, every path: what `hard_rows` holds is right however it is asked for.

Expected values are the oracle's (`hard_answers`); the paths are in `hard_numpy`, `hard_torch` and `hard_jax`.
"""

import warnings

import hard_jax  # noqa: F401 enters its paths
import hard_numpy  # noqa: F401
import hard_torch  # noqa: F401
import numpy as np
import pytest
from adapters import bfloat16
from hard_answers import check
from hard_paths import PATHS
from hard_rows import ROWS
from requirements import need

import multismooth

PAIRS = [(way, row) for way in PATHS for row in ROWS if PATHS[way].excluded(ROWS[row]) is None]


def snapshot(hard):
    arrays = (hard.logits, hard.targets, *hard.settings.values())
    return [array.tobytes() for array in arrays if isinstance(array, np.ndarray)]


def back(result):
    """A tensor as an array; bfloat16 as JAX's."""
    if isinstance(result, np.ndarray | np.generic) or not hasattr(result, "detach"):
        return result
    assert result.device.type == "cpu"
    result = result.detach().resolve_neg()
    return result.float().numpy().astype(bfloat16()) if str(result.dtype) == "torch.bfloat16" else result.numpy()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # forward-mode AD of torch itself
@pytest.mark.parametrize(("way", "row"), PAIRS, ids=lambda name: name)
def test_hard_inputs(way, row):
    need(PATHS[way].backend)
    hard = ROWS[row]
    before = snapshot(hard)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", multismooth.SmoothingWarning)  # many are deserved
        found = list(PATHS[way].run(hard))
    assert found
    for quantity, result, dtype in found:
        check(row, quantity, back(result), dtype)
    assert snapshot(hard) == before, "an input was written to"
