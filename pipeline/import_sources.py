"""What examples are imported from: CSV, NPZ and HDF5 files, and functions that yield them."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import h5py
import numpy as np

from datasets_impl.contract import TIERS
from schemas.binding import Resolver

from .import_documents import ImportFailed

ROWS = 1024  # of an HDF5 file, read at once
TIER = "tier"
KINDS = {".csv": "CSV", ".npz": "NPZ", ".h5": "HDF5", ".hdf5": "HDF5"}

Example = Mapping[str, Any]


@dataclass(frozen=True)
class Examples:
    """Examples that can be gone through once.

    Attributes
    ----------
    count : how many there are, where it is known before.
    source : what they are made from, for people.
    """

    each: Iterable[Example]
    count: int | None
    source: str


@contextmanager
def opened(
    source: str, resolver: Resolver, *, arrays: Mapping[str, str] | None = None, params: Any = None
) -> Iterator[Examples]:
    """The examples of a file, or of a function named as `my_package.my_module:my_function`.

    - CSV: a column is a field of whole numbers, real numbers or text, whichever all its cells are.
    - NPZ: an array is a field; its first axis counts the examples.
    - HDF5: the arrays of the groups train, validation and test, whose examples get the field `tier`; or, in a file
      without these, the arrays of its root.

    Parameters
    ----------
    arrays : of a CSV file, field to `first:last`: the columns between these two, of numbers, become one array.
    params : keyword arguments of the function.

    Raises
    ------
    ImportFailed
        If the source is missing, damaged, or of another form.
    UnresolvedClass
        If the function is outside the allowed packages, or there is none.
    """
    kind = KINDS.get(Path(source).suffix.lower())
    if kind is None and ":" not in source:
        raise ImportFailed(f"{source!r} is no source of examples; give a file {', '.join(KINDS)} or module:function")
    if arrays and kind != "CSV":
        raise ImportFailed("only the columns of a CSV file are put together to arrays; leave --array out")
    if params is not None and kind is not None:
        raise ImportFailed("parameters are for a function that yields examples; leave --params out")
    if kind is not None and not Path(source).is_file():
        raise ImportFailed(f"there is no file {source}; correct its name")
    if kind is None:
        yield _of_function(source, resolver, params or {})
    elif kind == "CSV":
        yield _Table(Path(source), arrays or {}).examples()
    elif kind == "NPZ":
        yield _of_arrays(_npz(source), Path(source).name)
    else:
        with _hdf5(source) as file:
            yield _of_hdf5(file, Path(source).name)


def _npz(source: str) -> dict[str, Any]:
    try:
        with np.load(source, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ImportFailed(f"{source} cannot be read as NPZ ({error}); write or copy it again") from error


def _hdf5(source: str) -> h5py.File:
    try:
        return h5py.File(source, "r")
    except OSError as error:
        raise ImportFailed(f"{source} cannot be read as HDF5 ({error}); write or copy it again") from error


def _of_function(source: str, resolver: Resolver, params: Mapping[str, Any]) -> Examples:
    module, _, name = source.partition(":")
    function: Callable[..., Any] = resolver.resolve_function(module, name)
    try:
        inspect.signature(function).bind(**params)
    except TypeError as error:
        raise ImportFailed(f"{source} cannot be called with {sorted(params)}: {error}") from error
    made = function(**params)
    if not isinstance(made, Iterable) or isinstance(made, str | Mapping):
        raise ImportFailed(f"{source} gave a {type(made).__name__}; it has to yield examples, which are dicts")
    count = len(made) if isinstance(made, Sized) else None
    return Examples(made, count, source)


def _of_arrays(arrays: Mapping[str, Any], source: str) -> Examples:
    count = _length(arrays, source)
    return Examples(_rows(arrays, {}), count, source)


def _of_hdf5(file: h5py.File, source: str) -> Examples:
    tiers = {tier: _datasets(file[tier]) for tier in TIERS if isinstance(file.get(tier), h5py.Group)}
    if not tiers:
        return _of_arrays(_datasets(file), source)
    count = sum(_length(arrays, f"{tier} of {source}") for tier, arrays in tiers.items())

    def each() -> Iterator[Example]:
        for tier, arrays in tiers.items():
            yield from _rows(arrays, {TIER: tier})

    return Examples(each(), count, source)


def _datasets(group: Any) -> dict[str, Any]:
    return {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}


def _length(arrays: Mapping[str, Any], source: str) -> int:
    unsuitable = [name for name, array in arrays.items() if array.ndim == 0 or array.dtype.kind not in "biufcU"]
    if unsuitable:
        raise ImportFailed(
            f"array {unsuitable[0]!r} of {source} is no array of numbers whose first axis counts examples"
        )
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        listed = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "none"
        raise ImportFailed(
            f"the arrays of {source} ({listed}) are not of one length; give every example in all of them"
        )
    return next(iter(lengths.values()))


def _rows(arrays: Mapping[str, Any], common: Mapping[str, Any]) -> Iterator[Example]:
    length = len(next(iter(arrays.values())))
    for start in range(0, length, ROWS):
        parts = {name: array[start : start + ROWS] for name, array in arrays.items()}
        for place in range(min(ROWS, length - start)):
            yield {**common, **{name: _item(part[place]) for name, part in parts.items()}}


def _item(value: Any) -> Any:
    return str(value) if isinstance(value, np.str_) else value


class _Table:
    """A CSV file with a line of names (RFC 4180), in UTF-8."""

    def __init__(self, path: Path, arrays: Mapping[str, str]) -> None:
        self._path = path
        self._names: list[str] = []
        self._count = 0
        kinds = self._survey()
        self._spans = {name: self._span(name, given, kinds) for name, given in arrays.items()}
        taken = {column for span in self._spans.values() for column in span}
        self._single = {column: kinds[column] for column in range(len(kinds)) if column not in taken}
        self._dtypes = {
            name: np.dtype(np.int64 if all(kinds[column] is int for column in span) else np.float64)
            for name, span in self._spans.items()
        }

    def examples(self) -> Examples:
        return Examples(self._each(), self._count, self._path.name)

    def _lines(self) -> Iterator[list[str]]:
        try:
            with open(self._path, newline="", encoding="utf-8-sig") as file:
                yield from csv.reader(file, strict=True)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ImportFailed(f"{self._path} cannot be read as CSV: {error}") from error

    def _survey(self) -> list[type]:
        """What each column holds; all lines are looked at, none is kept."""
        lines = self._lines()
        self._names = next(lines, [])
        if not self._names or len(set(self._names)) != len(self._names):
            raise ImportFailed(f"{self._path} has no first line of names, or names a column twice; correct it")
        kinds: list[type] = [int] * len(self._names)
        for cells in lines:
            self._count += 1
            if len(cells) != len(self._names):
                raise ImportFailed(
                    f"example {self._count - 1} of {self._path} has {len(cells)} cells for {len(self._names)} columns; "
                    "correct the file"
                )
            for column, cell in enumerate(cells):
                while not _is(kinds[column], cell):
                    kinds[column] = float if kinds[column] is int else str
        return kinds

    def _span(self, name: str, given: str, kinds: list[type]) -> range:
        first, _, last = given.partition(":")
        for column in (first, last):
            if column not in self._names:
                raise ImportFailed(f"{self._path} has no column {column!r} for the array {name!r}; write first:last")
        span = range(self._names.index(first), self._names.index(last) + 1)
        texts = [self._names[column] for column in span if kinds[column] is str]
        if texts or not span:
            what = f"column {texts[0]!r} holds cells that are no numbers" if texts else "the last column is before it"
            raise ImportFailed(f"the array {name!r} cannot be made of the columns {given}: {what}")
        return span

    def _each(self) -> Iterator[Example]:
        lines = self._lines()
        next(lines, None)
        for cells in lines:
            example: dict[str, Any] = {
                self._names[column]: kind(cells[column]) for column, kind in self._single.items()
            }
            for name, span in self._spans.items():
                example[name] = np.array([self._dtypes[name].type(cells[column]) for column in span])
            yield example


def _is(kind: type, cell: str) -> bool:
    try:
        kind(cell)
    except ValueError:
        return False
    return True
