"""Writes HDF5 data files with a group per tier: whole or not at all, and the same bytes for the same content."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from datasets_impl.errors import DatasetError
from datasets_impl.tiers import check_tier

# Fixed, so that the bytes of a file (its identity) do not follow the newest format a later HDF5 library can write.
LIBRARY_VERSIONS = ("earliest", "v110")

Arrays = Mapping[str, np.ndarray]


def write_tiers(
    path: str | os.PathLike[str],
    tiers: Mapping[str, Arrays],
    attributes: Mapping[str, Any] | None = None,
    *,
    extra: Mapping[str, Arrays] | None = None,
) -> Path:
    """Write `tiers` ({tier: {name: array}}) to an HDF5 file and return its path.

    The first axis of every array of a tier counts its examples. The file appears under its name only when it is whole
    and on disk. The order of the mappings does not matter.

    Args:
        path: the file to write; an existing one is replaced. Its folder must exist.
        tiers: arrays of booleans, integers or real numbers for each tier.
        attributes: attributes of the file's root: text, numbers, or small arrays (64 KiB at most).
        extra: further groups that are not tiers, such as statistics or a known ground truth.

    Raises:
        DatasetError: no tier, an unknown tier or one without arrays, lengths that differ inside a tier, an unsuitable
            array, or no such folder.
    """
    path = Path(path)
    contents = {
        **{check_tier(tier): _checked(arrays, f"tier {tier!r}") for tier, arrays in tiers.items()},
        **{group: _numeric(arrays, f"group {group!r}") for group, arrays in (extra or {}).items()},
    }
    if not tiers:
        raise DatasetError(f"{path} would hold no tier: give at least one of train, validation and test.")
    if clashes := set(tiers) & set(extra or {}):
        raise DatasetError(f"{', '.join(sorted(clashes))} is both a tier and an extra group: rename the extra group.")
    if not path.parent.is_dir():
        raise DatasetError(f"{path} cannot be written because the folder {path.parent} does not exist: make it first.")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        _write(partial, contents, attributes or {})
        _sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    _sync(path.parent)
    return path


def _checked(arrays: Arrays, where: str) -> dict[str, np.ndarray]:
    checked = _numeric(arrays, where)
    if not checked:
        raise DatasetError(f"{where} holds no array: give it at least one.")
    if scalars := [name for name, array in checked.items() if array.ndim == 0]:
        raise DatasetError(f"array {scalars[0]!r} of {where} is a scalar: its first axis must count the examples.")
    lengths = {name: len(array) for name, array in checked.items()}
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"the arrays of {where} differ in length ({_listed(lengths)}): give every example in all.")
    return checked


def _numeric(arrays: Arrays, where: str) -> dict[str, np.ndarray]:
    checked = {name: np.asarray(array) for name, array in arrays.items()}
    for name, array in checked.items():
        if array.dtype.kind not in "biuf":
            raise DatasetError(
                f"array {name!r} of {where} has dtype {array.dtype}: give booleans, integers or real numbers."
            )
    return checked


def _listed(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{name}: {length}" for name, length in lengths.items())


def _write(path: Path, contents: Mapping[str, Arrays], attributes: Mapping[str, Any]) -> None:
    with h5py.File(path, "x", libver=LIBRARY_VERSIONS) as file:
        for name in sorted(attributes):
            file.attrs[name] = attributes[name]
        for group_name in sorted(contents):
            group = file.create_group(group_name)
            for name in sorted(contents[group_name]):
                # Times of creation would make two files of the same content differ.
                group.create_dataset(name, data=contents[group_name][name], track_times=False)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
