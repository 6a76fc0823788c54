"""Datasets that people save by name: arrays and lists and dicts of them, as HDF5 objects in the store."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from schemas import removal
from schemas.errors import InvalidValue
from schemas.hashing import plain
from schemas.stored_dataset import StoredDataset

from .errors import PipelineError
from .store.interface import Store

logger = logging.getLogger("trainloom")

# Fixed, so that the bytes of a dataset (its identity) do not follow the newest format a later HDF5 library can write.
LIBRARY_VERSIONS = ("earliest", "v110")
KEY = "stored_dataset_md5_hash"
STRUCTURE = "structure"  # the dataset in a file that says how the arrays hang together: JSON in UTF-8
KIND = "dataset"
MOST_DEPTH = 32  # nested containers
_NUMBERS, _TEXT = "biufc", "U"  # NumPy's kinds of dtypes


class UnsuitableDataset(PipelineError, ValueError):
    """Something in a dataset is neither an array nor a list or dict of such."""


class DatasetMissing(PipelineError, ValueError):
    """No stored dataset fits."""


class DatasetInUse(PipelineError, ValueError):
    """Rows of another table still name a stored dataset."""


def save(
    store: Store, dataset: Any, name: str, *, version: str = "", description: str = "", tags: Mapping[str, Any]
) -> dict[str, str]:
    """Store a dataset under a name; the same content is kept once, whatever its names are.

    Parameters
    ----------
    dataset : arrays of numbers, booleans or text (NumPy's, or torch tensors, which come back as NumPy's), numbers and
        text, and lists, tuples and dicts of such, nested as they are.

    Returns
    -------
    dict
        The key of the row in `StoredDataset`. A row that is there already keeps its description and tags.

    Raises
    ------
    UnsuitableDataset
        With the path of what cannot be stored.
    InvalidRow
        If a text or tag cannot be stored.
    StoreUnavailable
        If the store is away.
    """
    with tempfile.TemporaryDirectory(prefix="trainloom-dataset-") as folder:
        path = Path(folder, "dataset.h5")
        write(path, dataset)
        stored = store.put(path, kind=KIND)  # first: a row never names what is not there
    keys = StoredDataset().insert_dataset(
        stored.sha256, stored.size, name=name, version=version, description=description, tags=tags
    )
    if not keys.new:
        logger.warning("the dataset %s is stored already; its description and tags stay as they are", name)
    return keys[0]


def load(store: Store, row: Mapping[str, Any]) -> Any:
    """The dataset of a row, verified; raises as `Store.open` does."""
    with tempfile.TemporaryDirectory(prefix="trainloom-dataset-") as folder:
        path = Path(folder, "dataset.h5")
        store.download(row["stored_dataset_sha256"], path)
        return read(path)


def remove(rows: Sequence[Mapping[str, Any]]) -> None:
    """Delete rows of `StoredDataset`, all or none; their content is left to the store's garbage collection.

    Raises
    ------
    DatasetInUse
        If rows of other tables name one of them.
    """
    names = {row[KEY]: row["stored_dataset_name"] for row in rows}
    try:
        removal.remove(StoredDataset(), [{KEY: key} for key in names])
    except removal.StillUsed as error:
        raise DatasetInUse(
            f"the dataset {names[error.key[KEY]]} is still used by rows of {error.owners}; delete those first"
        ) from error


def write(path: Path, dataset: Any) -> None:
    """Write a dataset to a new HDF5 file: the same bytes for the same content."""
    text, arrays = parts(dataset)
    with h5py.File(path, "x", libver=LIBRARY_VERSIONS) as file:
        write_structure(file, text)
        for number, array in enumerate(arrays):
            file.create_dataset(array_name(number), data=array, track_times=False)


def parts(dataset: Any) -> tuple[str, list[np.ndarray]]:
    """How a dataset hangs together, as files say it, and its arrays by number.

    Raises
    ------
    UnsuitableDataset
        If something in it is neither an array nor a list or dict of such.
    """
    arrays: list[np.ndarray] = []
    text = json.dumps(_taken_apart(dataset, "dataset", arrays, 0), separators=(",", ":"), allow_nan=False)
    return text, arrays


def write_structure(file: Any, text: str) -> None:
    """Say in a new HDF5 file how its arrays hang together."""
    # Times of creation would make two files of the same content differ.
    file.create_dataset(STRUCTURE, data=np.frombuffer(text.encode("utf-8"), np.uint8), track_times=False)


def array_name(number: int) -> str:
    """What an array is called in a file."""
    return f"array_{number}"


def read(path: Path) -> Any:
    """The inverse of `write`.

    Raises
    ------
    UnsuitableDataset
        If the file is not one that `write` has written.
    """
    with _said_unsuitable(path.name), h5py.File(path, "r") as file:
        return _put_together(_structure(file), file)


@contextmanager
def opened(source: Path | BinaryIO, name: str) -> Iterator[Any]:
    """The dataset of a file that `write` has written, each of its arrays an h5py dataset, which is read where it is
    sliced; `name` is for messages. Raises as `read` does."""
    with ExitStack() as files:
        with _said_unsuitable(name):
            file = files.enter_context(h5py.File(source, "r"))
            dataset = _put_together(_structure(file), file, whole=False)
        yield dataset


def _structure(file: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file[STRUCTURE][()].tobytes())
    return found


@contextmanager
def _said_unsuitable(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UnsuitableDataset(f"{name} is no dataset of the store: {error}; save the dataset again") from error


def _taken_apart(value: Any, path: str, arrays: list[np.ndarray], depth: int) -> dict[str, Any]:
    """How a value hangs together; its arrays are added to `arrays`."""
    if depth > MOST_DEPTH:
        raise UnsuitableDataset(f"{path} is nested more than {MOST_DEPTH} deep; flatten it")
    if isinstance(value, Mapping):
        return {
            "dict": [
                [_key(name, path), _taken_apart(value[name], f"{path}.{name}", arrays, depth + 1)]
                for name in sorted(value, key=str)
            ]
        }
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_taken_apart(item, f"{path}[{at}]", arrays, depth + 1) for at, item in enumerate(value)]}
    if value is None or (isinstance(value, bool | int | str) and not isinstance(value, np.generic)):
        try:
            return {"value": plain(value, path)}
        except InvalidValue as error:
            raise UnsuitableDataset(str(error)) from error
    return _array(value, path, arrays)


def _array(value: Any, path: str, arrays: list[np.ndarray]) -> dict[str, Any]:
    detached = value.detach().cpu() if hasattr(value, "detach") else value
    if not isinstance(detached, float | np.generic | np.ndarray) and not hasattr(detached, "__array__"):
        raise UnsuitableDataset(f"{path} is a {type(value).__name__}, not an array; give arrays, lists and dicts")
    try:
        array = np.asarray(detached)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnsuitableDataset(f"{path} cannot be turned into an array: {error}") from error
    number = len(arrays)
    if array.dtype.kind in _NUMBERS and not (array.dtype.kind in "fc" and array.dtype.itemsize > 16):
        arrays.append(np.asarray(array, array.dtype.newbyteorder("<")))
        return (
            {"float": number} if isinstance(value, float) and not isinstance(value, np.generic) else {"array": number}
        )
    if array.dtype.kind == _TEXT:
        width = array.dtype.itemsize // 4  # NumPy keeps text as UTF-32 of one width
        letters = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view("<u4")
        arrays.append(letters.reshape(*array.shape, width) if width else np.zeros((*array.shape, 0), "<u4"))
        return {"text": number}
    raise UnsuitableDataset(
        f"{path} has dtype {array.dtype}, which cannot be stored without code; give numbers, booleans or text"
    )


def _key(name: Any, path: str) -> str:
    if not isinstance(name, str):
        raise UnsuitableDataset(f"{path} has the key {name!r}, which is not text; use text keys")
    return name


def _put_together(part: dict[str, Any], file: Any, *, whole: bool = True) -> Any:
    """The inverse of `_taken_apart`; arrays of numbers are not read unless they are wanted `whole`."""
    ((kind, content),) = part.items()
    if kind == "dict":
        return {name: _put_together(item, file, whole=whole) for name, item in content}
    if kind in ("list", "tuple"):
        items = [_put_together(item, file, whole=whole) for item in content]
        return items if kind == "list" else tuple(items)
    if kind == "value":
        return content
    stored = file[array_name(content)]
    if kind == "array" and not whole:
        return stored
    array = np.asarray(stored[()])
    if kind == "float":
        return float(array)
    if kind == "text":
        width = array.shape[-1]
        return array.view(f"<U{width}")[..., 0] if width else np.zeros(array.shape[:-1], "<U1")
    return array
