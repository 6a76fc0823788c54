"""Which objects of the store rows name.

Asked of the database and not of the code: a table that another release or another person added counts too. What owns
too much only keeps an object longer, so every value that may name one does:

- a text column, by its whole value: a sha256 in hexadecimal or an address `trainloom://<sha256>`;
- a json or long text column, by every sha256 in it;
- a column `<stored_blob@…>` of a table in another schema of the server that this user may read: people compute further
  tables from results and keep their values in the same store.

Some also promise that the object is there: a stored blob, an address, and a digest whose size stands beside it
(`artifact_sha256`, `artifact_size`). A digest alone may be that of a text or of a file that was not mirrored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from schemas.project import Project
from schemas.training_result import EXTERNAL_STORE

from .connection import HealingConnection
from .store import datajoint_adapter
from .store.address import SCHEME

ROWS = 2_000  # read at a time
WHOLE = frozenset({"char", "varchar", "character", "character varying"})
ANYWHERE = frozenset({"json", "jsonb", "text", "tinytext", "mediumtext", "longtext"})
SHA256_LENGTH = 64  # digits
_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")

COLUMNS = (
    "SELECT table_name, column_name, data_type, character_maximum_length FROM information_schema.columns "
    "WHERE table_schema = %s ORDER BY table_name, ordinal_position"
)
KEYS = (
    "SELECT k.table_name, k.column_name FROM information_schema.table_constraints c "
    "JOIN information_schema.key_column_usage k ON k.constraint_name = c.constraint_name "
    "AND k.table_schema = c.table_schema AND k.table_name = c.table_name "
    "WHERE c.constraint_type = 'PRIMARY KEY' AND c.table_schema = %s ORDER BY k.table_name, k.ordinal_position"
)
# Tables elsewhere that keep values in the store; other projects have stores of their own.
ELSEWHERE = {
    "postgresql": (
        "SELECT DISTINCT n.nspname FROM pg_catalog.pg_description d "
        "JOIN pg_catalog.pg_class c ON c.oid = d.objoid AND d.classoid = 'pg_catalog.pg_class'::regclass "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE POSITION(%s IN d.description) > 0 AND n.nspname <> %s "
        "AND has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') "
        "AND NOT EXISTS (SELECT 1 FROM pg_catalog.pg_class p WHERE p.relnamespace = n.oid AND p.relname = %s)"
    ),
    "mysql": (
        "SELECT DISTINCT c.table_schema FROM information_schema.columns c "
        "WHERE LOCATE(%s, c.column_comment) > 0 AND c.table_schema <> %s AND NOT EXISTS (SELECT 1 FROM "
        "information_schema.tables p WHERE p.table_schema = c.table_schema AND p.table_name = %s)"
    ),
}


@dataclass(frozen=True)
class Named:
    """An object that a row names.

    Attributes
    ----------
    sha256 : str
    promised : bool
        Whether it must be in the project's store.
    table, column : str
        As the database knows them.
    key : dict
        The row's primary key.
    """

    sha256: str
    promised: bool
    table: str
    column: str
    key: dict[str, Any]


@dataclass(frozen=True)
class _Table:
    schema: str
    name: str
    key: tuple[str, ...]
    columns: dict[str, str]  # name to type, of those that can name an object
    sized: frozenset[str]  # columns with a size beside them


class OwnedObjects:
    """Reads what the rows of a project name, in pages and as of one moment.

    Parameters
    ----------
    connection : HealingConnection
        The session's, which no other thread uses meanwhile.
    schema_name : str
        The project's schema, which is also the location of its store.
    """

    def __init__(self, connection: HealingConnection, schema_name: str) -> None:
        self._connection = connection
        self._schema = schema_name
        self._postgres = connection.adapter.backend == "postgresql"

    def named(self, only: Collection[str] | None = None) -> Generator[Named, None, None]:
        """Every object that a row names, as often as one does; of `only`, where it is given. Close it when you stop
        early: it reads in a transaction."""
        with self._snapshot():
            for table in [*self._tables(self._schema), *self._elsewhere()]:
                for row in self._rows(table):
                    for named in self._named_by(table, row):
                        if only is None or named.sha256 in only:
                            yield named

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """One moment for all reads: a row that is deleted and inserted anew under another key is never missed."""
        level = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
        if not self._postgres:
            self._connection.query(level)  # for the transaction that follows
        with self._connection.transaction:
            if self._postgres:
                self._connection.query(level)
            yield

    def _tables(self, schema: str) -> list[_Table]:
        types: dict[str, dict[str, str]] = {}
        for table, column, kind, length in self._connection.query(COLUMNS, args=(schema,)).fetchall():
            fits = kind in ANYWHERE or (kind in WHOLE and (length or SHA256_LENGTH) >= SHA256_LENGTH)
            types.setdefault(table, {})[column] = str(kind) if fits else ""
        keys: dict[str, list[str]] = {}
        for table, column in self._connection.query(KEYS, args=(schema,)).fetchall():
            keys.setdefault(table, []).append(column)
        return [
            _Table(
                schema,
                name,
                tuple(keys.get(name, ())),
                {column: kind for column, kind in columns.items() if kind},
                frozenset(name for name in columns if f"{name.removesuffix('_sha256')}_size" in columns),
            )
            for name, columns in types.items()
        ]

    def _elsewhere(self) -> list[_Table]:
        wanted = (f"<stored_blob@{EXTERNAL_STORE}>", self._schema, Project.table_name)
        found = self._connection.query(ELSEWHERE[self._connection.adapter.backend], args=wanted).fetchall()
        return [table for (schema,) in found for table in self._tables(schema)]

    def _rows(self, table: _Table) -> Iterator[tuple[Any, ...]]:
        """The values of key and columns of each row, in the order of the key, page by page: the driver would hold all
        of them at once."""
        quote = self._connection.adapter.quote_identifier
        if not table.columns:
            return
        text = "text" if self._postgres else "char"
        keys = ", ".join(f"t.{quote(name)}" for name in table.key)
        values = [f"CAST(t.{quote(name)} AS {text})" for name in table.columns]
        source = self._connection.adapter.make_full_table_name(table.schema, table.name)
        select = f"SELECT {', '.join([keys, *values] if keys else values)} FROM {source} AS t"
        if not keys:
            yield from self._connection.query(select).fetchall()
            return
        after, last = "", ()
        while page := self._connection.query(f"{select}{after} ORDER BY {keys} LIMIT {ROWS}", args=last).fetchall():
            yield from page
            last = tuple(page[-1][: len(table.key)])
            after = f" WHERE ({keys}) > ({', '.join(['%s'] * len(last))})"

    def _named_by(self, table: _Table, row: Sequence[Any]) -> Iterator[Named]:
        key = dict(zip(table.key, row, strict=False))
        for (column, kind), value in zip(table.columns.items(), row[len(key) :], strict=True):
            if value is None:
                continue
            if kind in ANYWHERE:
                found: Sequence[str] = _SHA256.findall(value)
                promised = bool(found) and table.schema == self._schema and self._is_ours(value)
            else:
                digest = value.removeprefix(SCHEME)
                found = [digest] if _SHA256.fullmatch(digest) else []
                promised = table.schema == self._schema and (column in table.sized or digest != value)
            for sha256 in found:
                yield Named(sha256, promised, table.name, column, key)

    def _is_ours(self, text: str) -> bool:
        """Whether a json text is that of a blob in the project's own store."""
        try:
            value = json.loads(text)
        except ValueError:
            return False
        if not isinstance(value, dict) or value.keys() != {"sha256", "size", "store", "path"}:
            return False
        spec = self._connection._config.stores.get(value["store"] or "", {})
        return (spec.get("protocol"), spec.get("location")) == (datajoint_adapter.PROTOCOL, self._schema)
