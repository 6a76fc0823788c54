"""What is known of a dataset in MongoDB before its examples are read: how many, of which shapes, in which blocks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bson import json_util

from datasets_impl.bson_arrays import Column, Columns, refuse_other
from datasets_impl.contract import TIERS, DatasetError
from datasets_impl.mongo_access import MongoAccess
from datasets_impl.mongo_view import IMPORTED, OWN, MongoView, patiently, reads_elsewhere

FORMAT = 1  # of fingerprints: they change with how blocks are cut and hashed
BLOCK_BYTES = 4 << 20
BLOCK_EXAMPLES = 65_536

Keep = Callable[[str, bytes], None]


@dataclass(frozen=True)
class TierIndex:
    """One tier.

    Attributes:
        length: number of examples.
        columns: what every example has, by field.
        block_length: examples in a block, fewer in the last one.
        firsts: the `_id` with which each block begins.
        digests: the sha256 of each block's bytes: its fields in the order of their names, each in C order.
        bounds: least and greatest value of each field that is one whole number.
    """

    length: int = 0
    columns: dict[str, Column] = field(default_factory=dict)
    block_length: int = 1
    firsts: list[Any] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """Return the index as MongoDB keeps it."""
        columns = {name: [column.dtype.str, list(column.shape)] for name, column in self.columns.items()}
        bounds = {name: list(bound) for name, bound in self.bounds.items()}
        return {**vars(self), "columns": columns, "bounds": bounds}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> TierIndex:
        """Return what `document` gave."""
        columns = {name: Column(np.dtype(dtype), tuple(shape)) for name, (dtype, shape) in document["columns"].items()}
        bounds = {name: (int(low), int(high)) for name, (low, high) in document["bounds"].items()}
        return cls(**{**document, "columns": columns, "bounds": bounds})

    def bytes_of(self, arrays: Mapping[str, np.ndarray]) -> bytes:
        """Return the bytes of a block."""
        return b"".join(np.ascontiguousarray(arrays[name]).tobytes() for name in sorted(self.columns))

    def arrays_of(self, content: np.ndarray, length: int) -> dict[str, np.ndarray]:
        """Return the arrays of a block of so many examples from its bytes, uint8."""
        arrays, start = {}, 0
        for name in sorted(self.columns):
            column = self.columns[name]
            size = length * column.dtype.itemsize * int(np.prod(column.shape, dtype=np.int64))
            arrays[name] = content[start : start + size].view(column.dtype).reshape(length, *column.shape)
            start += size
        return arrays


@dataclass(frozen=True)
class Source:
    """Which documents are meant: a collection, and the stages that each tier sees it through.

    Args:
        name: `mongo:<dataset>` or `mongo:<dataset>@<version>` for what was imported, `collection:<name>` for others.
        pipelines: the stages of each tier.
        fields: the fields that are read.
    """

    name: str
    pipelines: Mapping[str, list[dict[str, Any]]]
    fields: tuple[str, ...]

    def collection(self, access: MongoAccess) -> str:
        """Return the name of the collection.

        Raises:
            DatasetError: the name is not of this form.
        """
        for prefix, begin in ((IMPORTED, f"{access.prefix}.data."), (OWN, "")):
            if self.name.startswith(prefix) and len(self.name) > len(prefix):
                return begin + self.name.removeprefix(prefix)
        raise DatasetError(
            f"{self.name!r} names no data in MongoDB: give {IMPORTED}NAME or {IMPORTED}NAME@VERSION for an imported "
            f"dataset, or {OWN}NAME for a collection of your own."
        )

    def view(self, access: MongoAccess, tier: str) -> MongoView:
        """Return the documents of one tier."""
        label = f"tier {tier!r} of {self.name}"
        return MongoView(access, self.collection(access), self.pipelines[tier], self.fields, label)

    def key(self, access: MongoAccess) -> str:
        """Return the sha256 of all this, by which its index is kept."""
        what = [FORMAT, self.collection(access), {tier: self.pipelines[tier] for tier in TIERS}, sorted(self.fields)]
        return hashlib.sha256(json_util.dumps(what, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class DataIndex:
    """All tiers of a dataset; `fingerprint` is the sha256 (hex) of what they hold."""

    tiers: dict[str, TierIndex]

    @property
    def fingerprint(self) -> str:
        described = [
            [tier, index.length, index.document()["columns"], index.block_length, index.digests]
            for tier, index in sorted(self.tiers.items())
        ]
        text = json.dumps([FORMAT, described], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()


def known(access: MongoAccess, source: Source) -> DataIndex | None:
    """Return the index that was made last, of the data as they were then; None where there is none."""
    indexes = _indexes(access)
    found = patiently(access, source.name, lambda: access.database()[indexes].find_one({"_id": source.key(access)}))
    if found is None:
        return None
    return DataIndex({tier: TierIndex.of(found["tiers"][tier]) for tier in TIERS})


def current(access: MongoAccess, source: Source, keep: Keep) -> DataIndex:
    """Return the index of the data as they are.

    All examples are read for it once, and again when they may have changed: an imported dataset says by its document
    and its number of examples that it is the one that was read; of other collections nothing says that.

    Args:
        keep: is given the sha256 and the bytes of every block that is read.

    Raises:
        DatasetError: there is no such dataset, its import is not complete, or its examples cannot be used.
        ExamplesUnavailable: MongoDB stayed away.
    """
    evidence = patiently(access, source.name, lambda: _evidence(access, source))
    indexes, key = _indexes(access), source.key(access)
    if evidence is not None:
        found = patiently(
            access, source.name, lambda: access.database()[indexes].find_one({"_id": key, "evidence": evidence})
        )
        if found is not None:
            return DataIndex({tier: TierIndex.of(found["tiers"][tier]) for tier in TIERS})
    index = DataIndex({tier: scan(source.view(access, tier), keep) for tier in TIERS})
    document = {
        "_id": key,
        "dataset": source.name,
        "evidence": evidence,
        "tiers": {tier: tier_index.document() for tier, tier_index in index.tiers.items()},
    }
    patiently(access, source.name, lambda: access.database()[indexes].replace_one({"_id": key}, document, upsert=True))
    return index


def forget(access: MongoAccess, source: Source) -> None:
    """Drop an index that the data were found not to agree with, so that they are read anew."""
    indexes, key = _indexes(access), source.key(access)
    patiently(access, source.name, lambda: access.database()[indexes].delete_one({"_id": key}))


def scan(view: MongoView, keep: Keep) -> TierIndex:
    """Read all examples of a tier once.

    Raises:
        DatasetError: there is none, or they are not of one make.
    """
    index: TierIndex | None = None
    length = 0
    for block in _blocks(view):
        if index is None:
            index = _begun(view, block)
        content = index.bytes_of(block.arrays)
        digest = hashlib.sha256(content).hexdigest()
        keep(digest, content)
        index.digests.append(digest)
        index.firsts.append(block.identity(0))
        length += block.length
        _widen(index.bounds, block)
    if index is None:
        raise DatasetError(f"{view.label} has no examples: its pipeline lets no document through.")
    if _bracket(index.firsts[0]) != _bracket(index.firsts[-1]):
        raise DatasetError(f"{view.label} has an _id of more than one type: give all of them one, with a $set.")
    return TierIndex(**{**vars(index), "length": length})


def block_length(columns: Mapping[str, Column]) -> int:
    """Return how many examples a block has."""
    size = sum(column.dtype.itemsize * int(np.prod(column.shape, dtype=np.int64)) for column in columns.values())
    return max(1, min(BLOCK_EXAMPLES, BLOCK_BYTES // max(1, size)))


def columns_of(arrays: Mapping[str, np.ndarray]) -> dict[str, Column]:
    """Return what each example of these arrays has."""
    return {name: Column(array.dtype, array.shape[1:]) for name, array in arrays.items()}


def _indexes(access: MongoAccess) -> str:
    return f"{access.prefix}.data_indexes"


def _evidence(access: MongoAccess, source: Source) -> dict[str, Any] | None:
    """What says that a dataset has not changed: the same value as before; None where nothing does."""
    database, collection = access.database(), source.collection(access)
    if source.name.startswith(OWN):
        if collection not in database.list_collection_names(filter={"name": collection}):
            raise DatasetError(f"there is no collection {collection!r} in {access.name}: correct dataset_file_name.")
        return None
    name = source.name.removeprefix(IMPORTED)
    imported = database[f"{access.prefix}.data"].find_one({"_id": name})
    if imported is None:
        names = ", ".join(sorted(row["_id"] for row in database[f"{access.prefix}.data"].find({}, {"_id": 1})))
        raise DatasetError(
            f"no dataset {name!r} was imported (there is {names or 'none'}): import it, or name another."
        )
    if imported["state"] != "complete":
        raise DatasetError(f"the import of {name!r} has not come to its end: run it again, which goes on with it.")
    every = [stage for stages in source.pipelines.values() for stage in stages]
    number = database[collection].estimated_document_count()
    if reads_elsewhere(every) or number != imported["count"]:
        return None
    return {"sha256": imported["sha256"], "count": imported["count"], "time": imported["time"]}


def _begun(view: MongoView, block: Columns) -> TierIndex:
    columns = columns_of(block.arrays)
    return TierIndex(columns=columns, block_length=block_length(columns), firsts=[], digests=[], bounds={})


def _blocks(view: MongoView) -> Iterator[Columns]:
    """The examples of a view in blocks of one length, whatever the length of the batches they come in."""
    waiting: list[Columns] = []
    expected: dict[str, Column] | None = None
    for batch in view.read():
        found = columns_of(batch.arrays)
        expected = expected or found
        for name in view.fields:
            refuse_other(found[name], expected[name], f"{name!r} of document {batch.identity(0)!r}", view.label)
        waiting.append(batch)
        length = block_length(expected)
        while sum(part.length for part in waiting) >= length:
            block, waiting = _taken(waiting, length)
            yield block
    if waiting:
        yield _taken(waiting, sum(part.length for part in waiting))[0]


def _taken(parts: list[Columns], length: int) -> tuple[Columns, list[Columns]]:
    """The first examples of some parts, and what is left of them."""
    taken: list[Columns] = []
    rest = list(parts)
    while length:
        part = rest.pop(0)
        here = min(length, part.length)
        taken.append(_cut(part, 0, here))
        if here < part.length:
            rest.insert(0, _cut(part, here, part.length))
        length -= here
    arrays = {name: np.concatenate([part.arrays[name] for part in taken]) for name in taken[0].arrays}
    return Columns(arrays, sum(part.length for part in taken), taken[0].identity, None), rest


def _cut(part: Columns, start: int, stop: int) -> Columns:
    def identity(row: int) -> Any:
        return part.identity(start + row)

    arrays = {name: array[start:stop] for name, array in part.arrays.items()}
    return Columns(arrays, stop - start, identity, None)


def _widen(bounds: dict[str, tuple[int, int]], block: Columns) -> None:
    for name, array in block.arrays.items():
        if array.ndim == 1 and array.dtype.kind in "biu":
            low, high = int(array.min()), int(array.max())
            before = bounds.get(name, (low, high))
            bounds[name] = (min(low, before[0]), max(high, before[1]))


def _bracket(identity: Any) -> str:
    """The kind of values that MongoDB compares an `_id` with."""
    if isinstance(identity, int | float) and not isinstance(identity, bool):
        return "number"
    return type(identity).__name__
