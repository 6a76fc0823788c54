"""The objects of a store and what rows name, side by side."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from .store.interface import StoredObject

MEMORY = 16 << 20  # bytes of it that are kept in memory; the rest lies in a temporary file

TABLES = """
PRAGMA journal_mode = OFF;
CREATE TABLE object (sha256 BLOB PRIMARY KEY, size INTEGER, kind TEXT, created TEXT, marked TEXT) WITHOUT ROWID;
CREATE TABLE named (sha256 BLOB PRIMARY KEY, promised INTEGER) WITHOUT ROWID;
CREATE TABLE owner (sha256 BLOB, name TEXT, PRIMARY KEY (sha256, name)) WITHOUT ROWID;
"""
UNOWNED = "NOT EXISTS (SELECT 1 FROM named WHERE named.sha256 = object.sha256)"
# Bytes of an object count as an owner's own where nobody else names it; owners without a name are only that.
SHARES = """
WITH lone AS (SELECT sha256 FROM owner GROUP BY sha256 HAVING COUNT(*) = 1)
SELECT owner.name, object.kind, COUNT(*), SUM(object.size),
       SUM(CASE WHEN lone.sha256 IS NULL THEN 0 ELSE object.size END)
FROM owner JOIN object ON object.sha256 = owner.sha256 LEFT JOIN lone ON lone.sha256 = owner.sha256
WHERE owner.name IN (
    SELECT owner.name FROM owner JOIN object ON object.sha256 = owner.sha256
    WHERE owner.name <> '' GROUP BY owner.name ORDER BY SUM(object.size) DESC, owner.name LIMIT ?
)
GROUP BY owner.name, object.kind ORDER BY owner.name, object.kind
"""
SHARED_OUT = """
SELECT COUNT(*), COALESCE(SUM(size), 0) FROM object
WHERE EXISTS (SELECT 1 FROM owner WHERE owner.sha256 = object.sha256 AND owner.name <> '')
"""


@dataclass(frozen=True)
class Share:
    """What one owner has.

    Attributes
    ----------
    owner : str
        Its name.
    by_kind : dict
        Kind to number and bytes of its objects.
    own : int
        Bytes that nobody else has a part in.
    """

    owner: str
    by_kind: dict[str, tuple[int, int]]
    own: int

    @property
    def total(self) -> tuple[int, int]:
        """Number and bytes of its objects."""
        return sum(number for number, _ in self.by_kind.values()), sum(size for _, size in self.by_kind.values())


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

    def add_owners(self, owners: Iterable[tuple[str, str]]) -> None:
        """Count who names what: a sha256 and the name of an owner, empty where it does not matter who."""
        self._database.execute("BEGIN")
        self._database.executemany(
            "INSERT OR IGNORE INTO owner VALUES (?, ?)", ((bytes.fromhex(sha256), name) for sha256, name in owners)
        )
        self._database.execute("COMMIT")

    def shares(self, limit: int | None = None) -> list[Share]:
        """What the owners with a name have, the largest first, at most `limit` of them."""
        by_owner: dict[str, Share] = {}
        for name, kind, number, size, own in self._database.execute(SHARES, (-1 if limit is None else limit,)):
            before = by_owner.get(name, Share(name, {}, 0))
            by_owner[name] = Share(name, {**before.by_kind, kind: (number, size)}, before.own + own)
        return sorted(by_owner.values(), key=lambda share: (-share.total[1], share.owner))

    def shared_out(self) -> tuple[int, int]:
        """Number and bytes of the objects that an owner with a name has, each counted once."""
        number, size = self._database.execute(SHARED_OUT).fetchone()
        return number, size

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
