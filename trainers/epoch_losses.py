"""The losses of one pass over a tier."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class EpochLosses:
    """Keeps the loss of every batch where it was computed and reads them all once, at the end.

    Reading a loss makes the host wait for the device, so nothing here is read before `means` or `first_non_finite`.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._regularizations: list[Tensor | float] = []
        self._sizes: list[int] = []

    def add(self, loss: Tensor, regularization: Tensor | float, size: int) -> None:
        """Record one batch of `size` examples by its detached scalar losses."""
        self._losses.append(loss)
        self._regularizations.append(regularization)
        self._sizes.append(size)

    def __len__(self) -> int:
        return len(self._losses)

    def means(self) -> tuple[float, float]:
        """Mean criterion and regularization loss, each batch weighing as many as it has examples."""
        return self._mean(self._read(self._losses)), self._mean(self._read(self._regularizations))

    def first_non_finite(self) -> int:
        """The first batch, counted from 0, one of whose losses is infinite or not a number; there must be one."""
        both = zip(self._read(self._losses), self._read(self._regularizations), strict=True)
        return next(step for step, values in enumerate(both) if not all(map(math.isfinite, values)))

    def _mean(self, values: list[float]) -> float:
        return sum(value * size for value, size in zip(values, self._sizes, strict=True)) / sum(self._sizes)

    @staticmethod
    def _read(values: list) -> list[float]:
        tensors = [value for value in values if isinstance(value, Tensor)]
        if not tensors:
            return values
        numbers = iter(torch.stack(tensors).tolist())
        return [next(numbers) if isinstance(value, Tensor) else value for value in values]
