"""Events in a MongoDB collection: one small document each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Any

import pymongo
from bson.codec_options import CodecOptions
from pymongo.errors import BulkWriteError, PyMongoError

from .event_record import Event, EventsUnavailable, Selection

DUPLICATE = 11000  # MongoDB's code: the event was written by an earlier try whose answer was lost
TIMEOUT = 30.0  # s for one operation
ORDER = ("task", "kind", "time", "_id")
# By the index and by nothing else: the server jumps from task to task.
TASKS: list[dict[str, Any]] = [
    {"$match": {"task": {"$gt": ""}}},
    {"$sort": {"task": 1}},
    {"$group": {"_id": "$task"}},
]


class EventCollection:
    """Keeps events in one collection, indexed by task, kind and time.

    Parameters
    ----------
    connect : returns the database; called for every operation, since a client must not cross a fork.
    name : of the collection.
    """

    def __init__(self, connect: Callable[[], Any], name: str) -> None:
        self._connect = connect
        self._name = name
        self._indexed = False

    def insert(self, events: list[Event]) -> None:
        with self._usable() as collection:
            if not self._indexed:
                collection.create_index([(name, 1) for name in ORDER])
                self._indexed = True
            try:
                collection.insert_many(events, ordered=False)
            except BulkWriteError as error:
                refused = error.details.get("writeErrors", [])
                if not refused or any(one["code"] != DUPLICATE for one in refused):
                    raise

    def find(self, chosen: Selection, limit: int | None, newest_first: bool) -> Iterator[Event]:
        direction = -1 if newest_first else 1
        with self._translated():
            found = self._collection().find(_condition(chosen)).sort([("time", direction), ("_id", direction)])
            # Where task or kind are left open no index serves the order, and memory may not hold what is sorted.
            yield from found.allow_disk_use(True).limit(limit or 0)

    def count(self, chosen: Selection) -> int:
        with self._usable() as collection:
            return int(collection.count_documents(_condition(chosen)))

    def delete(self, chosen: Selection) -> int:
        with self._translated():  # a million takes longer than any other operation may
            return int(self._collection().delete_many(_condition(chosen)).deleted_count)

    def tasks(self) -> Iterator[str]:
        with self._translated():
            for group in self._collection().aggregate(TASKS, allowDiskUse=True):
                yield group["_id"]

    def index(self, name: str) -> None:
        with self._usable() as collection:
            collection.create_index([("task", 1), ("kind", 1), (name, 1)])

    @contextmanager
    def _usable(self) -> Iterator[Any]:
        with self._translated(), pymongo.timeout(TIMEOUT):
            yield self._collection()

    def _collection(self) -> Any:
        options: CodecOptions[Any] = CodecOptions(tz_aware=True, tzinfo=UTC)
        return self._connect().get_collection(self._name, codec_options=options)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except PyMongoError as error:
            raise EventsUnavailable(
                f"events cannot be kept in the collection {self._name}: {error}; "
                "look into the log of the MongoDB server, and whether its disk is full"
            ) from error


def _condition(chosen: Selection) -> dict[str, Any]:
    condition: dict[str, Any] = {
        name: {"$eq": value} for name, value in (("task", chosen.task), ("kind", chosen.kind)) if value is not None
    }
    limits = {"time": (chosen.since, chosen.until), **chosen.ranges}
    for name, (low, high) in limits.items():
        parts = {operator: limit for operator, limit in (("$gte", low), ("$lt", high)) if limit is not None}
        if parts:
            condition[name] = parts
    for name, value in chosen.where.items():
        condition[name] = {**condition.get(name, {}), "$eq": value}  # never the value alone: it may look like a query
    return condition
