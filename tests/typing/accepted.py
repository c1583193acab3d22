"""What a user writes, with the types that come back. `tests/test_typing.py` runs it, and mypy and pyright over it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, assert_type

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen, nnx
from numpy.typing import NDArray

import multismooth
import multismooth.flax
import multismooth.jax
import multismooth.numpy
import multismooth.torch
from multismooth import Convention, calibration, conventions
from multismooth.problem import Terms

Floats = NDArray[np.floating[Any]]
Single = np.floating[Any]

# --- PyTorch --------------------------------------------------------------------------------------------------------

t, y = torch.zeros(2, 3), torch.tensor([0, 2])
h, w = torch.zeros(2, 4), torch.zeros(3, 4)
tm = multismooth.torch
assert_type(tm.loss(t, y), torch.Tensor)
assert_type(tm.loss(t, y, reduction="none", weight=[1.0, 2.0, 1.0], label_smoothing=torch.tensor(0.1)), torch.Tensor)
assert_type(tm.loss(t, np.array([0, 2]), sample_weight=np.ones(2), convention=conventions["keras"]), torch.Tensor)
assert_type(tm.terms(t, y, class_mask=torch.ones(3, dtype=torch.bool)), Terms[torch.Tensor])
assert_type(tm.terms(t, y).weight, torch.Tensor)
assert_type(tm.loss_and_grad(t, y, out=torch.empty(2, 3)), tuple[torch.Tensor, torch.Tensor])
assert_type(tm.smooth_targets(y, 3, dtype=torch.float64), torch.Tensor)
assert_type(tm.linear_loss(h, w, y, bias=torch.zeros(3), accumulate="input", chunk_rows=1), torch.Tensor)
assert_type(
    tm.linear_loss_and_grad(h, w, y), tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]
)
assert_type(tm.linear_terms(h, w, y, bias=torch.zeros(3)).predicted, torch.Tensor)
assert_type(tm.smoothing_correction(h, w, y), torch.Tensor)
assert_type(tm.binary_loss(t, torch.ones(2, 3)), torch.Tensor)
assert_type(tm.focal_loss(t, y, gamma=2, modulation="label"), torch.Tensor)
assert_type(tm.confidence_penalty(t, y, beta=0.1), torch.Tensor)
assert_type(tm.margin_smoothing(t, y, margin=5.0), torch.Tensor)
assert_type(tm.distillation_loss(t, t, temperature=2.0), torch.Tensor)
assert_type(tm.unigram_prior(y, 3), torch.Tensor)
assert_type(tm.normalizer(y, 3), torch.Tensor)
assert_type(tm.loss(t, y, group=None, num_classes=None), torch.Tensor)
assert_type(tm.OnlinePrior.start(3).update(t, y).next_epoch().prior, torch.Tensor)
assert_type(tm.cross_entropy(t, y, label_smoothing=0.1), torch.Tensor)
assert_type(tm.linear_cross_entropy(h, w, y), torch.Tensor)
assert_type(tm.CrossEntropyLoss(label_smoothing=0.1)(t, y), torch.Tensor)
torch_head = tm.LinearLoss(4, 3, label_smoothing=0.2, weight=torch.ones(3))
assert_type(torch_head(h, y, reduction="sum"), torch.Tensor)
assert_type(torch_head.logits(h), torch.Tensor)
assert_type(tm.LinearLoss(4, 3, return_terms=True)(h, y), Terms[torch.Tensor])
criterion = tm.Loss(convention="fairseq", weight=torch.ones(3), reduction="none")
assert_type(criterion(t, y, label_smoothing=0.2), torch.Tensor)
torch_module: torch.nn.Module = criterion

# --- JAX and Flax ---------------------------------------------------------------------------------------------------

z, k = jnp.zeros((2, 3)), jnp.array([0, 2])
f, c = jnp.zeros((2, 4)), jnp.zeros((3, 4))
jm = multismooth.jax
assert_type(jm.loss(z, k), jax.Array)
assert_type(jm.loss(np.zeros((2, 3)), k, reduction="none"), jax.Array)
assert_type(jm.terms(z, k), Terms[jax.Array])
assert_type(jm.loss_and_grad(z, k), tuple[jax.Array, jax.Array])
assert_type(jm.smooth_targets(k, 3), jax.Array)
assert_type(jm.linear_loss(f, c, k), jax.Array)
assert_type(jm.linear_loss_and_grad(f, c, k), tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]])
assert_type(jm.linear_terms(f, c, k), Terms[jax.Array])
assert_type(jm.smoothing_correction(f, c, k), jax.Array)
assert_type(jm.binary_loss(z, jnp.ones((2, 3))), jax.Array)
assert_type(jm.focal_loss(z, k), jax.Array)
assert_type(jm.confidence_penalty(z, k), jax.Array)
assert_type(jm.margin_smoothing(z, k), jax.Array)
assert_type(jm.distillation_loss(z, z, k, temperature=2.0, hard_weight=0.5), jax.Array)
assert_type(jm.unigram_prior(k, 3), jax.Array)
assert_type(jm.normalizer(k, 3), jax.Array)
assert_type(jm.loss(z, k, axis_name=None), jax.Array)
assert_type(jm.OnlinePrior.start(3).update(z, k).prior, jax.Array)
nnx_head = multismooth.flax.nnx.LinearLoss(4, 3, rngs=nnx.Rngs(0), label_smoothing=0.2)
assert_type(nnx_head(f, k, reduction="none"), jax.Array)
assert_type(nnx_head.logits(f), jax.Array)
assert_type(multismooth.flax.nnx.LinearLoss(4, 3, rngs=nnx.Rngs(0), return_terms=True)(f, k), Terms[jax.Array])
linen_head = multismooth.flax.linen.LinearLoss(3, label_smoothing=0.2)
parameters = linen_head.init(jax.random.key(0), f, k)
linen_module: linen.Module = linen_head
jax_criterion = multismooth.flax.nnx.Loss(convention="fairseq", weight=jnp.ones(3), reduction="none")
assert_type(jax_criterion(z, k, label_smoothing=0.2), jax.Array)

# --- NumPy ----------------------------------------------------------------------------------------------------------

a, b = np.zeros((2, 3)), np.array([0, 2])
x, v = np.zeros((2, 4)), np.zeros((3, 4))
nm = multismooth.numpy
assert_type(nm.loss(a, b), Single)
assert_type(nm.loss(a, b, reduction="none"), Floats)
assert_type(nm.loss([[0.0, 1.0, 2.0]], [0]), Single)
assert_type(nm.terms(a, b), Terms[NDArray[Any]])
assert_type(nm.loss_and_grad(a, b), tuple[Single, Floats])
assert_type(nm.loss_and_grad(a, b, reduction="none"), tuple[Floats, Floats])
assert_type(nm.smooth_targets(b, 3), Floats)
assert_type(nm.linear_loss(x, v, b), Single)
assert_type(nm.linear_loss_and_grad(x, v, b), tuple[Single, tuple[Floats, Floats, Floats | None]])
assert_type(nm.linear_terms(x, v, b), Terms[NDArray[Any]])
assert_type(nm.smoothing_correction(x, v, b, reduction="none"), Floats)
assert_type(nm.binary_loss(a, np.ones((2, 3))), Single)
assert_type(nm.focal_loss(a, b, reduction="sum"), Single)
assert_type(nm.confidence_penalty(a, b, reduction="none"), Floats)
assert_type(nm.margin_smoothing(a, b), Single)
assert_type(nm.distillation_loss(a, a, temperature=2.0, reduction="none"), Floats)
assert_type(nm.unigram_prior(b, 3), Floats)
assert_type(nm.normalizer(b, 3), Floats)
assert_type(nm.OnlinePrior.start(3).update(a, b).counts, Floats)

# --- by the type of the argument ------------------------------------------------------------------------------------

assert_type(multismooth.loss(t, y), torch.Tensor)
assert_type(multismooth.loss(z, k), jax.Array)
assert_type(multismooth.loss(a, b), Single)
assert_type(multismooth.loss(a, b, reduction="none"), Floats)
assert_type(multismooth.loss(torch.nn.Parameter(t), y), torch.Tensor)
assert_type(multismooth.terms(t, y), Terms[torch.Tensor])
assert_type(multismooth.terms(a, b), Terms[NDArray[Any]])
assert_type(multismooth.loss_and_grad(z, k), tuple[jax.Array, jax.Array])
assert_type(multismooth.smooth_targets(y, 3), torch.Tensor)
assert_type(multismooth.linear_loss(h, w, y), torch.Tensor)
assert_type(multismooth.linear_loss_and_grad(f, c, k), tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array | None]])
assert_type(multismooth.linear_terms(h, w, y), Terms[torch.Tensor])
assert_type(multismooth.smoothing_correction(x, v, b), Single)
assert_type(multismooth.binary_loss(t, torch.ones(2, 3)), torch.Tensor)
assert_type(multismooth.focal_loss(z, k), jax.Array)
assert_type(multismooth.confidence_penalty(t, y), torch.Tensor)
assert_type(multismooth.margin_smoothing(t, y), torch.Tensor)
assert_type(multismooth.distillation_loss(t, t, temperature=2.0), torch.Tensor)
assert_type(multismooth.unigram_prior(k, 3), jax.Array)
assert_type(multismooth.normalizer(y, 3), torch.Tensor)
online = multismooth.OnlinePrior.start(3).update(t, y).next_epoch()

# --- conventions ----------------------------------------------------------------------------------------------------

assert_type(conventions, Mapping[str, Convention])
others = conventions["others"]
assert_type(replace(others, spread="all", exclude=(0,)), Convention)
assert_type(Convention(spread="others", denominator="all").smoothing_for(others, 0.1, 3), float)
assert_type(others.explain(0.1, 3), str)
assert_type(others.target_row(0.1, 3), list[float])
assert_type(Convention.from_json(others.to_json()), Convention)
with multismooth.register(replace(others, name="mine", spread="all", denominator="classes")) as mine:
    assert_type(mine, Convention)
with multismooth.implementation("spec") as ran:
    multismooth.loss(a, b)

# --- calibration ----------------------------------------------------------------------------------------------------

labels = np.arange(20) % 3
scores = np.eye(3)[labels] + np.random.default_rng(0).normal(size=(20, 3))
assert_type(calibration.expected_calibration_error(scores, labels, bins=5), float)
assert_type(calibration.expected_calibration_error(torch.from_numpy(scores), torch.from_numpy(labels)), float)
assert_type(calibration.reliability_curve(scores, labels), calibration.ReliabilityCurve)
assert_type(calibration.calibration_test(scores, labels, resamples=10).p_value, float)
assert_type(calibration.smooth_calibration_error(scores, labels), float)
assert_type(calibration.brier_score(scores, labels), float)
assert_type(calibration.negative_log_likelihood(scores, labels), float)
assert_type(calibration.brier_decomposition(scores, labels), calibration.BrierDecomposition)
assert_type(calibration.risk_coverage(scores, labels, score="margin"), calibration.RiskCoverage)
assert_type(calibration.fit_temperature(scores, labels).temperature, float)
assert_type(calibration.TemperatureScaling().fit(scores, labels), calibration.TemperatureScaling)
state = calibration.update(calibration.init_state(3), scores, labels)
assert_type(calibration.compute(calibration.merge(state, state)), calibration.CalibrationSummary)
assert_type(calibration.conventions, Mapping[str, calibration.ErrorConvention])
assert_type(calibration.ErrorConvention(norm="l2", debias=True).explain(), str)
