"""The examples of one tier of packed data."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from datasets_impl import image_codec, packed_manifest
from datasets_impl.contract import DatasetError, check_tier
from datasets_impl.packed_column import ARRAY, IMAGE, IMAGES, RAGGED, TEXT, PackedColumn
from datasets_impl.packed_shard import PackedShard


class PackedTier:
    """The examples of one tier of packed data, of all shards together.

    Attributes:
        manifest: what is packed.
        length: number of examples, at least 1.

    Raises:
        DatasetError: the manifest is missing or damaged, or the tier is none.
    """

    def __init__(self, path: Path, tier: str) -> None:
        self.manifest = packed_manifest.read(path)
        self.tier = check_tier(tier)
        entries = [entry for entry in self.manifest.shards if entry.counts[tier]]
        self.shards = [PackedShard(path.parent / entry.file) for entry in entries]
        self._ends = np.cumsum([entry.counts[tier] for entry in entries])  # numbers at which the shards end
        self.length = int(self._ends[-1]) if entries else 0
        if not self.length:
            raise DatasetError(f"{self} is empty: pack it with at least one example.")

    def __str__(self) -> str:
        return f"tier {self.tier!r} of the packed data {self.manifest.name}"

    def read(self, column: PackedColumn, indices: np.ndarray) -> np.ndarray | list[Any]:
        """The examples of a column at `indices` (int64, shape (k,), any order, repeats allowed).

        An array of shape (k, *shape) for kind `array`; else a list of k arrays, images decoded to (channels, height,
        width) or (images, channels, height, width), or of k texts.
        """
        shards = np.searchsorted(self._ends, indices, side="right")
        if column.kind == ARRAY:
            return self._rows(column, indices, shards)
        values: list[Any] = []
        for index, number in zip(indices.tolist(), shards.tolist(), strict=True):
            start = int(self._ends[number - 1]) if number else 0
            values.append(self._example(self.shards[number], column, index - start))
        return values

    def _rows(self, column: PackedColumn, indices: np.ndarray, shards: np.ndarray) -> np.ndarray:
        rows = np.empty((len(indices), *(column.shape or ())), column.dtype)
        for number in np.unique(shards).tolist():
            chosen = shards == number
            start = self._ends[number - 1] if number else 0
            rows[chosen] = self.shards[number][f"{self.tier}/{column.name}"][indices[chosen] - start]
        return rows

    def _example(self, shard: PackedShard, column: PackedColumn, row: int) -> Any:
        place = f"{self.tier}/{column.name}"
        start, stop = shard[f"{place}/offsets"][row : row + 2].tolist()
        data = shard[f"{place}/data"]
        if column.kind == RAGGED:
            return data[start:stop].astype(column.dtype)
        if column.kind == TEXT:
            return data[start:stop].tobytes().decode("utf-8", "surrogateescape")
        if column.kind == IMAGE:
            return image_codec.decode(data[start:stop], column.channels, column.dtype)
        if column.kind == IMAGES:
            ends = shard[f"{place}/item_offsets"][start : stop + 1].tolist()
            images = [image_codec.decode(data[a:b], column.channels, column.dtype) for a, b in pairwise(ends)]
            return np.stack(images)
        return data[start:stop].astype(column.dtype).reshape(shard[f"{place}/shapes"][row])
