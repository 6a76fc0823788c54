"""Rows of a lab's own DataJoint tables as the source of a packing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import datajoint as dj
import numpy as np

from datasets_impl.packing_source import PackingError, PackingSource, SourceChanged, SourceRow
from schemas.hashing import plain

KIND = "query"


class EmptyQuery(PackingError):
    """A query returns no row."""


class QuerySource(PackingSource):
    """The rows of a query: tables joined, restricted, in the order of the primary key.

    Primary keys are held in memory; values are fetched a few rows at a time, when they are packed.

    Parameters
    ----------
    connection : the session's.
    tables : such as ``["lab.Scan", "lab.Label"]``, schema and class name (``lab.Scan.Frame`` for a part); several are
        joined.
    restriction : conditions in SQL that must all hold.
    attributes : the columns to fetch beside the primary key; all by default.

    Raises
    ------
    PackingError
        If there is no such schema or table, the restriction is wrong, or no row is left.
    """

    def __init__(
        self,
        connection: Any,
        tables: Sequence[str],
        restriction: Sequence[str] = (),
        attributes: Sequence[str] | None = None,
    ) -> None:
        self._tables = list(tables)
        self._restriction = list(restriction)
        self._attributes = None if attributes is None else list(attributes)
        if not tables:
            raise PackingError("a query needs a table: name at least one, as schema.Table.")
        found = [_table(connection, name) for name in tables]
        self._ancestors = sorted({name.replace('"', "").replace("`", "") for one in found for name in one.ancestors()})
        try:
            query = found[0]
            for other in found[1:]:
                query = query * other
            query = query & dj.AndList(self._restriction) if self._restriction else query
            if attributes is not None:
                query = query.proj(*(name for name in attributes if name not in query.primary_key))
            self._query = query
            self._keys = self._read_keys()
        except Exception as error:
            raise PackingError(f"{self} cannot be run: {error}; correct its tables or its restriction.") from error
        self.columns = tuple(self._query.heading.names)
        if not self._keys:
            raise EmptyQuery(f"{self} returns no row: correct its restriction, or fill the table.")

    def __str__(self) -> str:
        where = f" where {' and '.join(self._restriction)}" if self._restriction else ""
        return f"the query of {' * '.join(self._tables)}{where}"

    def __len__(self) -> int:
        return len(self._keys)

    def _read_keys(self) -> list[dict[str, Any]]:
        keys: list[dict[str, Any]] = self._query.keys(order_by="KEY")
        return keys

    def column(self, name: str) -> list[Any]:
        """The values of one attribute, of all rows.

        Raises
        ------
        SourceChanged
            If rows came or went since the source was opened.
        """
        rows = self._query.proj(self.check_column(name)).to_dicts(order_by="KEY")
        if list(map(self._name, rows)) != self._names():
            raise self._changed()
        return [row[name] for row in rows]

    def _names(self) -> list[str]:
        return [_key_text(key) for key in self._keys]

    def rows(self, numbers: Sequence[int]) -> list[SourceRow]:
        """The rows of these numbers; each is called by its primary key.

        Raises
        ------
        SourceChanged
            If one of them is gone.
        """
        keys = [self._keys[number] for number in numbers]
        found = {self._name(row): row for row in (self._query & keys).to_dicts()}
        names = list(map(_key_text, keys))
        if not found.keys() >= set(names):
            raise self._changed()
        return [SourceRow(number, name, found[name]) for number, name in zip(numbers, names, strict=True)]

    def _name(self, row: Mapping[str, Any]) -> str:
        return _key_text({part: row[part] for part in self._query.primary_key})

    def _changed(self) -> SourceChanged:
        return SourceChanged(f"{self} returns other rows than when the packing began: pack it again.")

    def describe(self) -> dict[str, Any]:
        """`kind`, tables, restriction, SQL, primary key, and the tables that these depend on."""
        return {
            "kind": KIND,
            "tables": self._tables,
            "restriction": self._restriction,
            "attributes": self._attributes,
            "sql": self._query.make_sql(),
            "primary_key": list(self._query.primary_key),
            "ancestors": self._ancestors,
        }

    def place(self) -> dict[str, Any]:
        """Tables, restriction and attributes."""
        place = {"kind": KIND, "tables": self._tables, "restriction": self._restriction}
        return {**place, "attributes": self._attributes}

    def stamp(self) -> str:
        """A digest of the SQL and of the primary keys."""
        digest = hashlib.sha256(self._query.make_sql().encode())
        for name in self._names():
            digest.update(name.encode() + b"\n")
        return digest.hexdigest()

    def verify(self) -> None:
        """Raise `SourceChanged` if the query returns other primary keys than when the source was opened."""
        if self._read_keys() != self._keys:
            raise self._changed()

    def dtype(self, name: str) -> str:
        """The dtype of the first row's value; str for text."""
        self.check_column(name)
        value = self.rows([0])[0].cells[name]
        if isinstance(value, str):
            return "str"
        array = np.asarray(value)
        if array.dtype.kind == "O":  # decimals
            return "float64"
        return "uint8" if array.dtype.kind == "b" else array.dtype.name


def _table(connection: Any, name: str) -> Any:
    """A table of the server by schema and class name, through DataJoint's virtual module; nothing is evaluated.

    Raises
    ------
    PackingError
        If there is none of that name.
    """
    schema, *path = name.split(".")
    if not path or not all(part.isidentifier() for part in path):
        raise PackingError(f"{name!r} names no table: give it as schema.Table, or schema.Table.Part.")
    try:
        found: Any = dj.VirtualModule(schema, schema, connection=connection)
    except dj.DataJointError as error:
        raise PackingError(f"the schema {schema!r} of {name!r} cannot be opened: {error}") from error
    for part in path:
        found = vars(found).get(part)
        if not (isinstance(found, type) and issubclass(found, dj.Table)):
            raise PackingError(f"the schema {schema!r} has no table {'.'.join(path)!r}: correct its name.")
    return found()


def _key_text(key: Mapping[str, Any]) -> str:
    """A primary key as text: the same on every backend, whatever the order of the rows."""
    return json.dumps({name: _plain(value) for name, value in sorted(key.items())}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float | str | np.generic):
        return plain(value, "the primary key")
    return str(value)
