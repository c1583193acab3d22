"""A training to sweep out of the box: a small network on real digits, in NumPy. Any `train` of your own looks alike.

`multismooth sweep multismooth.sweeping.digits:train` runs it. A run takes about 2 seconds.
"""

from __future__ import annotations

from functools import cache

import numpy as np

import multismooth.numpy
from multismooth.errors import require

HIDDEN, EPOCHS, BATCH, RATE, DECAY = 128, 60, 32, 2e-3, 1e-3
TRAIN, VALIDATION = 500, 400  # the other 897 digits are the test


def train(label_smoothing: float, seed: int):
    """Train 64–128–10 with AdamW on 500 digits of scikit-learn; the seed shuffles and starts, the split is fixed.

    Returns:
        (val_logits, val_targets, test_logits, test_targets, (test_features, classifier)). The last is for the picture
        of the clusters and may be left out.
    """
    (images, labels), validation, test = split()
    random = np.random.default_rng(seed)
    weights = [
        random.normal(size=(64, HIDDEN)) * np.sqrt(2 / 64),
        np.zeros(HIDDEN),
        random.normal(size=(HIDDEN, 10)) * np.sqrt(1 / HIDDEN),
        np.zeros(10),
    ]
    moments = [[np.zeros_like(w), np.zeros_like(w)] for w in weights]
    step = 0
    for _ in range(EPOCHS):
        for batch in np.array_split(random.permutation(len(labels)), -(-len(labels) // BATCH)):
            gradients = backward(weights, images[batch], labels[batch], label_smoothing)
            step += 1
            for weight, gradient, (mean, square) in zip(weights, gradients, moments, strict=True):
                adamw(weight, gradient, mean, square, step)
    outputs = [forward(weights, part[0]) for part in (validation, test)]
    (_, val_logits), (features, test_logits) = outputs
    return val_logits, validation[1], test_logits, test[1], (features, weights[2].T)


@cache
def split():
    """(images, labels) to train on, to validate and to test; pixels standardised by the training part."""
    require("sklearn", "demo")
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    pixels = (pixels - pixels[order[:TRAIN]].mean()) / pixels[order[:TRAIN]].std()
    parts = np.split(order, [TRAIN, TRAIN + VALIDATION])
    return tuple((pixels[part], labels[part].astype(np.int64)) for part in parts)


def forward(weights, images):
    """(features, logits) of images."""
    hidden = np.maximum(images @ weights[0] + weights[1], 0)
    return hidden, hidden @ weights[2] + weights[3]


def backward(weights, images, labels, label_smoothing):
    """The gradients of the smoothed loss."""
    hidden, logits = forward(weights, images)
    _, by_logits = multismooth.numpy.loss_and_grad(logits, labels, label_smoothing=label_smoothing)
    by_hidden = (by_logits @ weights[2].T) * (hidden > 0)
    return images.T @ by_hidden, by_hidden.sum(axis=0), hidden.T @ by_logits, by_logits.sum(axis=0)


def adamw(weight, gradient, mean, square, step):
    """One update, in place (Loshchilov & Hutter 2019)."""
    mean += 0.1 * (gradient - mean)
    square += 0.001 * (gradient**2 - square)
    scaled = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    weight -= RATE * (scaled + DECAY * weight)
