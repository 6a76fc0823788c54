"""The objects of a store and what rows name, side by side."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import datetime

from .store.interface import StoredObject

MEMORY = 16 << 20  # bytes of it that are kept in memory; the rest lies in a temporary file

TABLES = """
PRAGMA journal_mode = OFF;
CREATE TABLE object (sha256 BLOB PRIMARY KEY, size INTEGER, kind TEXT, created TEXT, marked TEXT) WITHOUT ROWID;
CREATE TABLE named (sha256 BLOB PRIMARY KEY, promised INTEGER) WITHOUT ROWID;
"""
UNOWNED = "NOT EXISTS (SELECT 1 FROM named WHERE named.sha256 = object.sha256)"


class Census:
    """A count of objects and owners that takes bounded memory whatever their number.

    A context manager: the temporary file goes with it, and when the process dies. Belongs to one thread.
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # "": a temporary file of SQLite's
        self._database.execute(f"PRAGMA cache_size = -{MEMORY >> 10}")
        self._database.executescript(TABLES)

    def __enter__(self) -> Census:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the temporary file go."""
        self._database.close()

    def add_objects(self, objects: Iterable[StoredObject]) -> None:
        """Count what the store holds."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)",
            (
                (bytes.fromhex(one.sha256), one.size, one.kind, one.created.isoformat(), _moment(one.marked))
                for one in objects
            ),
        )
        self._database.execute("COMMIT")

    def add_named(self, named: Iterable[tuple[str, bool]]) -> None:
        """Count what rows name: a sha256, and whether it must be there."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT INTO named VALUES (?, ?) "
            "ON CONFLICT (sha256) DO UPDATE SET promised = promised OR excluded.promised",
            ((bytes.fromhex(sha256), promised) for sha256, promised in named),
        )
        self._database.execute("COMMIT")

    def owned(self) -> dict[str, tuple[int, int]]:
        """Kind to number and bytes of the objects that a row names."""
        return self._by_kind(f"NOT {UNOWNED}", ())

    def unowned(self, before: datetime | None = None) -> dict[str, tuple[int, int]]:
        """Kind to number and bytes of the objects that no row names; of those marked before a time, where one is
        given."""
        return self._by_kind(*_unowned(before))

    def unowned_objects(self, before: datetime) -> Iterator[StoredObject]:
        """The objects that no row names and that were marked before a time, by sha256."""
        condition, values = _unowned(before)
        query = f"SELECT sha256, size, kind, created, marked FROM object WHERE {condition} ORDER BY sha256"
        for sha256, size, kind, created, marked in self._database.execute(query, values):
            yield StoredObject(
                sha256.hex(), size, kind, datetime.fromisoformat(created), datetime.fromisoformat(marked)
            )

    def missing(self) -> Iterator[str]:
        """What a row promises and the store had not, by sha256."""
        query = (
            "SELECT sha256 FROM named WHERE promised AND NOT EXISTS "
            "(SELECT 1 FROM object WHERE object.sha256 = named.sha256) ORDER BY sha256"
        )
        for (sha256,) in self._database.execute(query):
            yield sha256.hex()

    def _by_kind(self, condition: str, values: tuple[str, ...]) -> dict[str, tuple[int, int]]:
        query = f"SELECT kind, COUNT(*), SUM(size) FROM object WHERE {condition} GROUP BY kind ORDER BY kind"
        return {kind: (count, size) for kind, count, size in self._database.execute(query, values)}


def _unowned(before: datetime | None) -> tuple[str, tuple[str, ...]]:
    return (UNOWNED, ()) if before is None else (f"{UNOWNED} AND marked < ?", (_moment(before),))


def _moment(time: datetime) -> str:
    """A time (UTC) as text that sorts as time does."""
    return time.isoformat(timespec="microseconds")
