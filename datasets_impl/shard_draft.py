"""A shard while it grows: the arrays of its tiers as files of plain bytes, so that memory holds none of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from datasets_impl import packed_shard
from datasets_impl.packed_block import DIGEST_BYTES, PackedBlock, PackedValues, mixed_shapes
from datasets_impl.packed_column import ARRAY, IMAGES, INPUT, ROLES, SHAPED, TARGET, PackedColumn
from datasets_impl.packed_shard import Draft
from datasets_impl.packing_options import ColumnOptions, PackingOptions
from datasets_impl.tiers import TIERS

SOURCES = "sources"  # the group of what each example was made of: `<tier>/numbers`, `names` (text), `sha256`
LINKS = {INPUT: "inputs", TARGET: "targets"}  # names under which `HDF5Dataset` looks for them by default

Shapes = dict[str, tuple[tuple[int, ...], str]]
"""Column to the shape that its examples share, and the name of the first of them."""


class ShardDraft:
    """Collects the blocks of one shard in a folder and writes the file at the end.

    Args:
        folder: a folder of its own, made anew.
        options: of the packing.
        shapes: shapes that earlier shards have; blocks are compared with them, and new ones are added.
    """

    def __init__(self, folder: Path, options: PackingOptions, shapes: Shapes) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        self._folder = folder
        self._options = options
        self._shapes = shapes
        self._files: dict[str, BinaryIO] = {}
        self._dtypes: dict[str, np.dtype] = {}
        self._shapes_of_rows: dict[str, tuple[int, ...]] = {}
        self._rows: dict[str, int] = {}  # of the first axis of each array
        self._ends: dict[str, int] = {}  # of each array of offsets: its last value
        self.counts = dict.fromkeys(TIERS, 0)
        self.skipped: list[dict[str, Any]] = []

    def add(self, block: PackedBlock) -> None:
        """Append the rows of a block to their tier.

        Raises:
            PackingError: their shapes are not those of the rows before.
        """
        self.skipped.extend(block.skipped)
        if not block.numbers:
            return
        for column in self._options.columns:
            self._add_values(block, column, block.values[column.name])
        source = f"{SOURCES}/{block.tier}"
        self._append(f"{source}/numbers", np.asarray(block.numbers, np.int64))
        self._append(f"{source}/sha256", np.frombuffer(b"".join(block.digests), np.uint8).reshape(-1, DIGEST_BYTES))
        names = [name.encode("utf-8", "surrogateescape") for name in block.names]
        self._append(f"{source}/names/data", np.frombuffer(b"".join(names), np.uint8))
        self._append_lengths(f"{source}/names/offsets", np.asarray([len(name) for name in names], np.int64))
        self.counts[block.tier] += len(block.numbers)

    def _add_values(self, block: PackedBlock, column: ColumnOptions, values: PackedValues) -> None:
        if values.shape is not None:
            expected, first = self._shapes.setdefault(column.name, (values.shape, block.names[0]))
            if values.shape != expected:
                raise mixed_shapes(column.name, block.names[0], values.shape, first, expected)
        place = f"{block.tier}/{column.name}"
        kind = self._options.kind(column)
        if kind == ARRAY:
            self._append(place, values.data)
            return
        self._append(f"{place}/data", values.data)
        self._append_lengths(f"{place}/offsets", values.lengths)
        if kind == IMAGES:
            self._append_lengths(f"{place}/item_offsets", values.item_lengths)
        if kind == SHAPED:
            self._append(f"{place}/shapes", values.shapes)

    def _append(self, name: str, array: np.ndarray) -> None:
        if name not in self._files:
            self._files[name] = (self._folder / str(len(self._files))).open("wb", buffering=1 << 20)
            self._dtypes[name] = array.dtype.newbyteorder("<")
            self._shapes_of_rows[name] = array.shape[1:]
            self._rows[name] = 0
        self._files[name].write(np.ascontiguousarray(array, self._dtypes[name]).data)
        self._rows[name] += len(array)

    def _append_lengths(self, name: str, lengths: np.ndarray) -> None:
        """Lengths go on as the offsets at which they end; an array of offsets begins with 0."""
        if name not in self._files:
            self._append(name, np.zeros(1, np.int64))
            self._ends[name] = 0
        ends = self._ends[name] + np.cumsum(lengths, dtype=np.int64)
        self._append(name, ends)
        if len(ends):
            self._ends[name] = int(ends[-1])

    def finish(self, path: Path, packing: Mapping[str, Any]) -> None:
        """Write the shard; the folder of the draft is removed.

        Args:
            packing: what is written into the shard beside its arrays.
        """
        for file in self._files.values():
            file.close()
        arrays = {
            name: Draft(Path(file.name), self._dtypes[name], (self._rows[name], *self._shapes_of_rows[name]))
            for name, file in self._files.items()
        }
        path.unlink(missing_ok=True)
        packed_shard.write(path, self._options.storage, arrays, self._links(), packing)
        shutil.rmtree(self._folder)

    def close(self) -> None:
        """Close the files of a draft that is not finished; what they hold stays until the next one."""
        for file in self._files.values():
            file.close()

    def _links(self) -> dict[str, str]:
        """`inputs` and `targets` of each tier where there is one of them: what `HDF5Dataset` reads by default."""
        names = {role: [column for column in self._options.columns if column.role == role] for role in ROLES}
        taken = {column.name for column in self._options.columns}
        return {
            f"{tier}/{LINKS[role]}": f"{tier}/{columns[0].name}"
            for role, columns in names.items()
            for tier in TIERS
            if len(columns) == 1 and LINKS[role] not in taken and self.counts[tier]
        }


def packed_columns(options: PackingOptions, shapes: Shapes) -> tuple[PackedColumn, ...]:
    """The columns of the manifest."""
    return tuple(
        PackedColumn(
            name=column.name,
            role=column.role,
            kind=options.kind(column),
            dtype=column.base,
            shape=shapes[column.name][0] if column.name in shapes else None,
            channels=options.channels if column.image else 0,
        )
        for column in options.columns
    )
