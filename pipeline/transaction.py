"""Transactions that are run again: those that the database broke off since they waited for each other, and those whose
connection was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from datajoint.errors import LostConnectionError

DEADLOCK_TRIES = 10
CONNECTION_TRIES = 5
T = TypeVar("T")


def untangled(transact: Callable[[], T]) -> T:
    """Run a transaction again that the database broke off to resolve a deadlock; what it did was undone."""
    for _ in range(DEADLOCK_TRIES - 1):
        try:
            return transact()
        except Exception as error:
            if not is_deadlock(error):
                raise
    return transact()


def undisturbed(connection: Any, transact: Callable[[], T]) -> T:
    """Run a transaction that does no harm a second time; again where a deadlock or a lost connection undid it."""
    for _ in range(CONNECTION_TRIES - 1):
        try:
            return untangled(transact)
        except LostConnectionError:
            if not connection.is_open:  # it was tried for long enough
                raise
    return untangled(transact)


def is_deadlock(error: BaseException) -> bool:
    """Whether the database chose this transaction as the victim of a deadlock (SQLSTATE class 40; MySQL 1205, 1213)."""
    code = getattr(error, "pgcode", None) or (error.args[0] if error.args else None)
    return code in ("40001", "40P01", 1205, 1213)
