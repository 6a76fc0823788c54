"""Where the examples of a packing come from: a table of examples whose rows are read by number."""

from __future__ import annotations

import csv
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets_impl.errors import DatasetError

FileState = tuple[int, int] | None
"""Size in bytes and time of modification in ns of a file; None where it is missing."""


class PackingError(DatasetError):
    """Data cannot be packed; nothing that was packed before has changed."""


class SourceChanged(PackingError):
    """The source is not what it was when the packing began."""


class SourceFile(NamedTuple):
    """A file that a cell names."""

    path: str
    state: FileState


class SourceRow(NamedTuple):
    """One example of a source.

    Attributes:
        number: from 0, in the order of the source.
        name: what a person and the manifest call it.
        cells: column to its value: text, a number, an array, or a list of `SourceFile` in a column of images.
    """

    number: int
    name: str
    cells: dict[str, Any]


class PackingSource(ABC):
    """A table of examples. Rows keep their numbers while the object lives."""

    columns: tuple[str, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of rows."""

    @abstractmethod
    def column(self, name: str) -> Sequence[Any] | np.ndarray:
        """The values of one column, of all rows."""

    @abstractmethod
    def rows(self, numbers: Sequence[int]) -> list[SourceRow]:
        """The rows of these numbers, in their order."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What a manifest says of the source: the same for the same content, wherever it lies."""

    @abstractmethod
    def place(self) -> dict[str, Any]:
        """How the source is found again on this machine."""

    @abstractmethod
    def stamp(self) -> str:
        """A digest that changes when the source does, found without reading all of it: what a packing that was
        interrupted compares before it goes on."""

    @abstractmethod
    def dtype(self, name: str) -> str:
        """The dtype that a column has, or that its text suggests."""

    @abstractmethod
    def verify(self) -> None:
        """Raise `SourceChanged` if the source is known to have changed since it was opened."""

    def check_column(self, name: str) -> str:
        """Return the name if the source has that column.

        Raises:
            PackingError: it has not.
        """
        if name not in self.columns:
            raise PackingError(f"{self} has no column {name!r} (it has {', '.join(self.columns)}): name one of these.")
        return name


class FileList(PackingSource):
    """A CSV with a header whose rows name files below a folder, and say what belongs to them.

    Args:
        path: the CSV, in UTF-8.
        folder: where the files lie; that of the CSV by default.
        images: the columns that name files; the first one by default.
        sequence: whether their cells name several files, separated by commas.
        delimiter: between cells.

    Raises:
        PackingError: the CSV is missing, empty or not of this form.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        folder: str | os.PathLike[str] | None = None,
        *,
        images: Sequence[str] | None = None,
        sequence: bool = False,
        delimiter: str = ",",
    ) -> None:
        self._path = Path(path)
        self._folder = Path(folder) if folder is not None else self._path.parent
        self._delimiter = delimiter
        self._sequence = sequence
        if not self._folder.is_dir():
            raise PackingError(f"the folder {self._folder} of the files does not exist: correct its name.")
        self._state = _state(self._path)
        self.columns, self._cells, self._sha256 = _read_csv(self._path, delimiter)
        self.images = tuple(map(self.check_column, images if images is not None else self.columns[:1]))
        self._files = [self._named_files(row) for row in self._cells]
        self._stamp = self._taken_stamp()

    def __str__(self) -> str:
        return f"the list {self._path}"

    def __len__(self) -> int:
        return len(self._cells)

    def column(self, name: str) -> Sequence[str]:
        """The texts of one column."""
        place = self.columns.index(self.check_column(name))
        return [row[place] for row in self._cells]

    def rows(self, numbers: Sequence[int]) -> list[SourceRow]:
        """The rows of these numbers, with the files of the columns of images."""
        return [self._row(int(number)) for number in numbers]

    def _row(self, number: int) -> SourceRow:
        cells: dict[str, Any] = dict(zip(self.columns, self._cells[number], strict=True))
        cells.update(self._files[number])
        return SourceRow(number, self._cells[number][self.columns.index(self.images[0])], cells)

    def _named_files(self, row: Sequence[str]) -> dict[str, list[SourceFile]]:
        files = {}
        for column in self.images:
            cell = row[self.columns.index(column)]
            names = [part.strip() for part in cell.split(",")] if self._sequence else [cell]
            files[column] = [self._file(name) for name in names if name]
        return files

    def _file(self, name: str) -> SourceFile:
        path = self._folder / name
        return SourceFile(str(path), _state(path))

    def describe(self) -> dict[str, Any]:
        """`kind`, the name of the list and the digest of its text."""
        return {"kind": "files", "list": self._path.name, "list_sha256": self._sha256}

    def place(self) -> dict[str, Any]:
        """The list and the folder."""
        place = {"kind": "files", "list": str(self._path.absolute()), "folder": str(self._folder.absolute())}
        return {**place, "delimiter": self._delimiter}

    def stamp(self) -> str:
        """A digest of the list and of size and time of every file."""
        return self._stamp

    def _taken_stamp(self) -> str:
        digest = hashlib.sha256(self._sha256.encode())
        for files in self._files:
            for file in (file for column in self.images for file in files[column]):
                digest.update(f"{file.path}\0{file.state}\n".encode())
        return digest.hexdigest()

    def verify(self) -> None:
        """Raise `SourceChanged` if the list has changed; each file is compared when it is read."""
        if _state(self._path) != self._state:
            raise SourceChanged(f"{self} changed while it was packed: pack it again when nobody writes to it.")

    def dtype(self, name: str) -> str:
        """uint8 for images, else int64, float32 or str, as the texts suggest."""
        return "uint8" if name in self.images else dtype_of_texts(self.column(name))


class ArrayTable(PackingSource):
    """Columns of arrays that are in memory, or mapped: the first axis of each counts the examples.

    Args:
        arrays: {column: array of numbers, booleans or text}.
        label: what a person calls the table.
        where: how it is found again; for a packing with other options.
        stacked: {new column: columns of single numbers that it puts side by side}.

    Raises:
        PackingError: there is no column, they differ in length, or one holds neither numbers nor text.
    """

    def __init__(
        self,
        arrays: Mapping[str, Any],
        label: str = "the table",
        *,
        where: Mapping[str, Any] | None = None,
        stacked: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._label = label
        self._where = dict(where or {"kind": "arrays"})
        checked = {str(name): _checked_array(str(name), values, label) for name, values in arrays.items()}
        if not checked:
            raise PackingError(f"{label} has no column: give it at least two.")
        lengths = {name: len(array) for name, array in checked.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise PackingError(f"the columns of {label} differ in length ({listed}): give every example in all.")
        self.columns = tuple(checked)
        self._arrays = checked
        for name, parts in (stacked or {}).items():
            self._stack(name, parts)
        self._length = next(iter(lengths.values()))
        self._stamp = ""

    def _stack(self, name: str, parts: Sequence[str]) -> None:
        columns = [self._arrays[self.check_column(part)] for part in parts]
        if unfit := [part for part, column in zip(parts, columns, strict=True) if column.ndim > 1 or _is_text(column)]:
            raise PackingError(f"column {unfit[0]!r} of {self} holds no single numbers, so it cannot be stacked.")
        rest = {column: array for column, array in self._arrays.items() if column not in parts}
        self._arrays = {name: np.stack(columns, axis=1), **rest}
        self.columns = tuple(self._arrays)

    def __str__(self) -> str:
        return self._label

    def __len__(self) -> int:
        return self._length

    def column(self, name: str) -> np.ndarray:
        """One column, as it is."""
        return self._arrays[self.check_column(name)]

    def rows(self, numbers: Sequence[int]) -> list[SourceRow]:
        """The rows of these numbers; a row is called by its number."""
        return [
            SourceRow(int(number), str(number), {name: array[number] for name, array in self._arrays.items()})
            for number in numbers
        ]

    def describe(self) -> dict[str, Any]:
        """`kind` and, of a file, its name."""
        place = self.place()
        named = {"file": Path(place["path"]).name} if "path" in place else {}
        return {"kind": place["kind"], **named}

    def place(self) -> dict[str, Any]:
        """How the table is found again."""
        return self._where

    def stamp(self) -> str:
        """A digest of all values."""
        if not self._stamp:
            digest = hashlib.sha256()
            for name, array in self._arrays.items():
                digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
            self._stamp = digest.hexdigest()
        return self._stamp

    def verify(self) -> None:
        """Nothing: the arrays belong to the caller."""

    def dtype(self, name: str) -> str:
        """That of the array; str for text."""
        array = self.column(name)
        return "str" if _is_text(array) else array.dtype.name


def _is_text(array: np.ndarray) -> bool:
    return array.dtype.kind == "U"


def _checked_array(name: str, values: Any, label: str) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind == "O" and all(isinstance(value, str) for value in array.flat):
        array = array.astype("U")
    if array.dtype.kind == "b":
        array = array.astype(np.uint8)
    if array.ndim == 0 or array.dtype.kind not in "iufU":
        raise PackingError(
            f"column {name!r} of {label} has shape {array.shape} and dtype {array.dtype}: give one number, array of "
            "numbers or text for each example, without missing ones."
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def dtype_of_texts(texts: Sequence[str]) -> str:
    """int64 where all texts are whole numbers, float32 where all are numbers, else str; also of several in a cell."""
    parts = list(_numbers(texts))
    for dtype, number in (("int64", int), ("float32", float)):
        try:
            for part in parts:
                number(part)
        except ValueError:
            continue
        return dtype if parts else "str"
    return "str"


def _numbers(texts: Sequence[str]) -> Iterator[str]:
    for text in texts:
        yield from split_cell(text) or [text]


def split_cell(text: str) -> list[str]:
    """The values in a cell that holds several, separated by commas, semicolons or spaces."""
    return text.replace(",", " ").replace(";", " ").split()


def _state(path: Path) -> FileState:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size, status.st_mtime_ns


def _read_csv(path: Path, delimiter: str) -> tuple[tuple[str, ...], list[list[str]], str]:
    """Header, rows and sha256 of a CSV."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PackingError(f"the list {path} cannot be read ({error.strerror}): correct its name.") from error
    try:
        lines = csv.reader(content.decode("utf-8-sig").splitlines(keepends=True), delimiter=delimiter, strict=True)
        header = tuple(name.strip() for name in next(lines, ()))
        rows = []
        for row in lines:
            if len(row) != len(header) and row:
                raise PackingError(
                    f"line {lines.line_num} of {path} has {len(row)} cells but its header {len(header)}: correct it."
                )
            if row:
                rows.append([cell.strip() for cell in row])
    except (UnicodeDecodeError, csv.Error) as error:
        raise PackingError(f"the list {path} is no CSV in UTF-8 ({error}): correct it.") from error
    if len(set(header)) != len(header) or not all(header):
        raise PackingError(f"the header of {path} is {', '.join(header)!r}: give every column a name of its own.")
    if not rows:
        raise PackingError(f"the list {path} names no example: give it a header and at least one row.")
    return header, rows, hashlib.sha256(content).hexdigest()
