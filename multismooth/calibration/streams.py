"""Calibration of a stream: a state of a few numbers a bin, pure functions, jittable, arrays that add.

Counts are integers: a float32 counter stops at 2²⁴. A bin holds the sum of p minus its centre, which is small, and each
sum of floats has a second array for what rounding takes off the first (Kahan 1965).
"""

import math
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from multismooth.api import argument_checks, target_checks
from multismooth.api.options import Array, Rows
from multismooth.calibration.rows import Block
from multismooth.calibration.sample import as_scores, fitted, one_of
from multismooth.dispatch import backend_object
from multismooth.errors import complain
from multismooth.namespace import XP

LANES = 128  # summands in a row: float32 loses 128·2⁻²⁴ of their size at most


class CalibrationState(NamedTuple):
    """What a stream amounts to. All arrays add: `merge`, `jax.lax.psum` or an all-reduce with "sum" joins states."""

    count: Any  # (bins,) integers
    hits: Any  # (bins,) integers
    offset: Any  # (bins,) Σ (confidence − the bin's centre)
    offset_rest: Any
    nll: Any  # 0-d, Σ −log p_y
    nll_rest: Any
    brier: Any  # 0-d, Σ Σ_k (p_k − y_k)²
    brier_rest: Any
    classes: Any  # (num_classes, 0): it holds nothing, its shape says K


class CalibrationSummary(NamedTuple):
    """The state's metrics. Python numbers, or 0-d arrays under a trace. NaN where nothing was counted."""

    count: Any
    accuracy: Any
    confidence: Any
    nll: Any
    brier: Any
    ece: Any
    mce: Any


def init_state(num_classes: int, *, bins: int = 15) -> CalibrationState:
    """An empty state: NumPy arrays, which `update` turns into arrays of the logits' framework.

    Args:
        num_classes: K. bins: of equal width, (lo, hi], for `ece` and `mce`.

    >>> import numpy as np
    >>> from multismooth import calibration
    >>> state = calibration.init_state(2)
    >>> for logits, label in (([2.0, 0.0], 0), ([1.0, 0.0], 1), ([0.0, 3.0], 1)):
    ...     state = calibration.update(state, np.array([logits]), np.array([label]))
    >>> summary = calibration.compute(state)
    >>> summary.count, round(summary.accuracy, 4), round(summary.ece, 4)
    (3, 0.6667, 0.2992)
    """
    num_classes = argument_checks.positive("num_classes", num_classes, "It is the number of classes of the logits.")
    bins = argument_checks.positive("bins", bins, "15 are usual.")
    per_bin, number = np.zeros(bins), np.zeros(())
    counts = np.zeros(bins, np.int64)
    floats = (per_bin, per_bin, number, number, number, number)
    return CalibrationState(counts, counts, *floats, np.zeros((num_classes, 0)))


def update(
    state: CalibrationState,
    logits: Array | Rows | None = None,
    targets: Array | Rows | None = None,
    *,
    probs: Array | Rows | None = None,
    ignore_index: int | None = -100,
    axis: int | None = None,
) -> CalibrationState:
    """The state after some more elements. Pure: it changes neither `state` nor anything else.

    Args:
        state: from `init_state`, `update` or `merge`.
        logits, targets, probs, ignore_index, axis: as in `expected_calibration_error`. Under a trace (`jax.jit`,
            `torch.compile`) wrong labels and NaN make the sums NaN; elsewhere they are an error.

    Floats are summed in float64, and in JAX without x64 in float32 with what rounding takes off: right to 1e-5 for 4e7
    rows. A state of JAX has the dtypes of JAX's setting.
    """
    name, given = one_of(logits, probs)
    backend, z = as_scores(name, given)
    axis, ignore_index, y = fitted(backend, z, targets, ignore_index, axis)
    classes = z.shape[axis]
    if state.classes.shape[0] != classes:
        got = f"{classes} on axis {axis}"
        raise complain(name, f"{state.classes.shape[0]} classes, as in the state", got, "init_state has num_classes.")
    xp = backend.xp
    wide = xp.astype(xp.stop_gradient(z), _widest_float(backend))
    wide = xp.reshape(xp.moveaxis(wide, axis, -1), (-1, classes))
    y = xp.reshape(y, (-1,))
    counted = y != ignore_index if ignore_index is not None else y == y
    valid = (y >= 0) & (y < classes)
    label = xp.where(counted & valid, y, xp.zeros_like(y))
    block = Block(xp, wide, label, -1, name == "logits")
    with np.errstate(all="ignore") if backend.name == "numpy" else nullcontext():
        good = valid & _are_scores(block, name == "logits", target_checks.tolerance(z.dtype))
        _refuse(backend, counted & ~good, name, y)
        return _added(state, _totals(block, counted, good, state.count.shape[0]), backend, wide)


def _widest_float(backend):
    """float64, or in JAX without x64 float32."""
    if backend.name == "jax":
        import jax

        return jax.dtypes.canonicalize_dtype(np.float64)
    return backend.xp.float64


def _are_scores(block, logits, slack):
    if logits:
        return block.confidence > 0
    return (block.xp.abs(block.sum - 1) <= slack) & (block.lowest >= -slack)


def _refuse(backend, bad, name, labels):
    """An error for a counted row that is none, where values can be seen."""
    if backend.watched() or (seen := backend.values(bad, None)) is None or not seen.any():
        return
    index = int(np.argmax(seen))
    label = int(backend.values(labels, None)[index])
    got = f"{np.count_nonzero(seen)} others, the first at {index} with label {label}"
    remedy = "Mark what does not count with ignore_index; pass scores from before the softmax as logits=."
    raise complain(name, "rows of scores, each with the label of a class", got, remedy)


def _totals(block, counted, good, bins):
    """What the rows of a batch add to each sum. A counted row that is no good makes the sums of floats NaN."""
    xp, label, confidence = block.xp, block.labels, block.confidence
    index = xp.zeros_like(label)
    for edge in _inner_edges(bins, confidence.dtype):
        index = index + xp.astype(confidence > edge, index.dtype)
    own = xp.expand_dims(index, axis=-1) == _as(xp, list(range(bins)), index)
    own = own & xp.expand_dims(counted & good, axis=-1)
    zero, nan = xp.zeros_like(confidence), xp.full_like(confidence, math.nan)
    offsets = xp.expand_dims(confidence, axis=-1) - _centres(xp, bins, confidence)
    hit = xp.expand_dims(block.predicted == label, axis=-1)

    def summed(values):
        return _sum(xp, xp.where(counted, xp.where(good, values, nan), zero))

    return (
        _count(xp, own),
        _count(xp, own & hit),
        _sum(xp, xp.where(own, offsets, xp.zeros_like(offsets))),
        summed(block.nll),
        summed(block.brier),
    )


def _inner_edges(bins, dtype):
    """i/B as float64. For float32 the largest numbers that are not above: for a p of float32, p > edge is the same."""
    edges = [i / bins for i in range(1, bins)]
    if "64" in str(dtype):
        return edges
    near = [np.float32(edge) for edge in edges]
    return [
        float(np.nextafter(n, np.float32(0)) if float(n) > edge else n) for n, edge in zip(near, edges, strict=True)
    ]


def _centres(xp, bins, like):
    return _as(xp, [(i / bins + (i + 1) / bins) / 2 for i in range(bins)], like)


def _as(xp, numbers, like):
    """Numbers as an array of the namespace, with the dtype (and the device) of another array."""
    return like.new_tensor(numbers) if hasattr(like, "new_tensor") else xp.asarray(numbers, dtype=like.dtype)


def _count(xp, mask):
    return xp.sum(xp.astype(mask, xp.int32), axis=0)


def _sum(xp, values):
    """The sum over the first axis; in float32 in a tree of `LANES` branches, which keeps its digits."""
    while "32" in str(values.dtype) and values.shape[0] > LANES:
        if missing := -values.shape[0] % LANES:
            values = xp.concat([values, xp.zeros_like(values[:missing])], axis=0)
        values = xp.sum(xp.reshape(values, (-1, LANES, *values.shape[1:])), axis=1)
    return xp.sum(values, axis=0)


def _added(state, totals, backend, like):
    """The state plus a batch's sums."""
    xp = backend.xp
    count, hits, offset, nll, brier = totals
    s = CalibrationState(*[backend.array(part, like) for part in state])
    return CalibrationState(
        s.count + xp.astype(count, s.count.dtype),
        s.hits + xp.astype(hits, s.hits.dtype),
        *_compensated(xp, s.offset, s.offset_rest, offset),
        *_compensated(xp, s.nll, s.nll_rest, nll),
        *_compensated(xp, s.brier, s.brier_rest, brier),
        s.classes,
    )


def _compensated(xp, total, rest, more):
    """(total + more, rest + what rounding took off that sum), by Knuth's two-sum. An infinite sum has no rest."""
    new = total + more
    kept = new - total
    lost = (total - (new - kept)) + (more - kept)
    return new, rest + xp.where(xp.abs(lost) < math.inf, lost, xp.zeros_like(lost))


def merge(a: CalibrationState, b: CalibrationState) -> CalibrationState:
    """The state of two streams together. Plain addition, array by array, is right too, to the floats' rounding."""
    if a.count.shape != b.count.shape or a.classes.shape != b.classes.shape:
        got = f"{a.count.shape[0]} and {b.count.shape[0]} bins, {a.classes.shape[0]} and {b.classes.shape[0]} classes"
        raise complain("b", "a state of as many bins and classes as a", got, "Start both with the same init_state.")
    framework = b if isinstance(a.count, np.ndarray) else a
    backend = backend_object(framework.count)
    a, b = (CalibrationState(*[backend.array(part, framework.count) for part in state]) for state in (a, b))
    sums: list[Any] = []
    for total, rest in (("offset", "offset_rest"), ("nll", "nll_rest"), ("brier", "brier_rest")):
        new, lost = _compensated(backend.xp, getattr(a, total), getattr(a, rest), getattr(b, total))
        sums += [new, lost + getattr(b, rest)]
    offset, offset_rest, nll, nll_rest, brier, brier_rest = sums
    counts = a.count + b.count, a.hits + b.hits
    return CalibrationState(*counts, offset, offset_rest, nll, nll_rest, brier, brier_rest, a.classes)


def compute(state: CalibrationState) -> CalibrationSummary:
    """The metrics of a state: Python numbers, or 0-d arrays under a trace."""
    backend = backend_object(state.count)
    watched = backend.watched()
    values = [x if isinstance(x, np.ndarray) or watched else backend.values(x, True) for x in state]
    if watched or any(value is None for value in values):
        return _summary(state, backend.xp)
    wide = [value if value.dtype.kind == "i" else value.astype(np.float64) for value in values]
    with np.errstate(invalid="ignore", divide="ignore"):
        found = _summary(CalibrationState(*wide), XP)
    return CalibrationSummary(int(found.count), *[float(value) for value in found[1:]])


def _summary(state, xp):
    offset = state.offset + state.offset_rest
    counts, hits = xp.astype(state.count, offset.dtype), xp.astype(state.hits, offset.dtype)
    n = xp.sum(counts)
    centre = _centres(xp, state.count.shape[0], offset)
    gaps = xp.abs(hits - counts * centre - offset)
    filled = xp.where(counts > 0, counts, xp.ones_like(counts))
    brier = (state.brier + state.brier_rest) / n
    poison = 0 * brier  # NaN if something counted was no row of scores, or nothing counted
    return CalibrationSummary(
        xp.sum(state.count),
        xp.sum(hits) / n + poison,
        xp.sum(counts * centre + offset) / n + poison,
        (state.nll + state.nll_rest) / n + poison,
        brier,
        xp.sum(gaps) / n + poison,
        xp.max(gaps / filled) + poison,
    )
