"""One small convolutional classifier: its shapes, its first weights, and how each framework stores them.

The canonical layout is Flax's: kernels are (height, width, in, out) and (in, out). PyTorch stores them as
(out, in, height, width) and (out, in), and it flattens an image channel by channel where Flax flattens pixel by
pixel, so the rows of the first dense kernel are reordered too. Nothing else is needed to port this checkpoint.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

CHANNELS = (1, 16, 32)
HIDDEN = 64
CLASSES = 10
KERNEL = 3
POOLINGS = 2

Weights: TypeAlias = dict[str, dict[str, np.ndarray]]
"""layer -> {"kernel", "bias"}, in the canonical layout."""


def flat_size(side: int) -> int:
    """Length of the flattened feature map of an image of side × side pixels."""
    return (side // 2**POOLINGS) ** 2 * CHANNELS[-1]


def first_weights(side: int, seed: int) -> Weights:
    """Kernels drawn as in He et al. (2015): normal, standard deviation √(2 / fan-in). Biases are zero. float64."""
    random = np.random.default_rng(seed)
    shapes = {
        "conv1": (KERNEL, KERNEL, CHANNELS[0], CHANNELS[1]),
        "conv2": (KERNEL, KERNEL, CHANNELS[1], CHANNELS[2]),
        "dense1": (flat_size(side), HIDDEN),
        "dense2": (HIDDEN, CLASSES),
    }
    return {
        layer: {
            "kernel": random.normal(0.0, np.sqrt(2 / np.prod(shape[:-1])), shape),
            "bias": np.zeros(shape[-1]),
        }
        for layer, shape in shapes.items()
    }


def to_torch(weights: Weights) -> dict[str, np.ndarray]:
    """The weights (or gradients) as a PyTorch state dictionary of the same network."""
    state: dict[str, np.ndarray] = {}
    for layer, parts in weights.items():
        kernel = parts["kernel"]
        if kernel.ndim == 4:
            kernel = kernel.transpose(3, 2, 0, 1)
        elif layer == "dense1":
            kernel = _pixels(kernel).transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)
        else:
            kernel = kernel.T
        state |= {f"{layer}.weight": np.ascontiguousarray(kernel), f"{layer}.bias": parts["bias"]}
    return state


def from_torch(state: dict[str, np.ndarray]) -> Weights:
    """Inverse of `to_torch`."""
    weights: Weights = {}
    for name, array in state.items():
        layer, part = name.split(".")
        if part == "bias":
            weights.setdefault(layer, {})["bias"] = array
            continue
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif layer == "dense1":
            rows = array.reshape(len(array), CHANNELS[-1], *_feature_map(array.shape[1]))
            array = rows.transpose(2, 3, 1, 0).reshape(-1, len(array))
        else:
            array = array.T
        weights.setdefault(layer, {})["kernel"] = array
    return weights


def largest_difference(a: Weights, b: Weights) -> float:
    """max |a − b| over every entry of every layer; NaN if either holds one."""
    return float(np.max([np.max(np.abs(a[layer][part] - b[layer][part])) for layer in a for part in a[layer]]))


def _feature_map(flat: int) -> tuple[int, int]:
    side = int(np.sqrt(flat // CHANNELS[-1]))
    return side, side


def _pixels(kernel: np.ndarray) -> np.ndarray:
    """The first dense kernel with its rows unflattened: (height, width, channels, out)."""
    return kernel.reshape(*_feature_map(len(kernel)), CHANNELS[-1], kernel.shape[1])
