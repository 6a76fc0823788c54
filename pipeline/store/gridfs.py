"""The store in MongoDB: files in the GridFS layout, one per content.

The documents are those of the GridFS specification, so that any GridFS tool can read them
(https://github.com/mongodb/specifications/blob/master/source/gridfs/gridfs-spec.md).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from bson import Binary, Int64, ObjectId
from bson.codec_options import CodecOptions
from gridfs.errors import CorruptGridFile
from pymongo import ReadPreference, ReturnDocument, UpdateOne
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError
from pymongo.write_concern import WriteConcern

from pipeline.file_digest import FileDigests

from .content import Pieces
from .errors import ObjectDamaged, ObjectMissing, StoreError, UploadSwept
from .gridfs_chunks import FILES, Chunks
from .gridfs_reader import ChunkReader
from .interface import Store, StoredObject, Unfinished, checked_kind
from .mongo_errors import MongoErrors
from .verifying_reader import VerifyingReader

CHUNK_SIZE = 1 << 20  # bytes in a chunk document; MongoDB allows documents of 16 MiB

Documents = Collection[dict[str, Any]]


class GridFSStore(Store):
    """Keeps objects in the collections `<bucket>.files` and `<bucket>.chunks` of a MongoDB database.

    The chunks are written first, under a random id; the file document is inserted last and makes the object visible. A
    unique index on its `metadata.sha256` lets one of several uploaders win. Chunks whose file document does not exist
    are an unfinished upload; the time in the `_id` of the last one says how old it is. A mark of some hundred bytes
    stays where one was swept, in the place of its file document. The loss of a replica set's
    primary is waited out.

    Thread-safety: as pymongo's. Fork-safety: each process calls `connect` for itself, at its first use.
    Ownership: the client behind the database belongs to whoever wrote `connect`; the store never closes it.

    Parameters
    ----------
    connect : callable
        Returns the database; called once per process. Time-outs, TLS, retries, write concern and read preference are
        what its client was made with.
    bucket : str
        Name of the GridFS bucket; the collection `project` beside it says whose it is.
    chunk_size : int
        Bytes in a chunk of new objects; existing ones keep theirs.
    digests : FileDigests, optional
        As `Store` says.
    """

    def __init__(
        self,
        connect: Callable[[], Database[Any]],
        *,
        bucket: str = "objects",
        chunk_size: int = CHUNK_SIZE,
        digests: FileDigests | None = None,
    ) -> None:
        super().__init__(digests)
        if not 1 <= chunk_size <= 8 << 20:
            raise ValueError(f"chunk_size {chunk_size} must lie between 1 and {8 << 20} bytes")
        self._connect = connect
        self._bucket = bucket
        self._chunk_size = chunk_size
        # One entry per process id: a MongoClient must not be used across a fork. Parents' entries stay, so that a child
        # does not close sockets it shares.
        self._databases: dict[int, Database[Any]] = {}
        self._indexed_by: int | None = None
        self._errors = MongoErrors(lambda: self.where)

    @property
    def where(self) -> str:
        # Never the URL, which may hold a password.
        servers = self._database.client.topology_description.server_descriptions()
        hosts = ", ".join(sorted(host if port is None else f"{host}:{port}" for host, port in servers))
        return f"the MongoDB store {self._database.name}.{self._bucket} at {hosts}"

    @property
    def _database(self) -> Database[Any]:
        pid = os.getpid()
        if pid not in self._databases:
            opened = self._connect()
            options: CodecOptions[Any] = opened.codec_options.with_options(tz_aware=True, tzinfo=UTC)
            self._databases.setdefault(pid, opened.with_options(codec_options=options))
        return self._databases[pid]

    @property
    def _root(self) -> Documents:
        # Objects may be read wherever the client's settings say; all else needs to know what was written last.
        return self._database.get_collection(self._bucket, read_preference=ReadPreference.PRIMARY)

    @property
    def _files(self) -> Documents:
        return self._root["files"]

    @property
    def _chunks(self) -> Chunks:
        return Chunks(self._root, self._chunk_size, self._errors)

    def _renew(self, sha256: str) -> StoredObject | None:
        document = self._errors.patiently(
            lambda: self._files.find_one_and_update(
                {"metadata.sha256": sha256},
                {"$currentDate": {"metadata.marked": True}},
                return_document=ReturnDocument.AFTER,
            )
        )
        return None if document is None else _stored(document)

    def _may_hold(self, size: int) -> bool:
        self._ensure_indexes()
        with self._errors.translated():
            return self._files.find_one({"length": size}, {"_id": 1}) is not None

    def _upload(self, pieces: Pieces, kind: str) -> StoredObject:
        self._ensure_indexes()
        upload = ObjectId()
        try:
            self._chunks.write(upload, pieces)
        except BaseException:
            with suppress(StoreError):  # the reason of the failure matters more than the chunks, which nobody sees
                self._chunks.drop(upload)
            raise
        # From here on an error does not say that the object was not published (the answer alone may be lost), so the
        # chunks stay: dropped, they might leave a visible object without its bytes.
        published = self._publish(upload, pieces.sha256, pieces.size, kind)
        if published["_id"] != upload:  # another process was faster
            self._chunks.drop(upload)
        return _stored(published)

    def put_all(self, contents: Sequence[tuple[bytes, str]]) -> Sequence[str]:
        """As `Store.put_all`: contents of one chunk in four trips to the server together, instead of three for each."""
        digests = [hashlib.sha256(content).hexdigest() for content, _ in contents]
        together: dict[str, tuple[bytes, str]] = {}
        for digest, (content, kind) in zip(digests, contents, strict=True):
            if 0 < len(content) <= self._chunk_size:
                together.setdefault(digest, (content, checked_kind(kind)))
            else:
                self.put(content, kind=kind)
        if together:
            self._put_together(together)
        return digests

    def _put_together(self, contents: Mapping[str, tuple[bytes, str]]) -> None:
        """Store contents of at most one chunk each, given by sha256."""
        self._ensure_indexes()
        theirs = {"metadata.sha256": {"$in": [*contents]}}
        renewed = self._errors.patiently(
            lambda: self._files.update_many(theirs, {"$currentDate": {"metadata.marked": True}})
        )
        with self._errors.translated():
            found = self._files.find(theirs, {"metadata.sha256": 1}) if renewed.matched_count else ()
            present = {document["metadata"]["sha256"] for document in found}
        uploads = {sha256: ObjectId() for sha256 in contents if sha256 not in present}
        if not uploads:
            return
        chunks = [
            {"files_id": upload, "n": 0, "data": Binary(contents[sha256][0])} for sha256, upload in uploads.items()
        ]
        try:
            self._chunks.insert(chunks)
        except BaseException:
            with suppress(StoreError):
                self._chunks.drop(*uploads.values())
            raise
        for sha256 in self._publish_together(uploads, contents):
            # Another process was faster, or the server broke off: one by one each comes to an end.
            content, kind = contents[sha256]
            published = self._publish(uploads[sha256], sha256, len(content), kind)
            if published["_id"] != uploads[sha256]:
                self._chunks.drop(uploads[sha256])

    def _publish_together(
        self, uploads: Mapping[str, ObjectId], contents: Mapping[str, tuple[bytes, str]]
    ) -> AbstractSet[str]:
        """Insert the file documents; returns the sha256 of those that were not inserted by this."""
        updates = []
        for sha256, upload in uploads.items():
            content, kind = contents[sha256]
            document = self._publication(upload, sha256, len(content), kind)
            updates.append(UpdateOne({"metadata.sha256": sha256}, document, upsert=True))
        with self._errors.translated():
            try:
                result = self._durable_files.bulk_write(updates, ordered=False)
            except (BulkWriteError, AutoReconnect):
                return uploads.keys()
        inserted = set((result.upserted_ids or {}).values())
        return {sha256 for sha256, upload in uploads.items() if upload not in inserted}

    def _publish(self, upload: ObjectId, sha256: str, size: int, kind: str) -> dict[str, Any]:
        """Insert the file document, or renew the mark of the one that is there; returns the document in force."""

        def once() -> dict[str, Any]:
            try:
                # Of two that insert at once the server itself repeats one as an update, as the filter is the unique
                # index.
                published = self._durable_files.find_one_and_update(
                    {"metadata.sha256": sha256},
                    self._publication(upload, sha256, size, kind),
                    upsert=True,
                    return_document=ReturnDocument.AFTER,
                )
            except DuplicateKeyError as error:
                if "_id" in (error.details or {}).get("keyPattern", {}):  # a garbage collection has taken its place
                    raise UploadSwept(self.where) from None
                raise
            assert published is not None
            return published

        return self._errors.patiently(once)

    @property
    def _durable_files(self) -> Documents:
        # The journal is sequential: waiting for it here makes the chunks survive a power failure too.
        concern = WriteConcern(**{**self._files.write_concern.document, "j": True})
        return self._files.with_options(write_concern=concern)

    def _publication(self, upload: ObjectId, sha256: str, size: int, kind: str) -> dict[str, Any]:
        """The update that makes an upload visible where no other was, and renews the mark where one was."""
        document = {
            "_id": upload,
            "length": Int64(size),
            "chunkSize": self._chunk_size,
            "uploadDate": datetime.now(UTC),
            "filename": sha256,
            "metadata.kind": kind,
        }
        return {"$setOnInsert": document, "$currentDate": {"metadata.marked": True}}

    def _open(self, sha256: str) -> VerifyingReader:
        document = self._find(sha256)
        return VerifyingReader(
            ChunkReader(self._database[f"{self._bucket}.chunks"], document),
            sha256=sha256,
            size=int(document["length"]),
            where=self.where,
            guard=lambda: self._readable(sha256),
        )

    def _stat(self, sha256: str) -> StoredObject:
        return _stored(self._find(sha256))

    def _find(self, sha256: str) -> dict[str, Any]:
        document = self._errors.patiently(lambda: self._files.find_one({"metadata.sha256": sha256}))
        if document is None:
            raise ObjectMissing(sha256, self.where)
        return document

    def _list(self) -> Iterator[StoredObject]:
        ours = {"metadata.sha256": {"$exists": True}, **FILES}
        with self._errors.translated(), self._files.find(ours) as cursor:
            for document in cursor.sort("metadata.sha256"):
                yield _stored(document)

    def _delete(self, sha256: str) -> None:
        with self._errors.translated():
            # The file document first: from then on the object is gone, and its chunks look like an unfinished upload.
            document = self._files.find_one_and_delete({"metadata.sha256": sha256})
        if document is not None:
            self._chunks.drop(document["_id"])

    def _delete_unrenewed(self, seen: StoredObject) -> bool:
        with self._errors.translated():
            unrenewed = {"metadata.sha256": seen.sha256, "metadata.marked": seen.marked}
            document = self._files.find_one_and_delete(unrenewed)
        if document is not None:
            self._chunks.drop(document["_id"])
        return document is not None

    def _unfinished_before(self, before: datetime) -> Iterator[Unfinished]:
        return self._chunks.unowned(before)

    def _drop_unfinished(self, upload: str) -> None:
        self._chunks.sweep(ObjectId(upload))

    def _now(self) -> datetime:
        with self._errors.translated():
            told: datetime = self._database.client.admin.command("hello")["localTime"]
        return told if told.tzinfo else told.replace(tzinfo=UTC)

    def _claim(self, project_id: str) -> str:
        beside = ".".join([*self._bucket.split(".")[:-1], "project"])
        marks: Documents = self._database.get_collection(beside, read_preference=ReadPreference.PRIMARY)
        mark = self._errors.patiently(
            lambda: marks.find_one_and_update(
                {"_id": "project"},
                {"$setOnInsert": {"project_id": project_id}},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        )
        assert mark is not None
        return str(mark["project_id"])

    def _ensure_indexes(self) -> None:
        """Make the indexes, once per process: to make one that exists is a cheap no-op for the server."""
        if self._indexed_by == os.getpid():
            return
        with self._errors.translated():
            self._root["chunks"].create_index([("files_id", 1), ("n", 1)], unique=True)
            self._files.create_index([("filename", 1), ("uploadDate", 1)])
            self._files.create_index("length")
            self._files.create_index("metadata.sha256", unique=True)
        self._indexed_by = os.getpid()

    @contextmanager
    def _readable(self, sha256: str) -> Iterator[None]:
        try:
            with self._errors.translated():
                yield
        except CorruptGridFile as error:
            raise ObjectDamaged(sha256, self.where, str(error)) from error


def _stored(document: Mapping[str, Any]) -> StoredObject:
    metadata = document["metadata"]
    return StoredObject(
        sha256=metadata["sha256"],
        size=int(document["length"]),
        kind=metadata["kind"],
        created=document["uploadDate"],
        marked=metadata["marked"],
    )
