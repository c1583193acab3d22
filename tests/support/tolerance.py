"""How far a result may lie from the exact one. The only tolerances in the suite."""

import math

import numpy as np

EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}
SMALLEST = {"float64": 0.0, "float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}


def tolerance(dtype, classes=8):
    """float64: 1e-12. float32: a few roundings, growing with log K as a pairwise sum does. Narrower: one rounding."""
    name = str(dtype).rpartition(".")[2]
    if name.startswith("int"):
        return 0.0
    if name == "float64":
        return 1e-12
    if name == "float32":
        return EPSILON[name] * (8 + math.log2(max(classes, 2)) / 2)
    return EPSILON[name] / 2 * (1 + 1e-3)


def size_of(logits, targets, settings):
    """The largest number in a loss, in whose rounding float32 errs: the largest logit, times the elements of a sum."""
    finite = np.abs(logits[np.isfinite(logits)])
    return (1 + finite.max(initial=0)) * max(1, targets.size if settings.get("reduction") == "sum" else 1)


def assert_close(actual, expected, dtype=None, classes=8, scale=1.0):
    """`actual` has the shape of `expected`, the dtype `dtype`, and its values within `tolerance`, absolute or relative.

    scale: the size of the numbers whose difference `expected` is (an array or a number), the unit of absolute errors.
    Narrow results may lie one rounding away, plus what float32 may lose on numbers of that size.
    """
    name = str(getattr(actual, "dtype", type(actual).__name__)).rpartition(".")[2]
    if dtype is not None:
        assert name == dtype, f"dtype {name}, expected {dtype}"
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    dtype = dtype or ("float64" if name == "float" else name)
    relative = tolerance(dtype, classes) * np.abs(expected)
    if dtype in ("bfloat16", "float16"):
        allowed = relative + tolerance("float32", classes) * scale + SMALLEST[dtype] / 2
    else:
        allowed = np.maximum(relative, tolerance(dtype, classes) * scale)
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        bad = ~(same | (np.abs(actual - expected) <= allowed))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(
            f"{int(bad.sum())} of {bad.size} values differ, first at {first}: "
            f"got {actual[first]!r}, expected {expected[first]!r}, difference {actual[first] - expected[first]:.3g}, "
            f"allowed {np.broadcast_to(allowed, bad.shape)[first]:.3g}"
        )
