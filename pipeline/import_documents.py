"""What examples become: documents in BSON, each with its own fields behind those that every document has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import bson
from bson import Int64
from bson.errors import BSONError

from datasets_impl.bson_arrays import encode

from .errors import PipelineError

RESERVED = ("_id", "dataset", "version", "number", "count", "time")
"""Fields that every document has: its number from 0, how many there are, and when the import began (UTC)."""
BATCH, BATCH_BYTES = 1_000, 8 << 20  # documents, and bytes of them, that are sent at once
LARGEST = 16 * 2**20 - 1024  # bytes; MongoDB allows documents of 16 MiB
UNKNOWN = 0  # the count of an import whose end is not known before

Encoded = tuple[bytes, dict[str, str]]
"""An example's fields as elements of BSON, and what each is, by name."""


class ImportFailed(PipelineError, ValueError):
    """Examples cannot be imported; what was there before is as it was."""


@dataclass
class Batch:
    """Examples that are sent together, of consecutive numbers; `size` is in bytes."""

    start: int
    fields: list[bytes] = field(default_factory=list)  # elements of each document, without its head and its end
    size: int = 0


class Heads:
    """The fields that each document begins with."""

    def __init__(self, name: str, version: str, count: int | None, time: datetime) -> None:
        self._common = {"dataset": name, "version": version}
        self._rest = {"count": Int64(UNKNOWN if count is None else count), "time": time}
        self._length = len(self._head(0))

    def _head(self, number: int) -> bytes:
        place = Int64(number)
        return bson.encode({"_id": place, **self._common, "number": place, **self._rest})[4:-1]

    def document(self, number: int, elements: bytes) -> bytes:
        """The whole document in BSON (bsonspec.org): its length, its elements and an end.

        Raises
        ------
        ImportFailed
            If it is larger than MongoDB takes.
        """
        head = self._head(number)
        length = 4 + len(head) + len(elements) + 1
        if length > LARGEST:
            raise ImportFailed(f"example {number} has {length} bytes, more than a document can hold; make it smaller")
        return length.to_bytes(4, "little") + head + elements + b"\0"

    def fields_of(self, document: bytes) -> bytes:
        """The elements of an example's own fields."""
        return document[4 + self._length : -1]


def encoded(examples: Iterable[Mapping[str, Any]]) -> Iterator[Encoded]:
    """Each example's own fields, sorted by name.

    Raises
    ------
    ImportFailed
        If an example is no document, or unlike the first: all have the same fields of one shape and dtype, or kind.
    DatasetError
        If a value of a field has no fixed meaning in bytes.
    """
    expected: dict[str, str] | None = None
    for number, example in enumerate(examples):
        if not isinstance(example, Mapping):
            raise ImportFailed(f"example {number} is a {type(example).__name__}; give a dict of fields")
        fields = {}
        for name in sorted(_checked(example, number)):
            fields[name] = encode(example[name], f"field {name!r} of example {number}")
        made = {name: _make_of(value) for name, value in fields.items()}
        if expected is None:
            expected = made
        elif made != expected:
            raise ImportFailed(_difference(number, made, expected))
        try:
            yield bson.encode(fields)[4:-1], made
        except (BSONError, OverflowError) as error:
            raise ImportFailed(f"example {number} cannot be a document: {error}") from error


def _checked(example: Mapping[str, Any], number: int) -> list[str]:
    for name in example:
        if not isinstance(name, str) or not name or name in RESERVED or name.startswith("$") or {".", "\0"} & set(name):
            raise ImportFailed(
                f"example {number} has a field {name!r}; fields are named by text without '.', not beginning with '$', "
                f"and not {', '.join(RESERVED)}, which every document has: rename it"
            )
    return list(example)


def _make_of(value: Any) -> str:
    if isinstance(value, Mapping) and list(value) == ["dtype", "shape", "data"]:
        return f"{value['dtype']} of shape {value['shape']}"
    return type(value).__name__.lower()


def _difference(number: int, made: Mapping[str, str], expected: Mapping[str, str]) -> str:
    for name in sorted({*made, *expected}):
        if made.get(name) != expected.get(name):
            return (
                f"field {name!r} of example {number} is {made.get(name, 'missing')}, that of the first example "
                f"{expected.get(name, 'missing')}; give all examples the same fields of one shape and dtype"
            )
    raise AssertionError("both are alike")


def batches(examples: Iterable[Encoded], made: dict[str, str], digest: Any) -> Iterator[Batch]:
    """Examples to be sent together; `made` and `digest` are told of all."""
    batch = Batch(0)
    for elements, kinds in examples:
        made.update(kinds)
        digest.update(elements)
        batch.fields.append(elements)
        batch.size += len(elements)
        if len(batch.fields) >= BATCH or batch.size >= BATCH_BYTES:
            yield batch
            batch = Batch(batch.start + len(batch.fields))
    if batch.fields:
        yield batch
