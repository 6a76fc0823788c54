"""Examples from an HDF5 file with a group per tier and an array per input and target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from datasets_impl.array_tier import ArrayTier
from datasets_impl.contract import DatasetError, ExampleIndexError, PipelineDataset, file_path
from datasets_impl.hdf5_tier import HDF5Tier

Names = str | Sequence[str] | Mapping[str, str]
Tensors = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
Batch = TypeVar("Batch")

FLOAT_DTYPES = ("float16", "float32", "float64")
INPUT_DTYPES = (*FLOAT_DTYPES, "uint8", "int32", "int64")
BLOCK_BYTES = 16 << 20  # how much of a file is read at once while a tier is loaded or its labels are checked


class HDF5Dataset(PipelineDataset):
    """Inputs and targets of one tier of an HDF5 file (as `hdf5_writer.write_tiers` makes it).

    A tier whose tensors fit `memory_budget` is read once, at the first use, and kept; a larger one is read from the
    file batch by batch, by each process for itself. Tensors handed out are copies: changing them changes no data.

    Args:
        tuple_dict, dataset_cache_dir, tier: see `contract.PipelineDataset`.
        inputs: names of the arrays that are a model's inputs. One name gives a tensor, several a tuple in this order, a
            mapping {argument: name} a dict.
        targets: names of the arrays that are its targets, likewise.
        classes: number of classes where the one target is a class index: labels are checked to be in [0, classes), and
            the output of a model has shape (classes,).
        float_dtype: dtype of what is a real number in the file: float16, float32 or float64.
        input_dtype: dtype of inputs that are integers or booleans in the file: `float_dtype` by default (values are not
            scaled), or uint8, int32, int64. Integer and boolean targets are always int64.
        memory_budget: bytes up to which the tier is kept in memory.

    Raises:
        DatasetError: the file, the tier, an array or a parameter is missing, damaged or unsuitable.
    """

    run_params = frozenset({"memory_budget"})
    takes_index_tensors = True
    draws_randomness = False

    def __init__(
        self,
        tuple_dict: Mapping[str, Any],
        dataset_cache_dir: str | Path,
        tier: str,
        *,
        inputs: Names = ("inputs",),
        targets: Names = ("targets",),
        classes: int | None = None,
        float_dtype: str = "float32",
        input_dtype: str | None = None,
        memory_budget: int = 1 << 30,
    ) -> None:
        self._input_arguments, self._input_names = arguments_and_names(inputs, "inputs")
        self._target_arguments, self._target_names = arguments_and_names(targets, "targets")
        self._names = tuple(dict.fromkeys((*self._input_names, *self._target_names)))
        self._source = self._open(tuple_dict, dataset_cache_dir, tier)
        self._classes = classes
        self._input_dtypes, self._target_dtypes = self._choose_dtypes(float_dtype, input_dtype or float_dtype)
        self._in_memory = self._bytes() <= memory_budget
        self._loaded: tuple[list[torch.Tensor], list[torch.Tensor]] | None = None
        if classes is not None:
            self._check_labels(classes)
        # Open handles are for reading batches; an object that was only checked must not hold one.
        self._source.close()

    def _open(self, tuple_dict: Mapping[str, Any], dataset_cache_dir: str | Path, tier: str) -> ArrayTier:
        """Find the arrays `self._names` of a tier; subclasses find them elsewhere."""
        return HDF5Tier(file_path(tuple_dict, dataset_cache_dir), tier, self._names)

    def _choose_dtypes(self, float_dtype: str, input_dtype: str) -> tuple[list[np.dtype], list[np.dtype]]:
        if float_dtype not in FLOAT_DTYPES:
            raise DatasetError(f"float_dtype is {float_dtype!r}: choose one of {', '.join(FLOAT_DTYPES)}.")
        if input_dtype not in INPUT_DTYPES:
            raise DatasetError(f"input_dtype is {input_dtype!r}: choose one of {', '.join(INPUT_DTYPES)}.")

        def chosen(name: str, whole_numbers: str) -> np.dtype:
            return np.dtype(float_dtype if self._source.dtypes[name].kind == "f" else whole_numbers)

        return (
            [chosen(name, input_dtype) for name in self._input_names],
            [chosen(name, "int64") for name in self._target_names],
        )

    def _bytes(self) -> int:
        names = (*self._input_names, *self._target_names)
        dtypes = (*self._input_dtypes, *self._target_dtypes)
        sizes = (prod(self._source.shapes[name]) * dtype.itemsize for name, dtype in zip(names, dtypes, strict=True))
        return len(self) * sum(sizes)

    def _check_labels(self, classes: int) -> None:
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 1:
            raise DatasetError(f"classes is {classes!r}: give the number of classes, a positive integer.")
        for start, labels in self._label_blocks():
            wrong = np.flatnonzero((labels < 0) | (labels >= classes))
            if wrong.size:
                raise DatasetError(
                    f"example {start + wrong[0]} of {self._source} has label {labels[wrong[0]]}, but classes={classes} "
                    f"allows 0 to {classes - 1}: correct the labels or the number of classes."
                )

    def _label_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        name = self._target_names[0]
        if len(self._target_names) > 1 or self._source.shapes[name] != () or self._source.dtypes[name].kind == "f":
            raise DatasetError(f"{self._source} has no class labels: they are one target of integers, one per example.")
        step = BLOCK_BYTES // self._source.dtypes[name].itemsize
        for start in range(0, len(self), step):
            yield start, self._source.block(name, start, min(start + step, len(self)))

    def __len__(self) -> int:
        return self._source.length

    def __getitem__(self, index: int) -> tuple[Tensors, Tensors]:
        """Return example `index` (0 to len - 1) as (input, target), without a batch axis."""
        inputs, targets = self._read([index])
        return (
            _packed(self._input_arguments, [tensor[0] for tensor in inputs]),
            _packed(self._target_arguments, [tensor[0] for tensor in targets]),
        )

    def __getitems__(self, indices: Sequence[int] | torch.Tensor) -> tuple[Tensors, Tensors]:
        """Return the batch (inputs, targets) of the examples at `indices`: integers, or an int64 tensor of shape (k,).

        The first axis of every tensor is k; indices may come in any order and more than once.
        """
        inputs, targets = self._read(indices)
        return _packed(self._input_arguments, inputs), _packed(self._target_arguments, targets)

    @staticmethod
    def collate_fn(batch: Batch) -> Batch:
        """Return the batch, which `__getitems__` has already made."""
        return batch

    def get_output_shape(self) -> tuple[int, ...] | None:
        """Return (classes,) where the number of classes is given."""
        return None if self._classes is None else (self._classes,)

    def get_labels(self) -> torch.Tensor:
        """Return the class of every example, int64 of shape (len,).

        Raises:
            DatasetError: there is not exactly one target with one integer per example.
        """
        return torch.cat([torch.from_numpy(labels.astype(np.int64)) for _, labels in self._label_blocks()])

    def preload(self) -> None:
        """Read the tier into memory if it fits, so that forked loader processes share it."""
        if self._in_memory and self._loaded is None:
            self._loaded = (
                [self._load(name, dtype) for name, dtype in zip(self._input_names, self._input_dtypes, strict=True)],
                [self._load(name, dtype) for name, dtype in zip(self._target_names, self._target_dtypes, strict=True)],
            )
            self._source.close()

    def prepare(self, name: str, block: torch.Tensor) -> torch.Tensor:
        """Return the examples of array `name`, shape (k, ...), as a model shall see them; subclasses normalise here.

        The result has the same shape and dtype, and each example depends on itself alone.
        """
        return block

    def _load(self, name: str, dtype: np.dtype) -> torch.Tensor:
        shape = self._source.shapes[name]
        # Block by block, so that the peak is not a second copy of the tier in the file's own dtype.
        step = max(1, BLOCK_BYTES // max(1, prod(shape) * self._source.dtypes[name].itemsize))
        whole = torch.from_numpy(np.empty((len(self), *shape), dtype))
        if len(self) <= step:
            return self._converted(name, self._source.block(name, 0, len(self)), dtype).to(whole.dtype).contiguous()
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            whole[start:stop] = self._converted(name, self._source.block(name, start, stop), dtype)
        return whole

    def _converted(self, name: str, block: np.ndarray, dtype: np.dtype) -> torch.Tensor:
        return self.prepare(name, torch.from_numpy(block.astype(dtype, order="C", copy=False)))

    def _read(self, indices: Sequence[int] | torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        if self._loaded is None:
            if not self._in_memory:
                return self._read_file(np.asarray(indices, dtype=np.int64))
            self.preload()
            assert self._loaded is not None
        selected = indices if isinstance(indices, torch.Tensor) else torch.as_tensor(indices, dtype=torch.int64)
        inputs, targets = self._loaded
        try:
            return [whole.index_select(0, selected) for whole in inputs], [
                whole.index_select(0, selected) for whole in targets
            ]
        except (IndexError, RuntimeError):
            self._check_indices(selected.numpy())
            raise

    def _read_file(self, indices: np.ndarray) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        self._check_indices(indices)
        stored = {name: self._source.rows(name, indices) for name in self._names}

        def tensors(names: Sequence[str], dtypes: Sequence[np.dtype]) -> list[torch.Tensor]:
            return [self._converted(name, stored[name], dtype) for name, dtype in zip(names, dtypes, strict=True)]

        return tensors(self._input_names, self._input_dtypes), tensors(self._target_names, self._target_dtypes)

    def _check_indices(self, indices: np.ndarray) -> None:
        outside = indices[(indices < 0) | (indices >= len(self))]
        if outside.size:
            raise ExampleIndexError(f"example {outside[0]} is not in {self._source}: ask for 0 to {len(self) - 1}.")


def arguments_and_names(names: Names, parameter: str) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """Split names into the arguments of a mapping (None for a sequence) and the names of the arrays.

    Raises:
        DatasetError: no array is named; `parameter` says where.
    """
    if isinstance(names, str):
        names = (names,)
    arguments = tuple(names) if isinstance(names, Mapping) else None
    arrays = tuple(names.values()) if isinstance(names, Mapping) else tuple(names)
    if not arrays or not all(isinstance(name, str) and name for name in arrays):
        raise DatasetError(f"{parameter} is {names!r}: name at least one array, by its name in the file.")
    return arguments, arrays


def _packed(arguments: tuple[str, ...] | None, tensors: list[torch.Tensor]) -> Tensors:
    if arguments is not None:
        return dict(zip(arguments, tensors, strict=True))
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
