"""A few rows of a source made into what a shard holds of them: the part of packing that other processes can do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datasets_impl import image_codec
from datasets_impl.errors import DatasetError
from datasets_impl.image_codec import RAW, SOURCE, ImageForm
from datasets_impl.packed_column import ARRAY, IMAGE, IMAGES, RAGGED, SHAPED, TARGET, TEXT
from datasets_impl.packing_options import SKIP, ColumnOptions, PackingOptions
from datasets_impl.packing_source import PackingError, SourceChanged, SourceFile, SourceRow, split_cell

DIGEST_BYTES = 32  # of a sha256

Content = bytes | np.ndarray
"""What a row holds in a column, as it is read from the source."""


class UnreadableImage(PackingError):
    """An image is missing or damaged."""


@dataclass
class PackedValues:
    """Examples of one column, one after the other.

    Attributes:
        data: bytes (uint8) of text and encoded images, else values; of kind `array` (k, *shape).
        lengths: what each example takes of `data`, or of the images, int64 (k,); empty for kind `array`.
        item_lengths: bytes of each image, of kind `images`.
        shapes: of each example, int64 (k, number of axes), of kind `shaped`.
        shape: that all examples share (see `packed_column.PackedColumn`), or None.
    """

    data: np.ndarray
    lengths: np.ndarray
    item_lengths: np.ndarray
    shapes: np.ndarray
    shape: tuple[int, ...] | None


@dataclass
class PackedBlock:
    """Rows that were packed.

    Attributes:
        shard, tier: where they go.
        values: column to its examples.
        numbers, names, digests: of the rows that were packed; `digests` holds the sha256 of what each was made of.
        skipped: rows that could not be read: `row`, `name`, `reason` and `sha256`.
    """

    shard: int
    tier: str
    values: dict[str, PackedValues]
    numbers: list[int]
    names: list[str]
    digests: list[bytes]
    skipped: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Cell:
    """One example of one column: its parts of `PackedValues`, and the shape that must be common or None."""

    content: bytes | np.ndarray
    length: int
    item_lengths: tuple[int, ...] = ()
    shape: tuple[int, ...] | None = None


class BlockPacker:
    """Packs rows as options say; picklable.

    Raises:
        PackingError: a row is not what its column must hold; the message names it.
    """

    def __init__(self, options: PackingOptions) -> None:
        self._options = options
        self._forms = {column.name: options.form(column) for column in options.columns if column.image}

    def __call__(self, task: tuple[int, str, list[SourceRow]]) -> PackedBlock:
        """Pack the rows of one tier of a shard: (shard, tier, rows)."""
        shard, tier, rows = task
        cells: dict[str, list[_Cell]] = {column.name: [] for column in self._options.columns}
        block = PackedBlock(shard, tier, {}, [], [], [])
        for row in rows:
            try:
                contents = {column.name: contents_of(column, row) for column in self._options.columns}
                packed = {c.name: self._cell(c, row, contents[c.name]) for c in self._options.columns}
            except UnreadableImage as error:
                if self._options.unreadable != SKIP:
                    raise
                entry = {"row": row.number, "name": row.name, "reason": str(error.__cause__)}
                block.skipped.append({**entry, "sha256": hashlib.sha256(row.name.encode()).hexdigest()})
                continue
            for name, cell in packed.items():
                cells[name].append(cell)
            block.numbers.append(row.number)
            block.names.append(row.name)
            block.digests.append(digest_of(contents.values()))
        for column in self._options.columns:
            block.values[column.name] = self._joined(column, cells[column.name], block.names)
        return block

    def _cell(self, column: ColumnOptions, row: SourceRow, contents: list[Content]) -> _Cell:
        if column.image:
            return self._images(column, row, contents)
        if column.base == "str":
            return _Cell(np.frombuffer(contents[0], np.uint8), len(contents[0]))
        array = np.asarray(contents[0])
        if column.role == TARGET and self._options.classes is not None:
            self._check_label(array, column, row)
        if self._options.kind(column) == RAGGED:
            array = np.atleast_1d(array)
            return _Cell(array, len(array), shape=array.shape[1:])
        return _Cell(array, 0, shape=array.shape)

    def _check_label(self, array: np.ndarray, column: ColumnOptions, row: SourceRow) -> None:
        classes = self._options.classes
        assert classes is not None
        if array.shape != () or not 0 <= array < classes:
            raise PackingError(
                f"{row.name} has the label {array.tolist()!r} in column {column.name!r}, but classes={classes} allows "
                f"0 to {classes - 1}: correct the label or the number of classes."
            )

    def _images(self, column: ColumnOptions, row: SourceRow, contents: list[Content]) -> _Cell:
        form = self._forms[column.name]
        if contents and isinstance(contents[0], np.ndarray) and self._options.sequence:
            contents = list(contents[0])
        if not contents or (len(contents) > 1 and not self._options.sequence):
            raise PackingError(f"{row.name} names {len(contents)} files in column {column.name!r}: name one file.")
        packed = [_packed_image(content, form, column, row) for content in contents]
        shapes = {shape for _, shape in packed}
        if len(shapes) > 1 and (not column.variable or form.encoder == RAW):
            raise PackingError(
                f"the images of {row.name} in column {column.name!r} differ in shape ({_listed(shapes)}): give height "
                "and width."
            )
        return self._cell_of(column, [content for content, _ in packed], packed[0][1])

    def _cell_of(self, column: ColumnOptions, contents: list[np.ndarray], shape: tuple[int, ...]) -> _Cell:
        kind = self._options.kind(column)
        if kind == IMAGES:
            whole = np.concatenate(contents)
            return _Cell(whole, len(contents), tuple(map(len, contents)), (len(contents), *shape))
        if not self._options.sequence:
            return _Cell(contents[0], contents[0].size, shape=shape)
        stacked = np.stack(contents)
        return _Cell(stacked, len(stacked), shape=stacked.shape[1:] if kind == RAGGED else stacked.shape)

    def _joined(self, column: ColumnOptions, cells: list[_Cell], names: list[str]) -> PackedValues:
        kind = self._options.kind(column)
        shape: tuple[int, ...] | None = None
        fixed = kind in (ARRAY, RAGGED) or (kind != TEXT and not column.variable)
        if cells and fixed:
            shape = cells[0].shape
            for cell, name in zip(cells, names, strict=True):
                if cell.shape != shape:
                    raise mixed_shapes(column.name, name, cell.shape, names[0], shape)
        arrays = [np.asarray(cell.content) for cell in cells]
        dtype = np.dtype(np.uint8 if kind in (TEXT, IMAGE, IMAGES) else column.base).newbyteorder("<")
        if kind == ARRAY:
            data = np.stack(arrays) if arrays else np.empty((0,), dtype)
        else:
            flat = [array.reshape(-1) for array in arrays] if kind == SHAPED else arrays
            data = np.concatenate(flat) if flat else np.empty((0,), dtype)
        return PackedValues(
            data=data.astype(dtype, copy=False),
            lengths=np.asarray([cell.length for cell in cells] if kind != ARRAY else [], np.int64),
            item_lengths=np.asarray([length for cell in cells for length in cell.item_lengths], np.int64),
            shapes=np.asarray([cell.shape for cell in cells] if kind == SHAPED else [], np.int64),
            shape=shape,
        )


def mixed_shapes(
    column: str, name: str, shape: tuple[int, ...] | None, first: str, expected: tuple[int, ...] | None
) -> PackingError:
    """The error where examples of a column that must be alike are not."""
    return PackingError(
        f"{name} has shape {shape} in column {column!r} but {first} has {expected}: give images a height and a width, "
        "or the column a dtype that begins with v."
    )


def contents_of(column: ColumnOptions, row: SourceRow) -> list[Content]:
    """What a row holds in a column: the bytes of its files, its text in UTF-8, or an array of the column's dtype.

    Raises:
        PackingError: it is not what the column must hold.
    """
    value = row.cells[column.name]
    if column.image:
        return [_read_file(file, row) for file in value] if isinstance(value, list) else [np.asarray(value)]
    if column.base == "str":
        return [str(value).encode("utf-8", "surrogateescape")]
    return [_as_numbers(value, column, row)]


def digest_of(contents: Iterable[list[Content]]) -> bytes:
    """The sha256 of the contents of a row, column after column."""
    digest = hashlib.sha256()
    for content in (content for column in contents for content in column):
        if isinstance(content, bytes):
            digest.update(b"%d bytes\n" % len(content))
            digest.update(content)
        else:
            digest.update(f"{content.dtype.str} {content.shape}\n".encode())
            digest.update(content.tobytes())
    return digest.digest()


def _packed_image(
    content: Content, form: ImageForm, column: ColumnOptions, row: SourceRow
) -> tuple[np.ndarray, tuple[int, ...]]:
    """The stored form of one image and its shape (channels, height, width)."""
    try:
        if isinstance(content, np.ndarray):
            return _stored(image_codec.from_pixels(content, form), form)
        if form.encoder == SOURCE:
            return np.frombuffer(content, np.uint8), image_codec.source_shape(content, form)
        return _stored(image_codec.read(content, form), form)
    except DatasetError as error:
        raise PackingError(f"{row.name} holds no image in column {column.name!r}: {error}") from error
    except image_codec.UNREADABLE as error:
        raise UnreadableImage(
            f"the image in column {column.name!r} of {row.name} cannot be read ({error}): correct it, or skip what is "
            "unreadable."
        ) from error


def _stored(image: Any, form: ImageForm) -> tuple[np.ndarray, tuple[int, ...]]:
    if form.encoder == RAW:
        array = image_codec.pixels(image, form.dtype)
        return array, array.shape
    encoded = np.frombuffer(image_codec.encode(image, form), np.uint8)
    return encoded, (form.channels, image.size[1], image.size[0])


def _read_file(file: SourceFile, row: SourceRow) -> bytes:
    """The bytes of a file that has not changed since it was listed."""
    try:
        with open(file.path, "rb") as stream:
            before = os.fstat(stream.fileno())
            content = stream.read()
            after = os.fstat(stream.fileno())
    except OSError as error:
        raise UnreadableImage(
            f"the image {file.path} of {row.name} cannot be opened ({error.strerror}): correct its name, "
            "or skip what is unreadable."
        ) from error
    states = {(status.st_size, status.st_mtime_ns) for status in (before, after)}
    if states != {file.state} or len(content) != after.st_size:
        raise SourceChanged(f"{file.path} changed while it was packed: pack again when nobody writes to it.")
    return content


def _as_numbers(value: Any, column: ColumnOptions, row: SourceRow) -> np.ndarray:
    """A cell as an array of the column's dtype, without a change of value but the rounding of real numbers."""
    dtype = np.dtype(column.base)
    try:
        given = np.asarray(_parsed(value, dtype, column.variable) if isinstance(value, str) else value)
        if given.dtype.kind not in "biuf":
            given = given.astype(np.float64 if dtype.kind == "f" else np.int64)
        with np.errstate(all="ignore"):
            array = given.astype(dtype)
        if dtype.kind != "f" and not np.array_equal(array, given):
            raise ValueError(f"it does not fit {dtype.name}")
        if dtype.kind == "f" and not np.array_equal(np.isinf(array), np.isinf(given)):
            raise ValueError(f"it is too large for {dtype.name}")
    except (ValueError, TypeError, OverflowError) as error:
        raise PackingError(
            f"{row.name} has {_shortened(value)} in column {column.name!r}, which is no {dtype.name}: {error}."
        ) from error
    return array


def _parsed(text: str, dtype: np.dtype, variable: bool) -> Any:
    number = float if dtype.kind == "f" else int
    parts = split_cell(text)
    if len(parts) == 1 and not variable:
        return number(parts[0])
    return [number(part) for part in parts] if variable or parts else number(text)


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def _listed(shapes: set[tuple[int, ...]]) -> str:
    return ", ".join(map(str, sorted(shapes)))
