"""Examples written into MongoDB, one document each: re-runnable, and visible as a dataset only when all are there."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import Int64
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo.errors import BulkWriteError

from datasets_impl.bson_arrays import CODEC
from datasets_impl.contract import DatasetError
from datasets_impl.mongo_access import ExamplesUnavailable, MongoAccess, borrow
from datasets_impl.mongo_view import IMPORTED, patiently

from .import_documents import BATCH, UNKNOWN, Batch, Encoded, Heads, ImportFailed, batches, encoded
from .imported_data import COMPLETE, IMPORTING, documents, states

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
WRITERS = 2  # threads that wait for the server
DUPLICATE_KEY = 11000

Told = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Imported:
    """A dataset in MongoDB.

    Attributes
    ----------
    name : to be given as `dataset_file_name`.
    count : its examples.
    sha256 : of their fields; times and numbers do not count.
    new : how many documents this run has written.
    """

    name: str
    count: int
    sha256: str
    new: int


def _silent(number: int, count: int | None) -> None:
    """Tell nobody."""


class DataImport:
    """Writes one version of one dataset.

    The documents lie in the collection `<project>.data.<name>`, or `<project>.data.<name>@<version>`, by their numbers;
    the document that says that they are complete, in `<project>.data`. Whatever ends an import, running it again goes
    on with it: documents that are there are compared, the others written.

    Parameters
    ----------
    access : reaches the database.
    name, version : of letters, digits, `_`, `.` and `-`.
    """

    def __init__(self, access: MongoAccess, name: str, version: str = "") -> None:
        for what, text in (("name", name), ("version", version or "_")):
            if not isinstance(text, str) or not NAME.fullmatch(text):
                raise ImportFailed(
                    f"the {what} {text!r} of a dataset is made of letters, digits, '_', '.' and '-', at most 64; "
                    "choose another"
                )
        self._access = access
        self._name, self._version = name, version
        self.key = f"{name}@{version}" if version else name
        self._label = f"the dataset {self.key}"
        self._written: list[Sequence[int]] = []  # numbers of documents

    def run(
        self, examples: Iterable[Mapping[str, Any]], *, count: int | None = None, source: str = "", told: Told = _silent
    ) -> Imported:
        """Import all examples.

        Parameters
        ----------
        examples : a dict for each: its fields by name. All have the same ones, and in each field the same shape and
            dtype, or kind of value.
        count : how many there are, where it is known.
        source : what they were made from, for people.
        told : is called with the number of examples so far, and `count`.

        Raises
        ------
        ImportFailed
            If an example is unsuitable, there is none, or the dataset is there with other content.
        ExamplesUnavailable
            If MongoDB stayed away; what was written is gone on with next time.
        """
        before = self._patiently(lambda: self._states().find_one({"_id": self.key}))
        written = self._patiently(lambda: self._documents().find_one({}, {"_id": 1}) is not None)
        complete = before is not None and before["state"] == COMPLETE
        number = self._patiently(self._documents().estimated_document_count) if complete else 0
        if before is None:
            self._patiently(self._begin)
        try:
            checked = encoded(examples)
            if complete and number == before["count"]:
                return self._compare(checked, before, count, told)
            return self._write(checked, before, written, count, source, told)
        except ExamplesUnavailable:
            raise  # it goes on later
        except Exception as error:
            self._undo(everything=before is None and not written)
            if isinstance(error, DatasetError | BSONError):
                raise ImportFailed(f"{self._label} is not imported: {error}") from error
            raise

    def _compare(
        self, examples: Iterator[Encoded], before: Mapping[str, Any], count: int | None, told: Told
    ) -> Imported:
        """Find the same examples in a dataset that is complete."""
        digest, number = hashlib.sha256(), 0
        for elements, _ in examples:
            digest.update(elements)
            number += 1
            if number % BATCH == 0:
                told(number, count)
        told(number, number)
        if (number, digest.hexdigest()) != (before["count"], before["sha256"]):
            raise self._other()
        return Imported(f"{IMPORTED}{self.key}", number, before["sha256"], 0)

    def _write(
        self,
        examples: Iterator[Encoded],
        before: Mapping[str, Any] | None,
        written: bool,
        count: int | None,
        source: str,
        told: Told,
    ) -> Imported:
        time = self._patiently(lambda: self._states().find_one({"_id": self.key}))["time"]
        digest = hashlib.sha256()
        made: dict[str, str] = {}
        number = 0
        with ThreadPoolExecutor(WRITERS, thread_name_prefix="trainloom-import") as writers:
            waiting: deque[Future[Sequence[int]]] = deque()
            try:
                heads = Heads(self._name, self._version, count, time)
                for batch in batches(examples, made, digest):
                    waiting.append(writers.submit(self._send, batch, heads, written))
                    if len(waiting) > 2 * WRITERS:
                        self._written.append(waiting.popleft().result())
                    number = batch.start + len(batch.fields)
                    told(number, count)
            finally:
                for sent in waiting:  # also of those that follow a failure, which have to be undone
                    if sent.exception() is None:
                        self._written.append(sent.result())
            for sent in waiting:
                sent.result()
        if number == 0:
            raise ImportFailed("there are no examples to import; look into their source")
        if count is not None and number != count:
            raise ImportFailed(f"{count} examples were announced, but {number} came; correct one of them")
        found = digest.hexdigest()
        if self._patiently(lambda: self._documents().count_documents({})) != number:
            raise self._other()
        if (
            before is not None
            and before["state"] == COMPLETE
            and (before["count"], before["sha256"]) != (number, found)
        ):
            raise self._other()
        self._patiently(lambda: self._finish(number, found, made, source, time, count is None))
        told(number, number)
        return Imported(f"{IMPORTED}{self.key}", number, found, sum(map(len, self._written)))

    def _send(self, batch: Batch, heads: Heads, compare: bool) -> Sequence[int]:
        """Write the documents of a batch that are not there; returns their numbers."""
        raws = {
            batch.start + place: heads.document(batch.start + place, elements)
            for place, elements in enumerate(batch.fields)
        }
        check = compare
        fresh: dict[int, None] = {}

        def send() -> None:
            nonlocal check
            documents = self._documents()
            missing = raws if not check else self._missing(raws, heads, batch)
            check = True  # what was sent once may be there, whatever became of the answer
            fresh.update(dict.fromkeys(missing))
            if missing:
                documents.insert_many([RawBSONDocument(raw) for raw in missing.values()], ordered=False)

        while True:
            try:
                self._patiently(send)
            except DatasetError as error:
                cause = error.__cause__
                if isinstance(cause, BulkWriteError) and _only_duplicates(cause):
                    continue  # another import of the same examples was quicker
                raise
            whole = range(batch.start, batch.start + len(batch.fields))
            return whole if len(fresh) == len(whole) else list(fresh)  # a range takes less memory

    def _missing(self, raws: Mapping[int, bytes], heads: Heads, batch: Batch) -> dict[int, bytes]:
        """Those that are not there; what is there must be the same."""
        numbers = {"_id": {"$gte": batch.start, "$lt": batch.start + len(batch.fields)}}
        raw = self._documents().with_options(codec_options=CODEC.with_options(document_class=RawBSONDocument))
        there = {int(document["_id"]): document.raw for document in raw.find(numbers)}
        for number, found in there.items():
            if heads.fields_of(found) != batch.fields[number - batch.start]:
                raise self._other(f"; example {number} is the first to differ")
        return {number: content for number, content in raws.items() if number not in there}

    def _begin(self) -> None:
        now = datetime.now(UTC).replace(microsecond=0)
        begun = {"name": self._name, "version": self._version, "state": IMPORTING, "time": now}
        self._states().update_one({"_id": self.key}, {"$setOnInsert": begun}, upsert=True)

    def _finish(
        self, number: int, sha256: str, made: dict[str, str], source: str, time: datetime, count_them: bool
    ) -> None:
        if count_them:
            self._documents().update_many({"count": UNKNOWN}, {"$set": {"count": Int64(number)}})
        self._states().replace_one(
            {"_id": self.key},
            {
                "name": self._name,
                "version": self._version,
                "state": COMPLETE,
                "time": time,
                "count": Int64(number),
                "sha256": sha256,
                "fields": made,
                "source": source,
            },
            upsert=True,
        )

    def _undo(self, *, everything: bool) -> None:
        """Remove what this run has written."""
        if everything:
            self._patiently(lambda: self._documents().drop())
            self._patiently(lambda: self._states().delete_one({"_id": self.key}))
            return
        for numbers in self._written:
            self._delete(numbers)

    def _delete(self, numbers: Sequence[int]) -> None:
        self._patiently(lambda: self._documents().delete_many({"_id": {"$in": list(numbers)}}))

    def _other(self, detail: str = "") -> ImportFailed:
        return ImportFailed(
            f"{self._label} was imported with other examples{detail}; name a new version with --version, or remove it "
            f"first with `trainloom data remove {self.key}`"
        )

    def _states(self) -> Any:
        return states(self._access)

    def _documents(self) -> Any:
        return documents(self._access, self.key)

    def _patiently(self, action: Callable[[], Any]) -> Any:
        return patiently(self._access, self._label, action)


def import_examples(
    examples: Iterable[Mapping[str, Any]],
    name: str,
    *,
    version: str = "",
    count: int | None = None,
    source: str = "",
    told: Told = _silent,
) -> Imported:
    """Import examples into the MongoDB of the open session; see `DataImport`."""
    importing = DataImport(borrow(), name, version)
    return importing.run(examples, count=count, source=source, told=told)


def _only_duplicates(error: BulkWriteError) -> bool:
    details = error.details or {}
    return not details.get("writeConcernErrors") and all(
        one["code"] == DUPLICATE_KEY for one in details.get("writeErrors", ())
    )
