"""The settings of a demonstration: every number on which its result depends."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

DataName = Literal["digits", "mnist"]

SPREADS = {"all": "torch", "others": "others"}
"""Spread of the smoothed mass -> name of a convention with that spread."""


@dataclass(frozen=True)
class Case:
    """One training: a spread and an ε."""

    spread: str
    smoothing: float

    @property
    def convention(self) -> str:
        return SPREADS[self.spread]

    def __str__(self) -> str:
        return f"ε = {self.smoothing:g}" + (f" ({self.spread})" if self.smoothing else "")


@dataclass(frozen=True)
class Settings:
    """Settings of a demonstration. Two runs with equal settings on one machine give equal numbers."""

    data: DataName = "digits"
    smoothings: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    steps: int = 600
    float32_steps: int = 100
    float32_smoothing: float = 0.1
    batch_size: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    tolerance: float = 1e-9
    seed: int = 0

    @classmethod
    def of(cls, data: DataName, *, quick: bool = False) -> Settings:
        """The settings of `multismooth demo --data DATA [--quick]`."""
        settings = cls(data=data, steps={"digits": 600, "mnist": 200}[data])
        if quick:
            steps = {"digits": 100, "mnist": 60}[data]
            return replace(settings, smoothings=(0.0, 0.1, 0.4), steps=steps, float32_steps=50)
        return settings

    @property
    def cases(self) -> list[Case]:
        """The trainings in order. At ε = 0 both spreads have the same target, so there is one training."""
        return [
            Case(spread, smoothing) for smoothing in self.smoothings for spread in (SPREADS if smoothing else ("all",))
        ]

    @property
    def float32_case(self) -> Case:
        """The training whose first `float32_steps` steps are repeated in float32."""
        return Case("all", self.float32_smoothing)

    @property
    def total_steps(self) -> int:
        return len(self.cases) * self.steps + self.float32_steps
