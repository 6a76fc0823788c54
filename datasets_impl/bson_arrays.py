"""Arrays in MongoDB documents: how one is written, and how the documents of a batch become columns.

An array is the sub-document `{"dtype": "<f4", "shape": [1, 8, 8], "data": <binary, subtype 0>}` with exactly these
names in this order: the dtype as NumPy writes it (`array.dtype.str`, little-endian; booleans, integers, real and
complex numbers), the shape as a list of integers, and the elements in C order without padding. A whole number is a
64-bit integer, a real number a double, a truth value a boolean; so they can be searched for. Nothing is pickled.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import bson
import numpy as np
from bson import Int64
from bson.codec_options import CodecOptions

from datasets_impl.contract import DatasetError

KINDS = "biufc"  # NumPy's kinds of dtypes that have a fixed meaning in bytes
LARGEST = 2**63 - 1
CODEC: CodecOptions[Any] = CodecOptions(tz_aware=True)

_HEAD = struct.Struct("<i")
# BSON types (bsonspec.org) whose values have a fixed length, in bytes.
_FIXED = {0x01: 8, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16}
_STRING, _DOCUMENT, _ARRAY, _BINARY = 0x02, 0x03, 0x04, 0x05
# Single values, and the dtype that each has in memory.
_NUMBERS = {0x01: ("<f8", "<f8"), 0x08: ("|b1", "|b1"), 0x10: ("<i4", "<i8"), 0x12: ("<i8", "<i8")}


class Column(NamedTuple):
    """What every example has in one field."""

    dtype: np.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} of shape {list(self.shape)}"


class _Element(NamedTuple):
    """A value in a document: its type, and where it begins and ends."""

    kind: int
    start: int
    end: int


def encode(value: Any, where: str) -> Any:
    """Return a value as it stands in a document.

    Args:
        value: an array, a number, a truth value, text, bytes, a time or None; lists and dicts of such.
        where: names the value in messages.

    Raises:
        DatasetError: it is none of these, or an array without a fixed meaning in bytes.
    """
    if value is None or isinstance(value, bool | str | bytes):
        return value
    if isinstance(value, int):
        return Int64(value) if -LARGEST - 1 <= value <= LARGEST else encode_array(np.asarray(value), where)
    if isinstance(value, float):
        return float(value)
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
        return encode(value.item(), where)
    if isinstance(value, np.ndarray | np.generic):
        return encode_array(np.asarray(value), where)
    if isinstance(value, Mapping):
        return {str(name): encode(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, f"{where}[{number}]") for number, item in enumerate(value)]
    return value  # a time, an ObjectId, ...: the driver knows it or refuses it


def encode_array(array: np.ndarray, where: str) -> dict[str, Any]:
    """Return an array as the sub-document that this module's text describes.

    Raises:
        DatasetError: its dtype has no fixed meaning in bytes.
    """
    if array.dtype.kind not in KINDS or array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        raise DatasetError(f"{where} has dtype {array.dtype}: give booleans or numbers of at most 64 bits a part.")
    stored = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return {"dtype": stored.dtype.str, "shape": list(array.shape), "data": stored.tobytes()}


def decode(value: Any, where: str) -> np.ndarray:
    """Return a value of a document as an array, read-only where it was binary; a list of numbers may be nested.

    Raises:
        DatasetError: it is neither an array nor a number.
    """
    if isinstance(value, Mapping) and set(value) == {"dtype", "shape", "data"}:
        return _from_binary(value, where)
    if isinstance(value, bool):
        return np.asarray(value)
    if isinstance(value, int):
        return np.asarray(int(value), np.int64)
    if isinstance(value, float | list):
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise DatasetError(f"{where} is a list of unequal parts: give all of them one length.") from error
        if array.dtype.kind in KINDS and array.size:
            return array
    raise DatasetError(f"{where} is a {type(value).__name__}, not an array or a number: name other fields.")


def _from_binary(value: Mapping[str, Any], where: str) -> np.ndarray:
    try:
        column = _column_of(value["dtype"], value["shape"])
        return np.frombuffer(value["data"], column.dtype).reshape(column.shape)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where} is a damaged array ({error}): import the example again.") from error


def _column_of(dtype: Any, shape: Any) -> Column:
    if not isinstance(dtype, str) or not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
        raise TypeError("dtype is no text or shape no list of integers")
    kind = np.dtype(dtype)
    if kind.kind not in KINDS:
        raise TypeError(f"dtype {dtype} has no fixed meaning in bytes")
    return Column(kind, tuple(shape))


class Columns(NamedTuple):
    """The documents of a batch.

    Attributes:
        arrays: the field's values of all examples, shape (k, ...), by name.
        length: how many they are.
        identity: gives the `_id` of a document by its place.
        repeated: an `_id` that two neighbours share, or None.
    """

    arrays: dict[str, np.ndarray]
    length: int
    identity: Callable[[int], Any]
    repeated: Any


def columns(batch: bytes, fields: Sequence[str], where: str) -> Columns:
    """Turn a batch, BSON documents one behind the other, into columns.

    Documents of one make (the same fields of the same types and lengths, as an import writes them) are not taken apart
    one by one: their places are those of the first document, and everything between is compared.

    Raises:
        DatasetError: a document lacks a field or its `_id`, or the examples differ in shape or dtype.
    """
    fast = _same_make(batch, fields)
    if fast is not None:
        return fast
    documents = bson.decode_all(batch, CODEC)
    if any("_id" not in document for document in documents):
        raise DatasetError(f"documents of {where} have no _id, which orders the examples: keep it in the pipeline.")
    arrays = {}
    for name in fields:
        values = [_value(document, name, where) for document in documents]
        _refuse_mixed(values, documents, name, where)
        arrays[name] = np.stack(values)
    identities = [document["_id"] for document in documents]
    repeated = next((one for one, other in pairwise(identities) if one == other), None)
    return Columns(arrays, len(documents), identities.__getitem__, repeated)


def _value(document: Mapping[str, Any], name: str, where: str) -> np.ndarray:
    if name not in document:
        present = ", ".join(sorted(field for field in document if field != "_id")) or "none"
        raise DatasetError(
            f"document {document.get('_id')!r} of {where} has no field {name!r} (it has {present}): name another "
            "field, or leave such documents out with a $match."
        )
    return decode(document[name], f"field {name!r} of document {document.get('_id')!r} of {where}")


def _refuse_mixed(values: list[np.ndarray], documents: list[dict[str, Any]], name: str, where: str) -> None:
    first = Column(values[0].dtype, values[0].shape)
    for value, document in zip(values, documents, strict=True):
        refuse_other(Column(value.dtype, value.shape), first, f"{name!r} of document {document.get('_id')!r}", where)


def refuse_other(found: Column, expected: Column, what: str, where: str) -> None:
    """Raise a `DatasetError` unless both are alike."""
    if found != expected:
        raise DatasetError(
            f"field {what} of {where} is {found}, but that of earlier ones is {expected}: give all examples one shape "
            "and dtype, or leave the others out with a $match."
        )


def _same_make(batch: bytes, fields: Sequence[str]) -> Columns | None:
    """The columns of documents that are of one make and have all fields; None for others."""
    (length,) = _HEAD.unpack_from(batch)
    if length < 5 or len(batch) % length:
        return None
    elements = _elements(batch, 0)
    if elements is None or not {"_id", *fields} <= elements.keys():
        return None
    places = {}
    for name in fields:
        place = _place(batch, elements[name])
        if place is None:
            return None
        places[name] = place
    table = np.frombuffer(batch, np.uint8).reshape(-1, length)
    identity = elements["_id"]
    free = [place[0] for place in places.values()]
    free += [element for name, element in elements.items() if name not in places and element.kind in _FIXED]
    if identity.kind not in _FIXED:
        free.append(identity._replace(start=identity.start + 4))  # its length is the same
    if not _alike(table, free):
        return None
    arrays = {name: _cut(table, *place) for name, place in places.items()}
    identities = table[:, identity.start : identity.end]
    same = np.flatnonzero((identities[1:] == identities[:-1]).all(axis=1))

    def identity_of(row: int) -> Any:
        return bson.decode(table[row].tobytes(), CODEC)["_id"]

    return Columns(arrays, len(table), identity_of, identity_of(int(same[0])) if same.size else None)


def _elements(batch: bytes, start: int) -> dict[str, _Element] | None:
    """The values of the document at `start` by name; None where one has a type of another kind."""
    end = start + _HEAD.unpack_from(batch, start)[0] - 1
    position, found = start + 4, {}
    while position < end:
        kind = batch[position]
        stop = batch.index(0, position + 1)
        name = batch[position + 1 : stop].decode("utf-8")
        position = stop + 1
        if kind in _FIXED:
            length = _FIXED[kind]
        elif kind in (_DOCUMENT, _ARRAY):
            length = _HEAD.unpack_from(batch, position)[0]
        elif kind == _STRING:
            length = 4 + _HEAD.unpack_from(batch, position)[0]
        elif kind == _BINARY:
            length = 5 + _HEAD.unpack_from(batch, position)[0]
        else:
            return None
        found[name] = _Element(kind, position, position + length)
        position += length
    return found


def _place(batch: bytes, element: _Element) -> tuple[_Element, str, str, tuple[int, ...]] | None:
    """Where a field's elements lie, their dtype there and in memory, and the shape; None for what is neither an array
    nor a number."""
    if element.kind in _NUMBERS:
        return element, *_NUMBERS[element.kind], ()
    if element.kind != _DOCUMENT:
        return None
    parts = _elements(batch, element.start)
    if parts is None or list(parts) != ["dtype", "shape", "data"] or parts["data"].kind != _BINARY:
        return None
    data = parts["data"]
    described = bson.decode(batch[element.start : element.end], CODEC)
    try:
        column = _column_of(described["dtype"], described["shape"])
        np.frombuffer(described["data"], column.dtype).reshape(column.shape)
    except (TypeError, ValueError):
        return None
    # A binary value begins with its length and its subtype, which are compared like all that stands between.
    return _Element(_BINARY, data.start + 5, data.end), column.dtype.str, column.dtype.str, column.shape


def _alike(table: np.ndarray, free: list[_Element]) -> bool:
    """Whether all rows are equal outside the `free` places."""
    start = 0
    for begin, end in [*sorted((element.start, element.end) for element in free), (table.shape[1],) * 2]:
        if not (table[:, start:begin] == table[0, start:begin]).all():
            return False
        start = end
    return True


def _cut(table: np.ndarray, element: _Element, stored: str, held: str, shape: tuple[int, ...]) -> np.ndarray:
    if element.start == element.end:
        return np.empty((len(table), *shape), held)
    values = np.ascontiguousarray(table[:, element.start : element.end]).view(stored)
    return values.reshape(len(table), *shape).astype(held, copy=False)
