"""Questions to several queues at once, in one statement: who waits must not ask more often for having more queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Statement = tuple[str, tuple[Any, ...]]  # SQL and its values


def seconds_to_next(connection: Any, times: Sequence[Statement]) -> float | None:
    """Seconds until the first of several times by the database's clock, 0 for one that is over; None if all are NULL.

    Parameters
    ----------
    times : each selects one column ``due``; see `Queue.waiting`.
    """
    united = " UNION ALL ".join(text for text, _ in times)
    args = tuple(value for _, values in times for value in values)
    due, now = connection.query(f"SELECT MIN(due), CURRENT_TIMESTAMP(3) FROM ({united}) AS dues", args=args).fetchone()
    if due is None:
        return None
    return max(0.0, float((due - now.replace(tzinfo=None)).total_seconds()))


def found(connection: Any, searches: Sequence[Statement]) -> list[bool]:
    """Of each search whether it selects any row."""
    asked = ", ".join(f"EXISTS ({text})" for text, _ in searches)
    args = tuple(value for _, values in searches for value in values)
    return [bool(answer) for answer in connection.query(f"SELECT {asked}", args=args).fetchone()]
