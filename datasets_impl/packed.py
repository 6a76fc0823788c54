"""Examples from packed data: a manifest with its shards, as `packing.pack` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets_impl import packed_manifest
from datasets_impl.batch_transforms import BatchTransforms
from datasets_impl.contract import DatasetError, ExampleIndexError, PipelineDataset, file_path
from datasets_impl.hdf5 import FLOAT_DTYPES
from datasets_impl.packed_column import IMAGES, INPUT, RAGGED, TARGET, TEXT, PackedColumn
from datasets_impl.packed_functions import ExampleFunctions, Function
from datasets_impl.packed_tier import PackedTier


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
        transforms: what is done to batches of the input that is an image, at random in training; see
            `batch_transforms.BatchTransforms`.
        fetch: a function (columns, index) that gives one example, by default a dict of all columns;
            `columns[name][index]` is an array or a text.
        prepare: a function of what `fetch` gave that changes it.
        collate: a function of a list of prepared examples that gives the batch (inputs, targets); by default the
            columns of dicts are stacked.
        sequence_length: columns of varying length are cut, or filled up with `pad_value`, to this length.
        pad_value: see `sequence_length`.
        drop_last: whether training leaves out a short last batch.

    Functions are named as `my_package.my_module:my_function`; they may draw from the global generators of torch, NumPy
    and Python, which are seeded for each example.

    Raises:
        DatasetError: the manifest, the tier or a parameter is missing, damaged or unsuitable.
    """

    takes_index_tensors = True
    draws_randomness = False
    function_params = frozenset({"fetch", "prepare", "collate"})

    def __init__(
        self,
        tuple_dict: Mapping[str, Any],
        dataset_cache_dir: str | Path,
        tier: str,
        *,
        classes: int | None = None,
        float_dtype: str = "float32",
        input_dtype: str | None = None,
        transforms: Sequence[Mapping[str, Any]] = (),
        fetch: Function | None = None,
        prepare: Function | None = None,
        collate: Function | None = None,
        sequence_length: int | None = None,
        pad_value: float = 0,
        drop_last: bool = True,
    ) -> None:
        self._tier = PackedTier(file_path(tuple_dict, dataset_cache_dir), tier)
        self._inputs = self._tier.manifest.columns_of(INPUT)
        self._targets = self._tier.manifest.columns_of(TARGET)
        if float_dtype not in FLOAT_DTYPES:
            raise DatasetError(f"float_dtype is {float_dtype!r}: choose one of {', '.join(FLOAT_DTYPES)}.")
        self._functions = ExampleFunctions(self._tier, fetch, prepare, collate) if fetch or prepare or collate else None
        text = [column.name for column in (*self._inputs, *self._targets) if column.kind == TEXT]
        if text and self._functions is None:
            raise DatasetError(f"column {text[0]!r} of {self._tier} is text, which no model takes: pack it as numbers.")
        if sequence_length is not None and (isinstance(sequence_length, bool) or sequence_length < 1):
            raise DatasetError(f"sequence_length is {sequence_length!r}: give a positive integer.")
        self._float_dtype = float_dtype
        self._input_dtype = input_dtype or float_dtype
        self._classes = classes if classes is not None else self._tier.manifest.options.get("classes")
        self._sequence_length, self._pad_value = sequence_length, pad_value
        self.drop_last = drop_last
        self._is_training = tier == "train"
        self._image = 0  # its place among the inputs
        self._transforms: BatchTransforms | None = None
        if transforms:
            self._image, self._transforms = self._image_transforms(transforms)
        drawn = self._transforms.draws if self._transforms is not None and self._is_training else 0
        # The last one seeds the functions' own draws.
        self.draws_per_example = drawn + (self._functions is not None)

    def _image_transforms(self, entries: Sequence[Mapping[str, Any]]) -> tuple[int, BatchTransforms]:
        """The place of the image among the inputs, and what is done to it."""
        images = [place for place, column in enumerate(self._inputs) if column.channels]
        if len(images) != 1:
            raise DatasetError(f"transforms need one input that is an image; {self._tier} has {len(images)}.")
        if self._input_dtype not in FLOAT_DTYPES:
            raise DatasetError(f"transforms compute with real numbers: leave out input_dtype={self._input_dtype!r}.")
        if any(column.channels for column in self._targets):
            raise DatasetError(f"a target of {self._tier} is an image, which transforms would leave as it is.")
        if self._functions is not None and self._functions.collate is not None:
            raise DatasetError("transforms and collate both make the batch: call the transforms in collate.")
        (place,) = images
        column = self._inputs[place]
        dtype = np.dtype(column.dtype)
        white = float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
        inputs = self._batch([0], None)[0]
        image = inputs[place] if len(self._inputs) > 1 else inputs
        return place, BatchTransforms(entries, tuple(image.shape[1:]), white)

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
        """Return example `index` (0 to len - 1) as (input, target), without a batch axis and not changed at random."""
        inputs, targets = self._batch([index], None)
        return _first(inputs), _first(targets)

    def __getitems__(self, indices: Sequence[int] | torch.Tensor, draws: torch.Tensor | None = None) -> Any:
        """Return the batch (inputs, targets) of the examples at `indices`; the first axis of every tensor is theirs.

        `draws`, of shape (k, draws_per_example), are what the transforms and functions draw from.
        """
        return self._batch(indices, draws)

    @staticmethod
    def collate_fn(batch: Any) -> Any:
        """Return the batch, which `__getitems__` has already made."""
        return batch

    def get_output_shape(self) -> tuple[int, ...] | None:
        """Return (classes,) where the number of classes is known."""
        return None if self._classes is None else (self._classes,)

    def _batch(self, indices: Sequence[int] | torch.Tensor, draws: torch.Tensor | None) -> Any:
        numbers = np.asarray(indices, dtype=np.int64)
        outside = numbers[(numbers < 0) | (numbers >= len(self))]
        if outside.size:
            raise ExampleIndexError(f"example {outside[0]} is not in {self._tier}: ask for 0 to {len(self) - 1}.")
        examples = None
        if self._functions is not None:
            examples = self._functions.examples(numbers, None if draws is None else draws[:, -1])
            if self._functions.collate is not None:
                return self._functions.collate(examples)
        inputs = [self._tensor(column, numbers, examples, self._input_dtype) for column in self._inputs]
        targets = [self._tensor(column, numbers, examples, "int64") for column in self._targets]
        if self._transforms is not None:
            own = draws[:, : self._transforms.draws] if draws is not None and self._is_training else None
            inputs[self._image] = self._transforms(inputs[self._image], own)
        return _single(inputs), _single(targets)

    def _tensor(
        self, column: PackedColumn, numbers: np.ndarray, examples: list[Any] | None, whole_numbers: str
    ) -> torch.Tensor:
        """A column's values as one tensor: of made `examples`, or as they are packed."""
        if examples is None:
            values = self._tier.read(column, numbers)
        else:
            assert self._functions is not None
            values = self._functions.column(examples, column.name)
        if isinstance(values, np.ndarray):
            return torch.from_numpy(self._converted(values, whole_numbers))
        fitted = [self._fitted(column, self._converted(value, whole_numbers)) for value in values]
        shapes = {value.shape for value in fitted}
        if len(shapes) > 1:
            raise DatasetError(
                f"examples of {self._tier} differ in shape ({sorted(shapes)}): batches need one shape; give a "
                "sequence_length for sequences, or pack images of one size."
            )
        return torch.from_numpy(np.stack(fitted))

    def _converted(self, values: np.ndarray, whole_numbers: str) -> np.ndarray:
        return values.astype(self._float_dtype if values.dtype.kind == "f" else whole_numbers, copy=False)

    def _fitted(self, column: PackedColumn, values: np.ndarray) -> np.ndarray:
        """A sequence in the length that is asked for."""
        length = self._sequence_length
        if length is None or column.kind not in (RAGGED, IMAGES) or len(values) == length:
            return values
        fitted = np.full((length, *values.shape[1:]), self._pad_value, values.dtype)
        fitted[: len(values)] = values[:length]
        return fitted


def _single(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tuple(tensors)


def _first(values: Any) -> Any:
    """The one example of a batch of one."""
    if isinstance(values, Mapping):
        return {name: _first(value) for name, value in values.items()}
    if isinstance(values, tuple | list):
        return tuple(_first(value) for value in values)
    return values[0]
