"""What can be wrong with a row or with the way a table is used."""

from __future__ import annotations


class SchemaError(Exception):
    """A table cannot do what was asked."""


class InvalidRow(SchemaError, ValueError):
    """A row breaks a rule; the message names the column or parameter and says what to do."""


class InvalidValue(InvalidRow):
    """A value cannot be part of a key; the message holds its path inside the row."""


class DamagedRow(SchemaError):
    """A stored row no longer agrees with its own key."""


class NotConnected(SchemaError):
    """No session is open: call `from trainloom import connect; session = connect()` first."""

    def __init__(self, what: str = "This table") -> None:
        super().__init__(
            f"{what} needs an open session: call `from trainloom import connect; session = connect()` first"
        )
