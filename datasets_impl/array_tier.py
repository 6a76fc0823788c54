"""What a dataset of arrays reads one of its tiers from."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class ArrayTier(Protocol):
    """Arrays by name, whose first axis counts the examples; its text names it in messages.

    Attributes:
        length: number of examples, at least 1.
        shapes: {name: shape of one example}.
        dtypes: {name: dtype as stored}, booleans, integers or real numbers.
    """

    length: int
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, np.dtype]

    def block(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return examples start to stop (exclusive) of an array, as stored."""

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return the examples at `indices` (int64, shape (k,), any order, repeats allowed) of an array, as stored."""

    def close(self) -> None:
        """Let go of what reading needs; the next read opens it again."""
