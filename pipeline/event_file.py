"""Events in an SQLite file, beside a folder store."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from bson import ObjectId

from .event_record import (
    Event,
    EventsUnavailable,
    Selection,
    encoded,
    fields_of,
    fields_text,
    milliseconds,
    time_of,
)

PAGE = 1_000  # events read at a time
LOCK_WAIT = 30.0  # s for other processes that write
# No write-ahead log: that needs memory which hosts that share a folder do not share.
DECLARATION = (
    "CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, task TEXT NOT NULL, kind TEXT NOT NULL, "
    "time INTEGER NOT NULL, fields TEXT NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS by_kind ON events (task, kind, time, id)",
    "CREATE INDEX IF NOT EXISTS by_task ON events (task, time, id)",
    "CREATE INDEX IF NOT EXISTS by_time ON events (time, id)",
)
# SQLite reads a whole index for DISTINCT; so it jumps from task to task.
NEXT_TASKS = (
    "WITH RECURSIVE next (task) AS (SELECT MIN(task) FROM events WHERE task > ? UNION ALL "
    "SELECT (SELECT MIN(events.task) FROM events WHERE events.task > next.task) FROM next WHERE next.task IS NOT NULL) "
    "SELECT task FROM next WHERE task IS NOT NULL LIMIT ?"
)


class EventFile:
    """Keeps events in a file that several processes may use; each operation opens it anew, so that no lock outlives
    one."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def insert(self, events: list[Event]) -> None:
        rows = [
            (str(event["_id"]), event["task"], event["kind"], milliseconds(event["time"]), fields_text(event))
            for event in events
        ]
        with self._usable() as file, file:
            file.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?, ?)", rows)

    def find(self, chosen: Selection, limit: int | None, newest_first: bool) -> Iterator[Event]:
        after, remaining = None, limit
        while remaining is None or remaining > 0:  # in pages: a reader that is slow must not lock out who writes
            size = PAGE if remaining is None else min(PAGE, remaining)
            page = self._page(chosen, after, size, newest_first)
            yield from page
            if len(page) < size:
                return
            after = page[-1]
            remaining = None if remaining is None else remaining - size

    def _page(self, chosen: Selection, after: Event | None, limit: int, newest_first: bool) -> list[Event]:
        condition, values = _condition(chosen)
        if after is not None:
            condition += f" AND (time, id) {'<' if newest_first else '>'} (?, ?)"
            values += [milliseconds(after["time"]), str(after["_id"])]
        direction = "DESC" if newest_first else "ASC"
        with self._usable() as file:
            rows = file.execute(
                f"SELECT id, task, kind, time, fields FROM events WHERE {condition} "
                f"ORDER BY time {direction}, id {direction} LIMIT ?",
                (*values, limit),
            ).fetchall()
        return [
            {"_id": ObjectId(number), "task": task, "kind": kind, "time": time_of(time), **fields_of(fields)}
            for number, task, kind, time, fields in rows
        ]

    def count(self, chosen: Selection) -> int:
        condition, values = _condition(chosen)
        with self._usable() as file:
            return int(file.execute(f"SELECT COUNT(*) FROM events WHERE {condition}", values).fetchone()[0])

    def delete(self, chosen: Selection) -> int:
        condition, values = _condition(chosen)
        with self._usable() as file, file:
            return int(file.execute(f"DELETE FROM events WHERE {condition}", values).rowcount)

    def tasks(self) -> Iterator[str]:
        after: str | None = ""
        while after is not None:
            with self._usable() as file:
                page = [task for (task,) in file.execute(NEXT_TASKS, (after, PAGE))]
            yield from page
            after = page[-1] if len(page) == PAGE else None

    def index(self, name: str) -> None:
        with self._usable() as file, file:
            file.execute(f'CREATE INDEX IF NOT EXISTS "field_{name}" ON events (task, kind, {_field(name)})')

    @contextmanager
    def _usable(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=LOCK_WAIT)) as file:
                for statement in DECLARATION:
                    file.execute(statement)
                yield file
        except (sqlite3.Error, OSError) as error:
            raise EventsUnavailable(
                f"events cannot be kept in {self._path}: {error}; look at the file's rights and its disk"
            ) from error


def _condition(chosen: Selection) -> tuple[str, list[Any]]:
    parts = ["1"]
    values: list[Any] = []
    for name, value in (("task", chosen.task), ("kind", chosen.kind)):
        if value is not None:
            parts.append(f"{name} = ?")
            values.append(value)
    for operator, time in ((">=", chosen.since), ("<", chosen.until)):
        if time is not None:
            parts.append(f"time {operator} ?")
            values.append(milliseconds(time))
    for name, value in chosen.where.items():
        parts.append(f"{_field(name)} IS ?")
        kept = encoded(value)
        values.append(json.dumps(kept, separators=(",", ":")) if isinstance(kept, dict) else kept)
    for name, limits in chosen.ranges.items():
        parts.append(f"json_type(fields, '$.\"{name}\"') IN ('integer', 'real')")
        for operator, limit in zip((">=", "<"), limits, strict=True):
            if limit is not None:
                parts.append(f"{_field(name)} {operator} ?")
                values.append(limit)
    return " AND ".join(parts), values


def _field(name: str) -> str:
    """SQL for a field; the form of names, which `checked_name` has seen to, leaves nothing to escape."""
    return f"json_extract(fields, '$.\"{name}\"')"
