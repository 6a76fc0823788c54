"""Which row a configuration is: the key of a new one, or the existing row that holds the same complete set of
parameters.

The key hashes the parameters that differ from their defaults (the *sparse* form). Where a default has changed since,
the row under that key holds other values; then the complete set is hashed instead (the *complete* form).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import DamagedRow
from .hashing import content_md5, md5_of_text, text_of
from .parameters import Bound

RecordedToday = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Identity:
    """One configuration, bound to the classes it names.

    Attributes
    ----------
    table : name that separates the keys of different tables.
    fields : keyed columns that are no parameters (file, class names, batch size, …), plain.
    bound : column of parameters to its bound parameters.
    """

    table: str
    fields: dict[str, Any]
    bound: dict[str, Bound]

    def hashed(self, form: str) -> dict[str, Any]:
        """What is hashed, as a plain value."""
        params = {column: bound.sparse if form == "sparse" else bound.complete for column, bound in self.bound.items()}
        return {"table": self.table, "form": form, "fields": self.fields, "params": params}

    def complete(self) -> dict[str, Any]:
        """Column of parameters to the complete set."""
        return {column: bound.complete for column, bound in self.bound.items()}

    def row(self, form: str) -> tuple[str, str]:
        """The key under the given form, and the text that a row stores beside it."""
        hashed = text_of(self.hashed(form))
        run = {column: bound.run for column, bound in self.bound.items() if bound.run}
        text = f'{{"complete":{text_of(self.complete())},"hashed":{hashed},"run":{text_of(run) if run else "{}"}}}'
        return md5_of_text(hashed), text


@dataclass(frozen=True)
class StoredText:
    """The text of a stored row, read back."""

    fields: dict[str, Any]
    sparse: dict[str, dict[str, Any]]
    complete: dict[str, dict[str, Any]]
    run: dict[str, dict[str, Any]]

    @classmethod
    def read(cls, key: str, text: str, table: str) -> StoredText:
        """Parse a row's text and verify that its key belongs to it.

        Raises
        ------
        DamagedRow
            If the text is not what the key was made of.
        """
        try:
            content = json.loads(text)
            hashed = content["hashed"]
            stored = cls(hashed["fields"], hashed["params"], content["complete"], content["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedRow(
                f"the text of {table} {key[:8]} cannot be read; delete the row and insert it again"
            ) from error
        if content_md5(hashed) != key or hashed.get("table") != table or not stored._consistent():
            raise DamagedRow(f"{table} {key[:8]} was changed after its insertion; delete the row and insert it again")
        return stored

    def _consistent(self) -> bool:
        """Every hashed parameter stands in the complete set with the same value."""
        return all(
            name in self.complete.get(column, {}) and text_of(self.complete[column][name]) == text_of(value)
            for column, params in self.sparse.items()
            for name, value in params.items()
        )


class Known:
    """The stored rows that name the same classes, indexed by what they mean today."""

    def __init__(self, table: str, texts: Mapping[str, str], recorded: RecordedToday) -> None:
        """`texts`: key to text of the stored rows; `recorded`: a column of parameters and a row's fields to
        today's defaults."""
        self._recorded = recorded
        self.rows = {key: StoredText.read(key, text, table) for key, text in texts.items()}
        self._by_content: dict[str, str] = {}
        for key, stored in self.rows.items():
            self._by_content.setdefault(self._content(stored.fields, stored.complete), key)

    def _content(self, fields: Mapping[str, Any], complete: Mapping[str, Mapping[str, Any]]) -> str:
        filled = {column: {**self._recorded(column, fields), **params} for column, params in complete.items()}
        return text_of([fields, filled])

    def find(self, identity: Identity) -> tuple[str, str, bool]:
        """The key of a configuration, the text to store with it, and whether a changed default made the
        complete form necessary."""
        sparse_key, sparse_text = identity.row("sparse")
        if not self.rows:
            return sparse_key, sparse_text, False
        same = self._by_content.get(self._content(identity.fields, identity.complete()))
        if same is not None:
            return same, sparse_text, False
        stored = self.rows.get(sparse_key)
        if stored is None or _agree(stored.complete, identity.complete()):
            return sparse_key, sparse_text, False
        complete_key, complete_text = identity.row("complete")
        return complete_key, complete_text, True


def _agree(stored: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether two complete sets hold equal values wherever both name a parameter (a class may have gained and lost
    some)."""
    return all(
        text_of(stored.get(column, {})[name]) == text_of(value)
        for column, params in current.items()
        for name, value in params.items()
        if name in stored.get(column, {})
    )


def missing_columns(row: Mapping[str, Any], required: Iterable[str]) -> list[str]:
    """Required columns that a row lacks, in their documented order."""
    return [column for column in required if column not in row]
