"""One file of packed data, HDF5 or npz: arrays by name, written from drafts, read by mapping them into memory.

Arrays lie whole and uncompressed in the file: a batch of any rows is one indexing of mapped memory, without the locks
and chunks of the HDF5 library, and forked processes share the pages.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from datasets_impl.errors import DatasetError
from datasets_impl.hdf5_writer import LIBRARY_VERSIONS

HDF5, NPZ = "hdf5", "npz"
SUFFIXES: Mapping[str, str] = {HDF5: ".h5", NPZ: ".npz"}
ATTRIBUTE = "packing"  # of an HDF5 file's root, and the member of an npz: JSON that says how the data were packed
BLOCK = 8 << 20  # bytes copied at once
_LOCAL_HEADER = 30  # bytes of a zip member's own header before its name (PKWARE APPNOTE 4.3.7)


@dataclass(frozen=True)
class Draft:
    """An array whose bytes lie in a file, in C order and little-endian.

    Attributes:
        path: of the file.
        dtype, shape: of the array.
    """

    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]

    def blocks(self) -> Iterator[np.ndarray]:
        """The array in parts of whole rows."""
        row = max(1, prod(self.shape[1:])) * self.dtype.itemsize
        with open(self.path, "rb") as file:
            while content := file.read(max(1, BLOCK // row) * row):
                yield np.frombuffer(content, self.dtype).reshape(-1, *self.shape[1:])


def write(
    path: Path, storage: str, arrays: Mapping[str, Draft], links: Mapping[str, str], packing: Mapping[str, Any]
) -> None:
    """Write arrays ({name: draft}) to a new file: the same bytes for the same content.

    Args:
        storage: `hdf5` or `npz`.
        links: further names of arrays in an HDF5 file, {name: array}.
        packing: what `ATTRIBUTE` holds.
    """
    text = json.dumps(packing, sort_keys=True, separators=(",", ":"))
    (_write_hdf5 if storage == HDF5 else _write_npz)(path, arrays, links, text)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _write_hdf5(path: Path, arrays: Mapping[str, Draft], links: Mapping[str, str], text: str) -> None:
    with h5py.File(path, "x", libver=LIBRARY_VERSIONS) as file:
        file.attrs[ATTRIBUTE] = text
        for name in sorted(arrays):
            draft = arrays[name]
            dataset = file.create_dataset(name, draft.shape, draft.dtype, track_times=False)
            start = 0
            for block in draft.blocks():
                dataset[start : start + len(block)] = block
                start += len(block)
        for name in sorted(links):
            file[name] = h5py.SoftLink(f"/{links[name]}")  # a hard one would hide the first name from `visititems`


def _write_npz(path: Path, arrays: Mapping[str, Draft], links: Mapping[str, str], text: str) -> None:
    with zipfile.ZipFile(path, "x", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr(zipfile.ZipInfo(f"{ATTRIBUTE}.json"), text)  # a ZipInfo of its own: of no time
        for name in sorted(arrays):
            draft = arrays[name]
            header = {"descr": draft.dtype.str, "fortran_order": False, "shape": draft.shape}
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, header)
                for block in draft.blocks():
                    member.write(block.tobytes())


class PackedShard:
    """The arrays of one file, mapped into memory when they are first asked for.

    The object can be pickled and used after a fork: each process maps the file for itself, or shares its pages.

    Raises:
        DatasetError: the file is missing, damaged, or lacks one of the arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, tuple[int | None, np.dtype, tuple[int, ...]]] | None = None
        self._arrays: dict[str, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_places": self._places, "_arrays": {}}

    def __getitem__(self, name: str) -> np.ndarray:
        """The array of that name, read-only."""
        if name not in self._arrays:
            if self._places is None:
                self._places = self._find()
            if name not in self._places:
                raise DatasetError(f"{self.path} has no array {name!r}: it was not packed for this manifest.")
            self._arrays[name] = self._mapped(*self._places[name])
        return self._arrays[name]

    def _find(self) -> dict[str, tuple[int | None, np.dtype, tuple[int, ...]]]:
        try:
            return dict(_hdf5_places(self.path) if self.path.suffix == SUFFIXES[HDF5] else _npz_places(self.path))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise DatasetError(f"{self.path} is missing or damaged ({error}): copy or pack it again.") from error

    def _mapped(self, offset: int | None, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if offset is None or not prod(shape):
            return np.empty(shape, dtype)
        try:
            return np.memmap(self.path, dtype, "r", offset, shape).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise DatasetError(f"{self.path} is missing or damaged ({error}): copy or pack it again.") from error


def _hdf5_places(path: Path) -> Iterable[tuple[str, tuple[int | None, np.dtype, tuple[int, ...]]]]:
    places: list[tuple[str, tuple[int | None, np.dtype, tuple[int, ...]]]] = []

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            offset = item.id.get_offset()  # None where nothing was written, which is where there is nothing
            if offset is None and item.size:
                raise ValueError(f"the array {name} does not lie whole in the file")
            places.append((name, (offset, item.dtype, item.shape)))

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return places


def _npz_places(path: Path) -> Iterator[tuple[str, tuple[int | None, np.dtype, tuple[int, ...]]]]:
    with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
        for member in archive.infolist():
            if member.filename.endswith(".npy") and member.compress_type == zipfile.ZIP_STORED:
                yield member.filename.removesuffix(".npy"), _npy_place(file, member)


def _npy_place(file: BinaryIO, member: zipfile.ZipInfo) -> tuple[int, np.dtype, tuple[int, ...]]:
    file.seek(member.header_offset)
    header = file.read(_LOCAL_HEADER)
    # The lengths of name and extra field of the local header: the central directory may have others.
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), os.SEEK_CUR)
    np.lib.format.read_magic(file)
    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    return file.tell(), dtype, shape
