"""Live events of tasks that no longer exist.

A task's row is there before its training begins and as long as it runs: what is listed here first and has no row then
was deleted. Events whose task is no key, such as a name that a person gave them, are nobody's but that person's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from itertools import islice

from .connection import HealingConnection
from .event_record import EventsUnavailable, Selection
from .events import EventLog
from .owned_objects import COLUMNS, WHOLE

KEYS = 1_000  # looked up at a time
KEY_ENDING = "_md5_hash"  # of the columns that hold keys
_KEY = re.compile(r"[0-9a-f]{32}")


class AbandonedEvents:
    """Finds and removes them; uses the connection, from the thread that owns it.

    Parameters
    ----------
    log : the session's events.
    schema_name : whose tables say which tasks exist: every column of keys counts, those of tables that other releases
        made too.
    """

    def __init__(self, log: EventLog, connection: HealingConnection, schema_name: str) -> None:
        self._log = log
        self._connection = connection
        self._schema = schema_name

    def found(self, before: datetime) -> Iterator[tuple[Selection, int]]:
        """For each task that is gone, which of its events are older than `before`, and how many.

        Raises
        ------
        EventsUnavailable
            If the place of the events cannot be reached, or what dead processes left on this node cannot be sent there.
        """
        if not self._log.send_left_behind():
            raise EventsUnavailable("events wait on this node until their server answers; collect garbage then")
        keys = (task for task in self._log.tasks() if _KEY.fullmatch(task))
        while page := [*islice(keys, KEYS)]:
            for task in sorted({*page} - self._existing(page)):
                chosen = Selection(task=task, until=before)
                if number := self._log.count(chosen):
                    yield chosen, number

    def _existing(self, keys: list[str]) -> set[str]:
        """Those of the keys that a row has."""
        found: set[str] = set()
        for table, column in self._key_columns():
            source = self._connection.adapter.make_full_table_name(self._schema, table)
            name = self._connection.adapter.quote_identifier(column)
            marks = ", ".join(["%s"] * len(keys))
            query = f"SELECT DISTINCT {name} FROM {source} WHERE {name} IN ({marks})"
            found.update(key for (key,) in self._connection.query(query, args=tuple(keys)).fetchall())
        return found

    def _key_columns(self) -> list[tuple[str, str]]:
        columns = self._connection.query(COLUMNS, args=(self._schema,)).fetchall()
        return [(table, name) for table, name, kind, _ in columns if name.endswith(KEY_ENDING) and kind in WHOLE]
