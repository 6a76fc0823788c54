"""The file of a prediction: outputs and targets in HDF5, written a batch at a time, and given out in other formats."""

from __future__ import annotations

import csv
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from datasets_impl.arrays import arrays_of, example_shape
from trainers import batch as batches

from . import dataset_store
from .errors import PipelineError
from .store.interface import sync_folder

KIND = "prediction"
ROWS = 1024  # of a table that are in memory at a time


class UnsuitableOutputs(PipelineError, ValueError):
    """What a model gives cannot be kept as the outputs for a number of examples."""


class UnusableOutput(PipelineError, ValueError):
    """A file cannot be written as asked for."""


class PredictionWriter:
    """Writes the outputs for `count` examples, and their targets, as a dataset of the store.

    The bytes depend on the content alone, not on the batches. A link says for each array what it holds: ``outputs``,
    ``targets.left``.

    Attributes
    ----------
    done : examples so far.
    shape : of the output for one example, as `datasets_impl.arrays.example_shape` gives it.

    Parameters
    ----------
    file : an empty file, open for reading and writing.
    """

    def __init__(self, file: BinaryIO, count: int) -> None:
        self._file = h5py.File(file, "w", libver=dataset_store.LIBRARY_VERSIONS)
        self._count = count
        self._form: tuple[Any, ...] | None = None
        self._arrays: list[Any] = []
        self.done = 0
        self.shape: Any = None

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, outputs: Any, targets: Any) -> None:
        """Write those of a batch, tensors in main memory; `targets` is None where there are none.

        Raises
        ------
        UnsuitableOutputs
            If they are not a row for each example, or differ in form from those before.
        """
        given = {"outputs": batches.to_numpy(outputs)}
        if targets is not None:
            given["targets"] = batches.to_numpy(targets)
        text, arrays = dataset_store.parts(given)
        lengths = {array.shape[0] if array.ndim else 0 for array in arrays}
        if len(lengths) != 1 or 0 in lengths:
            shapes = ", ".join(str(array.shape) for array in arrays)
            raise UnsuitableOutputs(f"the model and the data give {shapes} for a batch; each needs a row per example")
        form = (text, *((array.dtype, array.shape[1:]) for array in arrays))
        if self._form is None:
            self._form, self.shape = form, example_shape(given["outputs"])
            self._begin(text, arrays)
        if form != self._form:
            raise UnsuitableOutputs(f"the outputs change their form after {self.done} examples; a file holds one form")
        (length,) = lengths
        self._check(self.done + length <= self._count, self.done + length)
        for stored, array in zip(self._arrays, arrays, strict=True):
            stored[self.done : self.done + length] = array
        self.done += length

    def finish(self) -> None:
        """Raise `UnsuitableOutputs` unless there is an output for every example."""
        self._check(self.done == self._count, self.done)

    def _check(self, right: bool, number: int) -> None:
        if not right:
            raise UnsuitableOutputs(
                f"the model gives {number} outputs for {self._count} examples; its outputs need a row for each example"
            )

    def _begin(self, text: str, arrays: list[np.ndarray]) -> None:
        dataset_store.write_structure(self._file, text)
        for number, array in enumerate(arrays):
            name, shape = dataset_store.array_name(number), (self._count, *array.shape[1:])
            self._arrays.append(self._file.create_dataset(name, shape=shape, dtype=array.dtype, track_times=False))
        for name, number in _numbers(json.loads(text)):
            if "/" not in name:  # which would make groups
                self._file[name] = self._arrays[number]


def _numbers(structure: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The number of each array of a prediction, by its place."""
    ((_, parts),) = structure.items()
    for name, part in parts:
        yield from arrays_of(_as_tree(part), name)


def _as_tree(part: Mapping[str, Any]) -> Any:
    ((kind, content),) = part.items()
    if kind == "dict":
        return {name: _as_tree(item) for name, item in content}
    return [_as_tree(item) for item in content] if kind in ("list", "tuple") else content


def check_output(path: Path, *, force: bool) -> None:
    """Raise `UnusableOutput` unless a file of this name can be written; one that exists only with `force`."""
    if path.suffix not in FORMATS:
        raise UnusableOutput(f"{path} is no file of arrays or a table; let it end in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise UnusableOutput(f"{path} cannot be written, since the folder {path.parent} does not exist; make it first")
    if path.is_dir():
        raise UnusableOutput(f"{path} is a folder; choose another name")
    if path.exists() and not force:
        raise UnusableOutput(f"{path} exists; choose another name, or have it replaced with --force (force=True)")


def export(source: Path | BinaryIO, path: Path, *, force: bool) -> None:
    """Write a prediction, given as the file of a `PredictionWriter`, to `path`: whole or not at all.

    Raises
    ------
    UnusableOutput
        As `check_output` does.
    """
    check_output(path, force=force)
    with _appearing(path) as draft:
        FORMATS[path.suffix](source, draft)


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A file of another name in the same folder, which takes the place of `path` in the end."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        yield draft
        with draft.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)


def _write_hdf5(source: Path | BinaryIO, draft: Path) -> None:
    if isinstance(source, Path):
        shutil.copyfile(source, draft)
        return
    source.seek(0)
    with draft.open("xb") as file:
        shutil.copyfileobj(source, file)


def _write_npz(source: Path | BinaryIO, draft: Path) -> None:
    with dataset_store.opened(source, "the prediction") as arrays, draft.open("xb") as file:
        named = {place: array for name, part in arrays.items() for place, array in arrays_of(part, name)}
        np.savez(file, **named)


def _write_csv(source: Path | BinaryIO, draft: Path) -> None:
    """A row for each example: its number, and each number of its outputs and targets."""
    with dataset_store.opened(source, "the prediction") as arrays, draft.open("x", newline="") as file:
        named = [found for name, part in arrays.items() for found in arrays_of(part, name)]
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["example", *(column for name, array in named for column in _columns(name, array.shape[1:]))])
        count = named[0][1].shape[0]
        for start in range(0, count, ROWS):
            parts = [array[start : start + ROWS].reshape(min(ROWS, count - start), -1).tolist() for _, array in named]
            for number, cells in enumerate(zip(*parts, strict=True), start):
                writer.writerow([number, *(cell for part in cells for cell in part)])


def _columns(name: str, shape: tuple[int, ...]) -> list[str]:
    """Names of the numbers of one example: ``outputs[0]``, ``outputs[0,1]``, or ``targets`` for a single one."""
    places = np.ndindex(*shape)
    return [f"{name}[{','.join(map(str, place))}]" if place else name for place in places]


FORMATS: Mapping[str, Callable[[Path | BinaryIO, Path], None]] = {
    ".h5": _write_hdf5,
    ".npz": _write_npz,
    ".csv": _write_csv,
}
