"""Consecutive examples taken together as sequences."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from datasets_impl.array_tier import ArrayTier
from datasets_impl.contract import DatasetError


class SequenceTier:
    """The examples of another tier, `length_of_each` at a time: example i is made of those from i * length_of_each on.

    The arrays `whole` have all of them, along a first axis; of the others the last one counts. A rest that makes no
    whole sequence is left out.

    Raises:
        DatasetError: there are fewer examples than one sequence has.
    """

    def __init__(self, tier: ArrayTier, length_of_each: int, whole: Collection[str]) -> None:
        self._tier = tier
        self._each = length_of_each
        self._whole = frozenset(whole)
        self.length = tier.length // length_of_each
        self.dtypes = tier.dtypes
        self.shapes = {
            name: (length_of_each, *shape) if name in self._whole else shape for name, shape in tier.shapes.items()
        }
        if self.length == 0:
            raise DatasetError(f"{tier} has {tier.length} examples, fewer than one sequence of {length_of_each}.")

    def __str__(self) -> str:
        return f"sequences of {self._each} of {self._tier}"

    def block(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return sequences start to stop (exclusive) of an array."""
        rows = self._tier.block(name, start * self._each, stop * self._each)
        if name in self._whole:
            return rows.reshape(stop - start, *self.shapes[name])
        return rows[self._each - 1 :: self._each].copy()

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return the sequences at `indices` (int64, shape (k,)) of an array."""
        if name in self._whole:
            every = indices[:, np.newaxis] * self._each + np.arange(self._each)
            return self._tier.rows(name, every.reshape(-1)).reshape(len(indices), *self.shapes[name])
        return self._tier.rows(name, indices * self._each + self._each - 1)

    def close(self) -> None:
        """Close the other tier."""
        self._tier.close()
