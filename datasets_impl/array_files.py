"""Tables of numbers in files and frames: CSV, NumPy, pandas, Arrow."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets_impl.packing_source import ArrayTable, PackingError

CSV, ARROW = (".csv",), (".parquet", ".feather", ".arrow")
SUFFIXES = (*CSV, ".npy", ".npz", *ARROW)


def open_arrays(
    paths: Sequence[str | os.PathLike[str]], *, stacked: Mapping[str, Sequence[str]] | None = None
) -> ArrayTable:
    """A table of the columns of all files together: CSV with a header, `.npy`, `.npz`, Parquet, Feather.

    A `.npy` with named fields has a column for each; another is one column, called as the file is.

    Args:
        stacked: see `packing_source.ArrayTable`.

    Raises:
        PackingError: a file is missing, of another kind or damaged; two have a column of the same name.
    """
    columns: dict[str, Any] = {}
    for path in map(Path, paths):
        read = _read(path)
        if shared := sorted(columns.keys() & read.keys()):
            raise PackingError(f"the column {shared[0]!r} is in {path} and in a file before it: name it in one only.")
        columns.update(read)
    label = ", ".join(map(str, paths))
    where = {"kind": "arrays", "paths": [str(Path(path).absolute()) for path in paths]}
    return ArrayTable(columns, label, where=where, stacked=stacked)


def table_of(table: Any, label: str = "the table", *, stacked: Mapping[str, Sequence[str]] | None = None) -> ArrayTable:
    """A pandas frame, an Arrow table or a mapping of arrays as a source of a packing.

    Raises:
        PackingError: it is none of these, or a column holds neither numbers nor text.
    """
    if not isinstance(table, Mapping) and hasattr(table, "to_pandas"):
        table = _frame_of(table, label)
    if not isinstance(table, Mapping) and not (hasattr(table, "columns") and hasattr(table, "to_numpy")):
        raise PackingError(f"{label} is a {type(table).__name__}: give a frame, an Arrow table or a mapping of arrays.")
    return ArrayTable({str(name): _values(table[name]) for name in table}, label, stacked=stacked)


def _read(path: Path) -> dict[str, Any]:
    if path.suffix not in SUFFIXES:
        raise PackingError(f"{path} is no table that can be packed: give one of {', '.join(SUFFIXES)}.")
    try:
        if path.suffix in CSV:
            import pandas as pd

            frame = pd.read_csv(path)
            return {str(name): _values(frame[name]) for name in frame}
        if path.suffix in ARROW:
            return _read_arrow(path)
        loaded = np.load(path, allow_pickle=False)
        if path.suffix == ".npz":
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError) as error:
        raise PackingError(f"{path} cannot be read ({error}): correct its name, or write it again.") from error
    if loaded.dtype.names:
        return {name: np.ascontiguousarray(loaded[name]) for name in loaded.dtype.names}
    return {path.stem: loaded}


def _read_arrow(path: Path) -> dict[str, Any]:
    try:
        from pyarrow import feather, parquet
    except ImportError as error:
        raise PackingError(f"{path} needs pyarrow, which is missing: pip install pyarrow.") from error
    table = parquet.read_table(path) if path.suffix == ".parquet" else feather.read_table(path)
    frame = _frame_of(table, str(path))
    return {str(name): _values(frame[name]) for name in frame}


def _frame_of(table: Any, label: str) -> Any:
    """An Arrow table as a pandas frame."""
    try:
        return table.to_pandas()
    except (ImportError, ValueError) as error:
        raise PackingError(f"{label} cannot be read ({error}).") from error


def _values(column: Any) -> np.ndarray:
    """The values of a column of a frame; lists of numbers of one length become rows."""
    array = np.asarray(column)
    if array.dtype.kind == "O" and len(array) and isinstance(array[0], np.ndarray | list | tuple):
        rows = [np.asarray(value) for value in array]
        if len({row.shape for row in rows}) == 1:
            return np.stack(rows)
    return array
