"""The one DataJoint schema of a project, activated late: importing the tables opens no connection."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import datajoint as dj

from .errors import NotConnected

schema = dj.Schema()


class Connected:
    """Mixin of all our tables: used before a session is open, a table says how to open one."""

    _connection: Any

    @property
    def connection(self) -> Any:
        """The session's connection.

        Raises
        ------
        NotConnected
            If no session is open.
        """
        if self._connection is None:
            raise NotConnected(type(self).__name__)
        return self._connection

    @property
    def heading(self) -> Any:
        """The table's columns."""
        if self._connection is None:
            raise NotConnected(type(self).__name__)
        return super().heading  # type: ignore[misc]


def transaction(connection: Any) -> AbstractContextManager[Any]:
    """A transaction of its own for what follows, or the one that is open already: MySQL nests none."""
    return nullcontext() if connection.in_transaction else connection.transaction


def read_columns(master: type) -> None:
    """Read the columns of a table and its parts, which DataJoint would else do at their first use in a session: with
    half a dozen statements each, of a transaction where that is in one."""
    for table in _with_parts(master):
        _ = table().heading.attributes


def _with_parts(master: type) -> list[Any]:
    return [master, *(part for part in vars(master).values() if isinstance(part, type) and issubclass(part, dj.Part))]


def activate(name: str, connection: Any, *, create: bool) -> None:
    """Bind every table to a database schema; `create` declares what is missing (callers hold the project's lock)."""
    schema.activate(name, connection=connection, create_schema=create, create_tables=create)


def deactivate() -> None:
    """Undo `activate`: the tables say again how to open a session."""
    for master, _ in schema.declare_list:
        for table in _with_parts(master):
            table._connection = None
            table._heading = None
            table.database = None
        if issubclass(master, dj.Computed):
            master._jobs = None  # kept by `pipeline.job_table.job_table`
    schema.database = None
    schema.connection = None
