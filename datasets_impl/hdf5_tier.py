"""One tier of an HDF5 data file: checked once, opened again in each process that reads it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from datasets_impl.contract import TIERS, DatasetError, check_tier


class HDF5Tier:
    """The arrays `names` of one tier; the first axis of each counts the examples.

    The file is opened and closed to be checked, and opened again at the first read. The handle is neither pickled nor
    used in a forked process: each process opens the file for itself.

    Attributes:
        path, tier: which tier of which file.
        length: number of examples, at least 1.
        shapes: {name: shape of one example}.
        dtypes: {name: dtype in the file}, booleans, integers or real numbers.

    Raises:
        DatasetError: the file is missing or not whole HDF5; the tier or an array is missing, empty or unsuitable; the
            arrays differ in length.
    """

    def __init__(self, path: Path, tier: str, names: Iterable[str]) -> None:
        self.path = path
        self.tier = check_tier(tier)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        self._file: h5py.File | None = None
        self._owner = 0
        with open_hdf5(path) as file:
            self.length = self._check(file, list(dict.fromkeys(names)))

    def _check(self, file: h5py.File, names: list[str]) -> int:
        group = file.get(self.tier)
        if not isinstance(group, h5py.Group):
            present = ", ".join(tier for tier in TIERS if tier in file) or "none"
            raise DatasetError(f"{self.path} has no tier {self.tier!r} (it has {present}): write it or choose another.")
        lengths = {}
        for name in names:
            array = group.get(name)
            if not isinstance(array, h5py.Dataset):
                present = ", ".join(sorted(group)) or "nothing"
                raise DatasetError(f"{self} has no array {name!r} (it has {present}): name one of these.")
            if array.ndim == 0 or array.dtype.kind not in "biuf":
                raise DatasetError(
                    f"array {name!r} of {self} has shape {array.shape} and dtype {array.dtype}: "
                    "give booleans, integers or real numbers with a first axis that counts the examples."
                )
            lengths[name] = len(array)
            self.shapes[name] = tuple(array.shape[1:])
            self.dtypes[name] = array.dtype
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DatasetError(f"the arrays of {self} differ in length ({listed}): give every example in all of them.")
        length = min(lengths.values(), default=0)
        if length == 0:
            raise DatasetError(f"{self} is empty: give it at least one example.")
        return length

    def __str__(self) -> str:
        return f"tier {self.tier!r} of {self.path}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def block(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return examples start to stop (exclusive) of an array, as stored."""
        return self._read(name, slice(start, stop))

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return the examples at `indices` (int64, shape (k,), any order, repeats allowed) of an array, as stored."""
        # HDF5 selects only in ascending order and each row once; a run without gaps is read much faster as a slice.
        ascending, places = np.unique(indices, return_inverse=True)
        first, last = int(ascending[0]), int(ascending[-1])
        gapless = last - first + 1 == len(ascending)
        return self._read(name, slice(first, last + 1) if gapless else ascending)[places]

    def close(self) -> None:
        """Close this process's handle; the next read opens the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _read(self, name: str, selection: slice | np.ndarray) -> np.ndarray:
        if self._owner != os.getpid():
            # A forked process must not share its parent's file descriptor, and HDF5 would hand the same one out again
            # while the inherited handle is open.
            self.close()
        if self._file is None:
            self._file = open_hdf5(self.path)
            self._owner = os.getpid()
        try:
            return self._file[self.tier][name][selection]
        except (OSError, KeyError) as error:
            raise DatasetError(f"array {name!r} of {self} cannot be read ({error}): restore the file.") from error


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    Raises:
        DatasetError: there is no such file, or it is not whole HDF5.
    """
    if not path.is_file():
        raise DatasetError(f"the data file {path} does not exist: check its name and folder.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path} is not a whole, readable HDF5 file ({error}): write or copy it again.") from error
