"""Calibration streams: equal to the metrics of all rows, in every framework and under every compiler, and they add."""

import math

import numpy as np
import pytest
from calibration_data import sets
from requirements import need

from multismooth import calibration


def parts(convert, size=333):
    _, _, logits, labels = sets()["digits-mlp", "0.1"]
    labels = labels.copy()
    labels[5:8] = -100
    for start in range(0, len(labels), size):
        yield convert(logits[start : start + size].astype(np.float32)), convert(labels[start : start + size])


def streamed(convert=lambda array: array, update=calibration.update):
    state = calibration.init_state(10)
    for logits, labels in parts(convert):
        state = update(state, logits, labels)
    return state


@pytest.fixture(scope="module")
def expected():
    ((logits, labels),) = parts(lambda array: array, size=10**6)
    curve = calibration.reliability_curve(logits, labels, confidence_level=None)
    hits = np.nansum(curve.accuracy * curve.count)
    return calibration.CalibrationSummary(
        int(curve.count.sum()),
        hits / curve.count.sum(),
        curve.mean_confidence,
        calibration.negative_log_likelihood(logits, labels),
        calibration.brier_score(logits, labels),
        calibration.expected_calibration_error(logits, labels),
        calibration.expected_calibration_error(logits, labels, norm="max"),
    )


def test_numpy_and_torch_are_equal_to_the_metrics(expected):
    torch = need("torch")
    assert calibration.compute(streamed()) == pytest.approx(expected, abs=1e-13)
    state = streamed(torch.from_numpy)
    assert all(isinstance(part, torch.Tensor) for part in state)
    assert calibration.compute(state) == pytest.approx(expected, abs=1e-13)


def test_torch_compiles_it_without_a_break(expected):
    torch = need("torch")
    compiled = torch.compile(calibration.update, backend="eager", fullgraph=True)
    assert calibration.compute(streamed(torch.from_numpy, compiled)) == pytest.approx(expected, abs=1e-13)
    differentiable = torch.zeros(3, 10, requires_grad=True)
    state = calibration.update(calibration.init_state(10), differentiable, torch.zeros(3, dtype=torch.long))
    assert not any(part.requires_grad for part in state)


def test_jax_jit_scan_and_psum(expected):
    jax = need("jax")
    jnp = jax.numpy
    jitted = jax.jit(calibration.update)
    state = streamed(jnp.asarray, jitted)
    assert state.count.dtype == jnp.int32
    assert calibration.compute(state) == pytest.approx(expected, abs=1e-6)
    assert [float(x) for x in jax.jit(calibration.compute)(state)] == pytest.approx(expected, abs=1e-6)
    batches = [*parts(jnp.asarray)][:2]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *batches)
    scanned, _ = jax.lax.scan(lambda s, x: (calibration.update(s, *x), None), calibration.init_state(10), stacked)
    states = [jitted(calibration.init_state(10), *batch) for batch in batches]
    joined = jax.vmap(lambda state: jax.lax.psum(state, "parts"), axis_name="parts")(
        jax.tree.map(lambda *x: jnp.stack(x), *states)
    )
    for other in (jax.tree.map(lambda x: x[0], joined), calibration.merge(*states)):
        assert calibration.compute(other) == pytest.approx(calibration.compute(scanned), abs=1e-6)


def test_merging_is_associative_and_adds():
    states = [calibration.update(calibration.init_state(10), *part) for part in parts(lambda array: array)]
    a, b, c = states[:3]
    left, right = calibration.merge(calibration.merge(a, b), c), calibration.merge(a, calibration.merge(b, c))
    whole = calibration.compute(streamed())
    assert np.array_equal(left.count, right.count)
    assert np.array_equal(left.hits, right.hits)
    for state in (left, right, calibration.CalibrationState(*[x + y + z for x, y, z in zip(a, b, c, strict=True)])):
        assert calibration.compute(state) == pytest.approx(whole, abs=1e-13)
    with pytest.raises(ValueError, match="15 and 10 bins"):
        calibration.merge(a, calibration.init_state(10, bins=10))


@pytest.mark.compiles
def test_forty_million_rows_in_float32():
    """A constant .9, half of it right: a float32 counter stops at 2²⁴ and gives .0 (torchmetrics 1.9)."""
    jax = need("jax")
    jnp = jax.numpy
    rows, times = 100_000, 400

    @jax.jit
    def run(p, labels):
        def step(state, _):
            return calibration.update(state, probs=p, targets=labels), None

        return jax.lax.scan(step, calibration.init_state(2), length=times)[0]

    p = np.broadcast_to(np.array([0.9, 0.1], np.float32), (rows, 2))
    found = calibration.compute(run(jnp.asarray(p), jnp.arange(rows) % 2))
    assert found.count == rows * times
    nll = -(math.log(np.float32(0.9)) + math.log(np.float32(0.1))) / 2
    assert found == pytest.approx((rows * times, 0.5, 0.9, nll, 0.82, 0.4, 0.4), rel=1e-6)


@pytest.mark.compiles
def test_edges_are_those_of_float64_in_float32_too():
    jax = need("jax")
    for bins in (10, 15):
        near = np.array([i / bins for i in range(bins // 2 + 1, bins)], np.float32)
        p = np.concatenate([near, np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1))])
        probs = np.stack([p, 1 - p], axis=1)
        labels = np.arange(len(p)) % 2
        start = calibration.init_state(2, bins=bins)
        state = jax.jit(calibration.update)(start, None, labels, probs=jax.numpy.asarray(probs))
        curve = calibration.reliability_curve(probs=probs, targets=labels, bins=bins, confidence_level=None)
        assert np.array_equal(np.asarray(state.count), curve.count)


@pytest.mark.compiles
def test_what_is_no_row_is_an_error_or_nan():
    jax = need("jax")
    jnp = jax.numpy
    start, logits = calibration.init_state(3), np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match="1 others, the first at 2 with label 3"):
        calibration.update(start, logits, np.array([0, 1, 3, 2]))
    for z, y in ((logits, [0, 1, 3, 2]), (logits + np.nan, [0, 1, 1, 1])):
        summary = calibration.compute(jax.jit(calibration.update)(start, jnp.asarray(z), jnp.asarray(y)))
        assert np.isnan(summary[1:]).all()
    ignored = jax.jit(calibration.update)(start, jnp.asarray(logits + np.nan), jnp.full(4, -100))
    assert int(ignored.count.sum()) == 0
    assert np.isnan(calibration.compute(start)[1:]).all()
    with pytest.raises(ValueError, match="3 classes, as in the state"):
        calibration.update(start, np.zeros((4, 2)), np.zeros(4, int))
    with pytest.raises(ValueError, match="num_classes"):
        calibration.init_state(0)
