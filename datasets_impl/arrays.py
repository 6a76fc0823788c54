"""Examples that lie in arrays: in memory, in a memory map or in an HDF5 file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from datasets_impl.contract import DatasetError

NUMBERS = "biuf"  # NumPy's kinds of dtypes


class ArrayDataset(torch.utils.data.Dataset[Any]):
    """The rows of arrays as examples, read a batch at a time. Without targets an example is its input alone.

    Args:
        inputs, targets: array-likes with `shape`, `dtype` and slices (NumPy's or h5py's), or lists, tuples and dicts of
            such. The first axis of every array counts the examples.
        float_dtype: of the tensors that real numbers become; integers and booleans stay what they are as inputs and
            become int64 as targets.

    Raises:
        DatasetError: there is no array or no example, lengths differ, or an array holds no numbers.
    """

    draws_randomness = False

    def __init__(self, inputs: Any, targets: Any = None, float_dtype: torch.dtype = torch.float32) -> None:
        self._inputs, self._targets, self._float_dtype = inputs, targets, float_dtype
        lengths = {}
        for name, structure in (("inputs", inputs), ("targets", targets)):
            if structure is not None:
                lengths.update({place: _checked_length(place, array) for place, array in arrays_of(structure, name)})
        if not any(place.startswith("inputs") for place in lengths):
            raise DatasetError("there is no array of inputs: give at least one.")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{place}: {length}" for place, length in lengths.items())
            raise DatasetError(f"the arrays have different numbers of examples ({listed}): give every example in all.")
        self._length = next(iter(lengths.values()))
        if not self._length:
            raise DatasetError("the arrays hold no example: give at least one.")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        """Return one example, without a batch axis."""
        return _mapped(self.__getitems__([range(len(self))[index]]), lambda tensor: tensor[0])

    def __getitems__(self, indices: Sequence[int]) -> Any:
        """Return a batch; what lies between the indices in the arrays is read too."""
        first, last = min(indices), max(indices)
        chosen = None if list(indices) == [*range(first, last + 1)] else np.asarray(indices) - first

        def read(array: Any) -> np.ndarray:
            part = np.array(array[first : last + 1])  # a copy: a memory map is read-only
            return part if chosen is None else part[chosen]

        inputs = _mapped(self._inputs, lambda array: self._tensor(read(array)))
        if self._targets is None:
            return inputs
        return inputs, _mapped(self._targets, lambda array: self._target(read(array)))

    @staticmethod
    def collate_fn(batch: Any) -> Any:
        """Return a batch as it was read."""
        return batch

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        native = array.astype(array.dtype.newbyteorder("="), copy=False)
        tensor = torch.from_numpy(native)
        return tensor.to(self._float_dtype) if tensor.is_floating_point() else tensor

    def _target(self, array: np.ndarray) -> torch.Tensor:
        tensor = self._tensor(array)
        return tensor if tensor.is_floating_point() else tensor.to(torch.int64)


def arrays_of(structure: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The arrays of a structure, each with its place: ``name``, ``name.key`` or ``name.0``."""
    if isinstance(structure, Mapping):
        for key, part in structure.items():
            yield from arrays_of(part, f"{name}.{key}")
    elif isinstance(structure, list | tuple):
        for number, part in enumerate(structure):
            yield from arrays_of(part, f"{name}.{number}")
    else:
        yield name, structure


def example_shape(structure: Any) -> Any:
    """The shape of one example: a list of int; lists, tuples and dicts of arrays give lists and dicts of shapes."""
    if isinstance(structure, Mapping):
        return {str(name): example_shape(part) for name, part in structure.items()}
    if isinstance(structure, list | tuple):
        return [example_shape(part) for part in structure]
    return [int(size) for size in structure.shape[1:]]


def _mapped(structure: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(structure, Mapping):
        return {name: _mapped(part, function) for name, part in structure.items()}
    if isinstance(structure, list | tuple):
        return type(structure)(_mapped(part, function) for part in structure)
    return function(structure)


def _checked_length(place: str, array: Any) -> int:
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        raise DatasetError(f"{place} is a {type(array).__name__}, not an array: give arrays, lists and dicts of them.")
    if not array.shape:
        raise DatasetError(f"{place} is a single value: its first axis must count the examples.")
    if array.dtype.kind not in NUMBERS:
        raise DatasetError(f"{place} has dtype {array.dtype}: give booleans, integers or real numbers.")
    return int(array.shape[0])
