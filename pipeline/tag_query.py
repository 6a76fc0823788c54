"""Rows chosen and ordered as a document database does it: by the values of their columns and tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from schemas.hashing import plain

from .errors import PipelineError

Row = Mapping[str, Any]
Sort = Sequence[tuple[str, int]] | None


class InvalidQuery(PipelineError, ValueError):
    """A filter or an order is not one."""


def query(rows: Iterable[Row], value: Callable[[Row, str], Any], filters: Row, sort: Sort) -> list[Row]:
    """The rows whose values equal all filters, ordered.

    Parameters
    ----------
    value : looks a name up in a row; None where the row has none.
    sort : pairs of a name and 1 (ascending) or -1 (descending), the most important first; by default the newest first.
        Rows without a value come last, and among equal ones the rows stay in their order.
    """
    ordered = [row for row in rows if all(_equal(value(row, name), wanted) for name, wanted in filters.items())]
    for name, direction in reversed(_checked(sort)):
        known = [row for row in ordered if value(row, name) is not None]
        known.sort(key=lambda row: _comparable(value(row, name)), reverse=direction < 0)
        ordered = [*known, *(row for row in ordered if value(row, name) is None)]
    return ordered


def _checked(sort: Any) -> list[tuple[str, int]]:
    terms = [("time", -1)] if sort is None else list(sort)
    for term in terms:
        if not (isinstance(term, tuple | list) and len(term) == 2 and isinstance(term[0], str) and term[1] in (1, -1)):
            raise InvalidQuery(f"sort holds {term!r}; give pairs of a name and 1 or -1, such as [('time', -1)]")
    return [(name, direction) for name, direction in terms]


def _equal(value: Any, wanted: Any) -> bool:
    """Numbers are compared as numbers, since json may turn 1.0 into 1; True is none."""
    left, right = (
        plain(one, "filter") if not isinstance(one, datetime) else one.isoformat() for one in (value, wanted)
    )
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    return bool(left == right)


def _comparable(value: Any) -> tuple[int, Any]:
    """Tags may hold numbers in one row and text in the next."""
    if isinstance(value, bool | int | float):
        return 0, value
    return (1, value) if isinstance(value, str) else (2, str(value))
