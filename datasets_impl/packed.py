"""Examples from packed data: a manifest with its shards, as `packing.pack` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_impl import image_codec, packed_manifest
from datasets_impl.contract import DatasetError, ExampleIndexError, PipelineDataset, check_tier, file_path
from datasets_impl.hdf5 import FLOAT_DTYPES
from datasets_impl.packed_column import ARRAY, IMAGE, IMAGES, INPUT, RAGGED, TARGET, TEXT, PackedColumn
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


class PackedDataset(PipelineDataset):
    """Inputs and targets of one tier of packed data; `dataset_file_name` names the manifest.

    An example is a pair (input, target): one column gives a tensor, several a tuple in the order of the manifest.
    Pixels and other inputs have `float_dtype` (values are not scaled) unless `input_dtype` says otherwise; integer
    targets are int64. A batch read with `__getitems__` stacks its examples, which must have one shape.

    Args:
        tuple_dict, dataset_cache_dir, tier: see `contract.PipelineDataset`.
        classes: number of classes where the one target is a class index: a model's output has shape (classes,).
        float_dtype: dtype of what is a real number: float16, float32 or float64.
        input_dtype: dtype of inputs that are integers, `float_dtype` by default.

    Raises:
        DatasetError: the manifest, the tier or a parameter is missing, damaged or unsuitable.
    """

    takes_index_tensors = True
    draws_randomness = False

    def __init__(
        self,
        tuple_dict: Mapping[str, Any],
        dataset_cache_dir: str | Path,
        tier: str,
        *,
        classes: int | None = None,
        float_dtype: str = "float32",
        input_dtype: str | None = None,
    ) -> None:
        self._tier = PackedTier(file_path(tuple_dict, dataset_cache_dir), tier)
        self._inputs = self._tier.manifest.columns_of(INPUT)
        self._targets = self._tier.manifest.columns_of(TARGET)
        if float_dtype not in FLOAT_DTYPES:
            raise DatasetError(f"float_dtype is {float_dtype!r}: choose one of {', '.join(FLOAT_DTYPES)}.")
        if text := [column.name for column in (*self._inputs, *self._targets) if column.kind == TEXT]:
            raise DatasetError(f"column {text[0]!r} of {self._tier} is text, which no model takes: pack it as numbers.")
        self._float_dtype = float_dtype
        self._input_dtype = input_dtype or float_dtype
        self._classes = classes if classes is not None else self._tier.manifest.options.get("classes")

    @classmethod
    def companion_files(cls, path: Path) -> dict[str, str]:
        """The shards beside a manifest, with their sha256."""
        return packed_manifest.read(path).companions()

    @classmethod
    def origin(cls, path: Path) -> dict[str, Any]:
        """The source of packed data with the digest of its content, and the options they were packed with."""
        manifest = packed_manifest.read(path)
        return {"packed": manifest.name, "source": dict(manifest.source), "options": dict(manifest.options)}

    def __len__(self) -> int:
        return self._tier.length

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """Return example `index` (0 to len - 1) as (input, target), without a batch axis."""
        inputs, targets = self._read([index])
        return _single([column[0] for column in inputs]), _single([column[0] for column in targets])

    def __getitems__(self, indices: Sequence[int] | torch.Tensor) -> tuple[Any, Any]:
        """Return the batch (inputs, targets) of the examples at `indices`; the first axis of every tensor is theirs."""
        inputs, targets = self._read(indices)
        return _single([self._stacked(column) for column in inputs]), _single(
            [self._stacked(column) for column in targets]
        )

    @staticmethod
    def collate_fn(batch: Any) -> Any:
        """Return the batch, which `__getitems__` has already made."""
        return batch

    def get_output_shape(self) -> tuple[int, ...] | None:
        """Return (classes,) where the number of classes is known."""
        return None if self._classes is None else (self._classes,)

    def _read(self, indices: Sequence[int] | torch.Tensor) -> tuple[list[Any], list[Any]]:
        numbers = np.asarray(indices, dtype=np.int64)
        outside = numbers[(numbers < 0) | (numbers >= len(self))]
        if outside.size:
            raise ExampleIndexError(f"example {outside[0]} is not in {self._tier}: ask for 0 to {len(self) - 1}.")
        return (
            [self._tensors(column, numbers, self._input_dtype) for column in self._inputs],
            [self._tensors(column, numbers, "int64") for column in self._targets],
        )

    def _tensors(self, column: PackedColumn, numbers: np.ndarray, whole_numbers: str) -> Any:
        dtype = np.dtype(self._float_dtype if np.dtype(column.dtype).kind == "f" else whole_numbers)
        values = self._tier.read(column, numbers)
        if isinstance(values, np.ndarray):
            return torch.from_numpy(values.astype(dtype, copy=False))
        return [torch.from_numpy(value.astype(dtype, copy=False)) for value in values]

    def _stacked(self, values: Any) -> torch.Tensor:
        if isinstance(values, torch.Tensor):
            return values
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            raise DatasetError(f"examples of {self._tier} differ in shape ({sorted(shapes)}): batches need one shape.")
        return torch.stack(values)


def _single(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
