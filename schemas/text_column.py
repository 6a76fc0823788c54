"""What a text column holds."""

from __future__ import annotations

from typing import Any

from .errors import InvalidRow
from .hashing import plain


def check_text(column: str, text: Any, length: int) -> None:
    """Refuse what a column of at most `length` characters cannot hold.

    Raises
    ------
    InvalidRow
        If it is no text or too long.
    InvalidValue
        If no database can store it.
    """
    if not isinstance(text, str) or len(text) > length:
        raise InvalidRow(f"{column} must be text of at most {length} characters, not {str(text)[:40]!r}")
    plain(text, column)
