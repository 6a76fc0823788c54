"""Examples of packed data made by functions of one's own, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from datasets_impl.contract import DatasetError
from datasets_impl.packed_column import PackedColumn
from datasets_impl.packed_tier import PackedTier
from datasets_impl.randomness import preserved_global_randomness, seed_global_randomness

Function = Callable[..., Any]


class Column:
    """The values of a column, by the number of the example."""

    def __init__(self, tier: PackedTier, column: PackedColumn) -> None:
        self._tier = tier
        self._column = column

    def __len__(self) -> int:
        return self._tier.length

    def __getitem__(self, index: int) -> Any:
        return self._tier.read(self._column, np.array([index], dtype=np.int64))[0]


class Columns:
    """The columns of a tier by name, as a `fetch` function gets them."""

    def __init__(self, tier: PackedTier) -> None:
        self._tier = tier

    def __getitem__(self, name: str) -> Column:
        return Column(self._tier, self._tier.manifest.column(name))

    def __len__(self) -> int:
        return self._tier.length


class ExampleFunctions:
    """What makes an example, changes it, and joins examples; each has a default.

    Args:
        tier: the packed examples.
        fetch, prepare, collate: see `packed.PackedDataset`.
    """

    def __init__(
        self, tier: PackedTier, fetch: Function | None, prepare: Function | None, collate: Function | None
    ) -> None:
        self._columns = Columns(tier)
        self._tier = tier
        self._fetch = fetch or self._all_columns
        self._prepare = prepare
        self.collate = collate

    def _all_columns(self, columns: Columns, index: int) -> dict[str, Any]:
        return {column.name: columns[column.name][index] for column in self._tier.manifest.columns}

    def examples(self, indices: np.ndarray, draws: torch.Tensor | None) -> list[Any]:
        """What the functions make of each example.

        `draws`, float64 of shape (k,), uniform in [0, 1), seed the global generators for each; without them the
        functions draw as they like, and in any case the generators are left as they were.
        """
        made = []
        with preserved_global_randomness():
            for place, index in enumerate(indices.tolist()):
                if draws is not None:
                    seed_global_randomness(int(draws[place] * 2**53))
                example = self._fetch(self._columns, index)
                made.append(example if self._prepare is None else self._prepare(example))
        return made

    def column(self, examples: Sequence[Any], name: str) -> list[np.ndarray]:
        """The values of a column in examples that are dicts.

        Raises:
            DatasetError: an example is no dict, or lacks the column.
        """
        for example in examples:
            if not isinstance(example, dict) or name not in example:
                raise DatasetError(
                    f"an example of {self._tier} has no {name!r} after fetch and prepare: return a dict with all "
                    "columns, or name a collate function."
                )
        return [np.asarray(example[name]) for example in examples]
