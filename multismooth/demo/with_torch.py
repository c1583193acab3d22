"""The classifier in PyTorch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from multismooth.demo.model import CHANNELS, CLASSES, HIDDEN, KERNEL, Weights, flat_size, from_torch, to_torch
from multismooth.demo.settings import Case, Settings


class ConvNet(torch.nn.Module):
    """Two convolutions with average pooling, two dense layers. Images are (batch, channel, height, width)."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(CHANNELS[0], CHANNELS[1], KERNEL, padding="same")
        self.conv2 = torch.nn.Conv2d(CHANNELS[1], CHANNELS[2], KERNEL, padding="same")
        self.dense1 = torch.nn.Linear(flat_size(side), HIDDEN)
        self.dense2 = torch.nn.Linear(HIDDEN, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = F.avg_pool2d(F.relu(self.conv1(images)), 2)
        features = F.avg_pool2d(F.relu(self.conv2(features)), 2)
        return self.dense2(F.relu(self.dense1(features.flatten(1))))


class Trainer:
    """Trains one case, one batch at a time. Takes and returns NumPy arrays in the canonical layout."""

    def __init__(self, weights: Weights, side: int, dtype: str, case: Case, settings: Settings, loss: Callable) -> None:
        self.dtype = getattr(torch, dtype)
        self.model = ConvNet(side).to(self.dtype)
        state = {name: torch.tensor(array, dtype=self.dtype) for name, array in to_torch(weights).items()}
        self.model.load_state_dict(state)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.case, self.loss = case, loss

    def step(self, images: np.ndarray, labels: np.ndarray) -> tuple[float, Weights, Weights]:
        """Make one update. Returns the loss and the gradients before it, and the parameters after it."""
        self.optimizer.zero_grad()
        loss = self.loss(
            self._logits(images),
            torch.from_numpy(labels),
            label_smoothing=self.case.smoothing,
            convention=self.case.convention,
        )
        loss.backward()
        self.optimizer.step()
        parameters = dict(self.model.named_parameters())
        gradients = {name: np.asarray(parameter.grad) for name, parameter in parameters.items()}
        values = {name: parameter.detach().numpy() for name, parameter in parameters.items()}
        return loss.item(), from_torch(gradients), from_torch(values)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Scores of images (batch, height, width, channel), shape (batch, classes)."""
        with torch.no_grad():
            return self._logits(images).numpy()

    def _logits(self, images: np.ndarray) -> torch.Tensor:
        return self.model(torch.from_numpy(images).permute(0, 3, 1, 2))
