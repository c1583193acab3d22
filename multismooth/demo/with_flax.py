"""The classifier in Flax NNX."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from multismooth.demo.model import CHANNELS, CLASSES, HIDDEN, KERNEL, Weights, flat_size
from multismooth.demo.settings import Case, Settings


class ConvNet(nnx.Module):
    """Two convolutions with average pooling, two dense layers. Images are (batch, height, width, channel)."""

    def __init__(self, side: int, dtype: jnp.dtype) -> None:
        shared: dict[str, Any] = {"param_dtype": dtype, "rngs": nnx.Rngs(0)}
        self.conv1 = nnx.Conv(CHANNELS[0], CHANNELS[1], (KERNEL, KERNEL), **shared)
        self.conv2 = nnx.Conv(CHANNELS[1], CHANNELS[2], (KERNEL, KERNEL), **shared)
        self.dense1 = nnx.Linear(flat_size(side), HIDDEN, **shared)
        self.dense2 = nnx.Linear(HIDDEN, CLASSES, **shared)

    def __call__(self, images: jax.Array) -> jax.Array:
        features = nnx.avg_pool(nnx.relu(self.conv1(images)), (2, 2), (2, 2))
        features = nnx.avg_pool(nnx.relu(self.conv2(features)), (2, 2), (2, 2))
        return self.dense2(nnx.relu(self.dense1(features.reshape(len(features), -1))))


class Trainer:
    """Trains one case, one batch at a time. Takes and returns NumPy arrays in the canonical layout."""

    def __init__(self, weights: Weights, side: int, dtype: str, case: Case, settings: Settings, loss: Callable) -> None:
        self.model = ConvNet(side, jnp.dtype(dtype))
        nnx.update(self.model, jax.tree.map(lambda array: jnp.asarray(array, dtype), weights))
        rule = update_rule(settings.learning_rate, settings.weight_decay)
        self.optimizer = nnx.Optimizer(self.model, rule, wrt=nnx.Param)
        self.case, self.update = case, compiled_step(loss, case.convention)

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, Weights, Weights]:
        """Make one update. Returns the loss and the gradients before it, and the parameters after it."""
        results = self.update(self.model, self.optimizer, images, labels, self.case.smoothing)
        loss, gradients, parameters = jax.tree.map(np.asarray, results)
        return float(loss), gradients, parameters

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores of images (batch, height, width, channel), shape (batch, classes)."""
        return np.asarray(forward(self.model, images))


forward = nnx.jit(lambda model, images: model(images))


@cache
def update_rule(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """AdamW. Cached, because compiled steps are cached by the identity of this object."""
    return optax.adamw(learning_rate, weight_decay=weight_decay)


@cache
def compiled_step(loss: Callable, convention: str) -> Callable:
    """Gradient and update as one compiled function. ε is traced, so all ε share one compilation."""

    @nnx.jit
    def step(model, optimizer, images, labels, smoothing):
        def objective(model):
            return loss(model(images), labels, label_smoothing=smoothing, convention=convention)

        value, gradients = nnx.value_and_grad(objective)(model)
        optimizer.update(model, gradients)
        return value, nnx.to_pure_dict(gradients), nnx.to_pure_dict(nnx.state(model, nnx.Param))

    return step
