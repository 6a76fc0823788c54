"""What an open session lends to datasets in MongoDB: the database, names in it, and room on the node."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from datasets_impl.contract import DatasetError


class ExamplesUnavailable(DatasetError, ConnectionError):
    """MongoDB does not answer, or not this user."""


class MongoAccess(Protocol):
    """Reaches one MongoDB database from any process; it can be pickled, and its text shows no secret.

    Attributes:
        name: names the database in messages.
        prefix: what the names of the project's own collections begin with.
        cache_folder, cache_bytes: where blocks of examples may be kept on this node, and how much of them.
        patience: seconds that a server may be away before reading ends with an error.
    """

    @property
    def name(self) -> str: ...

    @property
    def prefix(self) -> str: ...

    @property
    def cache_folder(self) -> Path: ...

    @property
    def cache_bytes(self) -> int: ...

    @property
    def patience(self) -> float: ...

    def database(self) -> Any:
        """Return the `pymongo` database of this process, whose client is made at the first call."""


_lent: MongoAccess | None = None
_reason = ""


def lend(access: MongoAccess | None, reason: str = "") -> None:
    """Let datasets of this process use a database, or take it back with None; `reason` says why there is none."""
    global _lent, _reason
    _lent, _reason = access, reason


def lent() -> MongoAccess | None:
    """Return what is lent, for a process that is to have the same."""
    return _lent


def borrow() -> MongoAccess:
    """Return what is lent.

    Raises:
        ExamplesUnavailable: nothing is.
    """
    if _lent is None:
        why = _reason or "no session is open: open one with trainloom.connect()"
        raise ExamplesUnavailable(f"datasets in MongoDB cannot be used: {why}.")
    return _lent
