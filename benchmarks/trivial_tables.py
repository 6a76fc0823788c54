"""Computed tables whose rows cost nothing, for our queue and for DataJoint's, beside a project's tables."""

from __future__ import annotations

from typing import Any

import datajoint as dj

from pipeline.job_table import declare_indexes, enqueue
from schemas.attempt import Attempt

SCHEMA = "benchmark_queue"
scratch = dj.Schema()


@scratch
class Item(dj.Manual):
    definition = """
    item_md5   : char(32)
    ---
    priority=5 : int16
    number     : int32
    INDEX (number)
    """


class Trivial:
    """What the tables have in common."""

    definition = """
    -> Item
    ---
    made_value : int32
    """

    @property
    def key_source(self) -> Any:
        return Item()


class InThreeParts(Trivial):
    """Made by our workers."""

    attempt: Any = None  # set by the worker while a row is made

    def make_fetch(self, key: dict[str, Any]) -> tuple[()]:
        return ()

    def make_compute(self, key: dict[str, Any]) -> tuple[int]:
        return (1,)

    def make_insert(self: Any, key: dict[str, Any], value: int) -> None:
        self.insert1({**key, "made_value": value})


@scratch
class Ours(InThreeParts, dj.Computed):
    """With a short queue."""


@scratch
class Crowded(InThreeParts, dj.Computed):
    """With a long queue."""


@scratch
class Stock(Trivial, dj.Computed):
    """Made by DataJoint's `populate`."""

    def make(self, key: dict[str, Any]) -> None:
        self.insert1({**key, "made_value": 1})


def activate(connection: Any) -> None:
    """Bind the tables to a session's connection, anew for each session; the first one declares them, before others
    come."""
    scratch.database = None
    for table in (Ours, Crowded, Stock):
        table._jobs = None
    scratch.activate(SCHEMA, connection=connection)
    for table in (Ours(), Crowded()):
        declare_indexes(table)


def fill(table: Any, count: int) -> None:
    """Take away what a table has made, and queue it again; `count` is how many jobs it has altogether, always the
    same."""
    connection = table.connection
    connection.query(f"TRUNCATE TABLE {table.full_table_name}")
    connection.query(f"DELETE FROM {Attempt().full_table_name}")  # a part refers to it
    if connection.adapter.backend == "postgresql":
        connection.query(f"VACUUM {Attempt().full_table_name}")  # what was deleted would be read over and over
    first = len(Item())
    if first < count:
        md5s = _md5s(connection.adapter.backend, first, count)
        connection.query(f"INSERT INTO {Item().full_table_name} (item_md5, number) {md5s}")
    enqueue(table, (f"number < {count}",))


def _md5s(backend: str, first: int, end: int) -> str:
    """A SELECT of md5s and numbers, from `first` to before `end`."""
    if backend == "postgresql":
        return f"SELECT MD5(number::text), number FROM generate_series({first}, {end - 1}) AS number"
    return f"SELECT MD5(seq), seq FROM {SCHEMA}.seq_{first}_to_{end - 1}"
