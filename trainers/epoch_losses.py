"""The losses of one pass over a tier."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class EpochLosses:
    """Keeps the loss of every batch where it was computed and reads them all once, at the end.

    Reading a loss makes the host wait for the device, so nothing here is read before `means` or `first_non_finite`.
    """

    def __init__(self) -> None:
        self._losses: list[Tensor | float] = []
        self._regularizations: list[Tensor | float] = []
        self._sizes: list[int] = []

    def add(self, loss: Tensor | float, regularization: Tensor | float, size: int) -> None:
        """Record one batch of `size` examples by its detached scalar losses."""
        self._losses.append(loss)
        self._regularizations.append(regularization)
        self._sizes.append(size)

    def __len__(self) -> int:
        return len(self._losses)

    def state(self) -> dict[str, Tensor]:
        """What was recorded so far, for `from_state`; float64 holds every loss exactly."""
        # Kept as read: whoever asks again does not wait for the same numbers twice.
        self._losses, self._regularizations = [*self._read(self._losses)], [*self._read(self._regularizations)]
        return {
            "losses": torch.tensor(self._losses, dtype=torch.float64),
            "regularizations": torch.tensor(self._regularizations, dtype=torch.float64),
            "sizes": torch.tensor(self._sizes, dtype=torch.int64),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> EpochLosses:
        """The record that gave this state."""
        losses = cls()
        losses._losses = state["losses"].tolist()
        losses._regularizations = state["regularizations"].tolist()
        losses._sizes = state["sizes"].tolist()
        return losses

    @classmethod
    def joined(cls, states: Sequence[Mapping[str, Any]]) -> EpochLosses:
        """The record of whole batches, from the states of ranks of which each recorded its part of every batch."""
        whole, parts = cls(), [cls.from_state(state) for state in states]
        records = (zip(part._losses, part._regularizations, part._sizes, strict=True) for part in parts)
        for shares in zip(*records, strict=True):
            size = sum(count for _, _, count in shares)
            counting = [share for share in shares if share[2]]
            whole._losses.append(sum(loss * count for loss, _, count in counting) / size)
            whole._regularizations.append(sum(value * count for _, value, count in counting) / size)
            whole._sizes.append(size)
        return whole

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
