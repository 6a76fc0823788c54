"""The chunks of a GridFS bucket: written, counted, dropped, and found where no file owns them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from bson import Binary, Int64, ObjectId
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, BulkWriteError

from .errors import StoreUnavailable, UploadSwept
from .interface import Unfinished
from .mongo_errors import DUPLICATE_KEY, LOOK, PASSING, MongoErrors

CHUNKS_PER_INSERT = 8  # chunk documents sent at a time; an upload holds twice as many in memory
UPLOADS_PER_LOOK = 1000  # uploads looked up at a time
FILES = {"metadata.swept": {"$exists": False}}  # the file documents that are no marks of swept uploads

Documents = Collection[dict[str, Any]]


class Chunks:
    """The chunks of one bucket. Thread-safe as pymongo's collections are.

    Parameters
    ----------
    root : Collection
        `<bucket>`; its read preference must be the primary.
    size : int
        Bytes in a new chunk.
    errors : MongoErrors
        Translates the driver's errors.
    """

    def __init__(self, root: Documents, size: int, errors: MongoErrors) -> None:
        self._files: Documents = root["files"]
        self._chunks: Documents = root["chunks"]
        self._size = size
        self._errors = errors

    def write(self, upload: ObjectId, pieces: Iterable[bytes]) -> None:
        """Write all pieces as the chunks of an upload, waiting out the loss of a primary.

        Raises
        ------
        UploadSwept
            If chunks are not there any more at the end.
        """
        count = 0
        with ThreadPoolExecutor(1, thread_name_prefix="upload") as thread:
            inserting: Future[None] | None = None
            for batch in self._batches(upload, pieces):  # read and hashed while the one before it is inserted
                if inserting is not None:
                    inserting.result()
                inserting = thread.submit(self.insert, batch)
                count += len(batch)
            if inserting is not None:
                inserting.result()
        # A garbage collection may have taken a slow upload for a dead one, a replica set may have lost what a URL
        # with a weak write concern did not wait for.
        if count > CHUNKS_PER_INSERT and self._count(upload) != count:
            raise UploadSwept(self._errors.where())

    def _batches(self, upload: ObjectId, pieces: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
        """The chunk documents of an upload, as many together as are inserted at a time."""
        numbered = enumerate(_chunked(pieces, self._size))
        while batch := [
            {"files_id": upload, "n": number, "data": Binary(data)}
            for number, data in islice(numbered, CHUNKS_PER_INSERT)
        ]:
            yield batch

    def _count(self, upload: ObjectId) -> int:
        return self._errors.patiently(lambda: self._chunks.count_documents({"files_id": upload}))

    def insert(self, batch: list[dict[str, Any]]) -> None:
        """Insert chunk documents; what a try before has written already is no error."""
        tries = 0

        def once() -> None:
            nonlocal tries
            tries += 1
            try:
                self._chunks.insert_many(batch, ordered=False)
            except BulkWriteError as error:
                ours = {DUPLICATE_KEY} if tries > 1 else set()
                problems = [*error.details["writeErrors"], *error.details["writeConcernErrors"]]
                problems = [problem for problem in problems if problem["code"] not in ours]
                if not problems:
                    return
                # Not chained, as the driver's own text would repeat the bytes of the chunk that failed.
                reason = problems[0]["errmsg"]
                if all(problem["code"] in PASSING for problem in problems):
                    raise AutoReconnect(reason) from None
                raise StoreUnavailable(f"Cannot write to {self._errors.where()} ({reason}): {LOOK}") from None

        self._errors.patiently(once)

    def drop(self, *uploads: ObjectId) -> None:
        """Remove all chunks of uploads; none is no error."""
        with self._errors.translated():
            self._chunks.delete_many({"files_id": {"$in": uploads}})

    def sweep(self, upload: ObjectId) -> None:
        """Remove the chunks of an upload that is taken for dead, unless it is published just now.

        A mark takes the place of its file document first and stays: an upload that only slept finds its id taken and
        cannot publish what has no bytes any more.
        """
        mark = {
            "length": Int64(0),
            "chunkSize": self._size,
            "uploadDate": datetime.now(UTC),
            "filename": "swept",
            "metadata": {"sha256": f"swept {upload}", "swept": True},
        }
        with self._errors.translated():
            self._files.update_one({"_id": upload}, {"$setOnInsert": mark}, upsert=True)
            published = self._files.find_one({"_id": upload, **FILES}, {"_id": 1})
        if published is None:
            self.drop(upload)

    def unowned(self, before: datetime) -> Iterator[Unfinished]:
        """The uploads without a file document whose last chunk was made before a time, in the order they were begun.

        Their chunks' own ids tell the time, so that an upload is as young as its last chunk.
        """
        # Grouping by the index, last chunks only: the server jumps from upload to upload instead of reading the bytes.
        groups: list[dict[str, Any]] = [
            {"$sort": {"files_id": -1, "n": -1}},
            {"$group": {"_id": "$files_id", "last": {"$first": "$_id"}}},
        ]
        with self._errors.translated():
            found = self._chunks.aggregate(groups, allowDiskUse=True)
            while last := {group["_id"]: group["last"] for group in islice(found, UPLOADS_PER_LOOK)}:
                theirs = {"_id": {"$in": [*last]}}
                owned = {document["_id"] for document in self._files.find({**theirs, **FILES}, {"_id": 1})}
                for upload in last.keys() - owned:
                    touched = last[upload].generation_time
                    if touched < before:
                        yield Unfinished(str(upload), touched, self._bytes(upload))

    def _bytes(self, upload: ObjectId) -> int:
        groups: list[dict[str, Any]] = [
            {"$match": {"files_id": upload}},
            {"$group": {"_id": None, "bytes": {"$sum": {"$binarySize": "$data"}}}},
        ]
        return sum(group["bytes"] for group in self._chunks.aggregate(groups))


def _chunked(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    """Cut or join pieces to chunks of `size` bytes (the last may be shorter)."""
    rest = bytearray()
    for piece in pieces:
        if not rest and len(piece) == size:
            yield piece
            continue
        rest += piece
        while len(rest) >= size:
            yield bytes(rest[:size])
            del rest[:size]
    if rest:
        yield bytes(rest)
