"""One tier of a dataset in MongoDB, read in blocks: ahead of their use, verified, and kept on the node."""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from datasets_impl.block_cache import BlockCache
from datasets_impl.contract import DatasetError
from datasets_impl.mongo_access import ExamplesUnavailable, MongoAccess
from datasets_impl.mongo_index import Source, TierIndex, columns_of, forget

Arrays = dict[str, np.ndarray]

AHEAD = 4  # blocks that are on their way before they are asked for
LEAST_HELD = 8  # blocks; a batch that lies on the edge of two windows needs some of both
READERS = 2  # threads that fetch them
MOST_MAPPED = 128  # files; each one costs a descriptor


class MongoTier:
    """The fields of one tier as arrays whose first axis counts the examples, in the order of their `_id`.

    A block comes from memory, from the node's cache or from MongoDB, and is compared with the sha256 that it had when
    the dataset was indexed. Blocks that are read next are fetched meanwhile: where they are read in ascending order, or
    in the one that `expect` has told. Neither connection nor memory is pickled or used in a forked process.

    Args:
        access: reaches the database.
        source, tier, index: what is read.
        cache: keeps blocks on the node.
        held_bytes: how much of what was fetched stays in memory; `LEAST_HELD` blocks at least.

    Attributes:
        length, shapes, dtypes: as those of `hdf5_tier.HDF5Tier`.
    """

    def __init__(
        self,
        access: MongoAccess,
        source: Source,
        tier: str,
        index: TierIndex,
        cache: BlockCache,
        *,
        held_bytes: int,
    ) -> None:
        self._access = access
        self._source = source
        self._tier = tier
        self._index = index
        self._held_bytes = held_bytes
        self._cache = cache
        self.length = index.length
        self.shapes = {name: column.shape for name, column in index.columns.items()}
        self.dtypes = {name: column.dtype for name, column in index.columns.items()}
        for name, column in index.columns.items():
            if column.dtype.kind not in "biuf":
                raise DatasetError(f"field {name!r} of {self} is {column}: give booleans, integers or real numbers.")
        self._forget()

    def __str__(self) -> str:
        return f"tier {self._tier!r} of {self._source.name}"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in self._of_process}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    _of_process = frozenset(
        ("_owner", "_held", "_mapped", "_coming", "_readers", "_next", "_told", "_last", "_goes_on")
    )

    def _forget(self) -> None:
        self._owner = os.getpid()
        self._held: OrderedDict[int, Arrays] = OrderedDict()
        self._mapped: OrderedDict[int, Arrays] = OrderedDict()
        self._coming: dict[int, Future[Arrays]] = {}
        self._readers: ThreadPoolExecutor | None = None
        # An order that was told is one epoch's: a loader process, which lives longer, must not go by it.
        self._next = list(range(1, len(self._index.digests) + 1))  # the block that is expected behind each
        self._told = False
        self._last, self._goes_on = -1, False  # the block that was read last, and whether it followed the one before

    @property
    def block_length(self) -> int:
        """The number of examples in a block."""
        return self._index.block_length

    def bounds(self, name: str) -> tuple[int, int] | None:
        """Return the least and the greatest value of a field that is one whole number; None for others."""
        return self._index.bounds.get(name)

    def expect(self, order: np.ndarray) -> None:
        """Say in which order the examples are going to be read: indices, int64 of shape (k,)."""
        blocks = order // self.block_length
        changes = np.flatnonzero(np.diff(blocks, prepend=-1))
        first_use = list(dict.fromkeys(blocks[changes].tolist()))
        end = len(self._index.digests)
        for block, following in zip(first_use, [*first_use[1:], end], strict=True):
            self._next[block] = following
        self._told = True

    def block(self, name: str, start: int, stop: int) -> np.ndarray:
        """Return examples start to stop (exclusive) of a field, as stored."""
        if start >= stop:
            return np.empty((0, *self.shapes[name]), self.dtypes[name])
        length = self.block_length
        parts = []
        for number in range(start // length, (stop - 1) // length + 1):
            begin = number * length
            parts.append(self._arrays(number)[name][max(0, start - begin) : stop - begin])
        return np.concatenate(parts)  # a copy: what is kept here is not for others to change

    def rows(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return the examples at `indices` (int64, shape (k,), any order, repeats allowed) of a field, as stored."""
        blocks, places = np.divmod(indices, self.block_length)
        needed = np.unique(blocks)
        if len(needed) == 1:
            return self._arrays(int(needed[0]))[name][places]
        rows = np.empty((len(indices), *self.shapes[name]), self.dtypes[name])
        for number in needed.tolist():
            here = np.flatnonzero(blocks == number)
            rows[here] = self._arrays(number)[name][places[here]]
        return rows

    def close(self) -> None:
        """Let go of what is held in memory; the next read fetches again."""
        readers = self._readers
        if readers is not None and self._owner == os.getpid():
            readers.shutdown(wait=True, cancel_futures=True)
        self._forget()

    def _arrays(self, number: int) -> Arrays:
        if self._owner != os.getpid():
            self._forget()  # threads and clients of a parent are not there in its child
        for kept in (self._held, self._mapped):
            if number in kept:
                kept.move_to_end(number)
                self._read_ahead(number)
                return kept[number]
        coming = self._coming.pop(number, None)
        self._read_ahead(number)
        arrays = self._fetched(number, None) if coming is None else self._come(number, coming)
        self._hold(number, arrays)
        return arrays

    def _come(self, number: int, coming: Future[Arrays]) -> Arrays:
        try:
            return coming.result()
        except ExamplesUnavailable:
            return self._fetched(number, None)

    def _read_ahead(self, number: int) -> None:
        """Send for the blocks that are expected next; nothing is expected of one who reads here and there."""
        if number != self._last:
            self._goes_on = self._told or number == self._last + 1
            self._last = number
        if not self._goes_on:
            return
        for following in self._following(number):
            if following in self._coming or following in self._held or following in self._mapped:
                continue
            if self._readers is None:
                self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="trainloom-blocks")
            # Without patience: a thread that waits for a server would keep the process from ending.
            self._coming[following] = self._readers.submit(self._fetched, following, 0.0)
        while len(self._coming) > 2 * AHEAD:  # of an order that has changed
            dropped = self._coming.pop(next(iter(self._coming)))
            dropped.cancel()

    def _following(self, number: int) -> Iterator[int]:
        for _ in range(AHEAD):
            number = self._next[number]
            if number == len(self._next):
                return
            yield number

    def _hold(self, number: int, arrays: Arrays) -> None:
        if any(isinstance(array, np.memmap) for array in arrays.values()):
            self._mapped[number] = arrays
            if len(self._mapped) > MOST_MAPPED:
                self._mapped.popitem(last=False)
            return
        self._held[number] = arrays
        size = sum(array.nbytes for array in self._held[next(iter(self._held))].values())
        while len(self._held) > max(LEAST_HELD, self._held_bytes // max(1, size)):
            self._held.popitem(last=False)

    def _fetched(self, number: int, patience: float | None) -> Arrays:
        length = min(self.block_length, self.length - number * self.block_length)
        content = self._cache.get(self._index.digests[number])
        if content is not None:
            return self._index.arrays_of(content, length)
        return self._from_server(number, length, patience)

    def _from_server(self, number: int, length: int, patience: float | None) -> Arrays:
        firsts = self._index.firsts
        stop = firsts[number + 1] if number + 1 < len(firsts) else None
        parts = list(self._source.view(self._access, self._tier).read(firsts[number], stop, patience=patience))
        found = sum(part.length for part in parts)
        alike = all(columns_of(part.arrays) == self._index.columns for part in parts)
        if found != length or not alike:
            raise self._changed()
        arrays = {name: _joined([part.arrays[name] for part in parts]) for name in self._index.columns}
        content = self._index.bytes_of(arrays)
        if hashlib.sha256(content).hexdigest() != self._index.digests[number]:
            raise self._changed()
        self._cache.put(self._index.digests[number], content)
        return arrays

    def _changed(self) -> DatasetError:
        forget(self._access, self._source)
        return DatasetError(
            f"{self} has changed since it was recorded: bring the examples back, or insert the dataset as a new "
            "configuration."
        )


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
