"""Rows that are deleted together, unless rows of other tables still name one of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from datajoint.errors import IntegrityError

from .errors import SchemaError
from .schema import transaction

RESTRICTED = "23001"  # PostgreSQL's code of a foreign key that restricts, which DataJoint passes on as it is


class StillUsed(SchemaError):
    """Rows of other tables name a row that was to be deleted.

    Attributes
    ----------
    key : of the row.
    owners : the other tables.
    """

    def __init__(self, key: Mapping[str, Any], owners: str) -> None:
        super().__init__(f"{dict(key)} is still used by rows of {owners}; delete those first")
        self.key = key
        self.owners = owners


def remove(table: Any, keys: Iterable[Mapping[str, Any]]) -> None:
    """Delete the rows of `table` (not restricted) with these primary keys, all or none; rows of other tables stay.

    Raises
    ------
    StillUsed
        If rows of other tables name one of them.
    """
    connection = table.connection
    key: Mapping[str, Any] = {}
    try:
        with transaction(connection):
            for key in keys:
                (table & key).delete_quick()
    except Exception as error:
        if not isinstance(error, IntegrityError) and getattr(error, "pgcode", "") != RESTRICTED:
            raise
        raise StillUsed(key, _owners(table, key)) from error


def _owners(table: Any, key: Mapping[str, Any]) -> str:
    """The tables of which a row names the one with this key."""
    if table.connection.in_transaction:  # the caller's, in which PostgreSQL answers nothing more
        return "other tables"
    table.connection.dependencies.load()
    children = table.children(as_objects=True, foreign_key_info=True)
    naming = [
        child.full_table_name
        for child, link in children
        if child & {own: key[theirs] for own, theirs in link["attr_map"].items()}
    ]
    return ", ".join(name.replace('"', "").replace("`", "") for name in naming)
