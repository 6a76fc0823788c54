"""A small computed table for the tests of the queue: its key is an md5, its rows are trivial."""

from __future__ import annotations

import hashlib
from typing import Any

import datajoint as dj

from pipeline.job_table import declare_indexes

scratch = dj.Schema()


@scratch
class Item(dj.Manual):
    definition = """
    item_md5   : char(32)
    ---
    priority=5 : int16
    """


@scratch
class Made(dj.Computed):
    definition = """
    -> Item
    ---
    made_value : int32
    """

    @property
    def key_source(self) -> Any:
        return Item()


def activate(session: Any) -> None:
    """Bind the tables beside the session's own, anew for each session; declares them where they are missing."""
    scratch.database = None
    Made._jobs = None
    scratch.activate(f"{session.settings.schema_name}_scratch", connection=session.connection)
    declare_indexes(Made())


def insert_items(count: int, priority: int = 5, start: int = 0) -> list[str]:
    """Insert items; returns their keys."""
    keys = [hashlib.md5(str(number).encode()).hexdigest() for number in range(start, start + count)]
    Item().insert([{"item_md5": key, "priority": priority} for key in keys])
    return keys
