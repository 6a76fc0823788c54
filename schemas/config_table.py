"""Insertion of configuration rows: checked, keyed by content, in one statement."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from .binding import services
from .errors import InvalidRow
from .hashing import plain
from .identity import Identity, Known, StoredText, missing_columns
from .keys import Keys
from .parameters import Bound, bind
from .schema import Connected

logger = logging.getLogger("trainloom")

MAX_INT32 = 2**31 - 1
Row = TypeVar("Row")
Checked = TypeVar("Checked")


@dataclass(frozen=True)
class ClassSlot:
    """Three columns that name a class: ``<prefix>_module_name``, ``<prefix>_name`` and ``<prefix>_params``."""

    module: str
    name: str
    params: str
    kind: str
    optional: bool = False
    lenient: tuple[str, ...] = ()  # parameters that may be missing here; see `parameters.bind`


def class_slot(prefix: str, kind: str, *, optional: bool = False, lenient: tuple[str, ...] = ()) -> ClassSlot:
    """The slot ``<prefix>_class_module_name``, ``<prefix>_class_name``, ``<prefix>_class_params``; samplers drop
    the first ``_class``."""
    module = f"{prefix}_module_name" if kind == "sampler" else f"{prefix}_class_module_name"
    return ClassSlot(module, f"{prefix}_class_name", f"{prefix}_class_params", kind, optional, lenient)


class ConfigTable(Connected):
    """Mixin of the three configuration tables.

    Attributes
    ----------
    key_column, text_column : the md5 key, and a json column ``{"text": canonical text}``: inside json only text keeps
        every number.
    slots : the classes a row names.
    required : columns a row must have, in their documented order.
    defaults : values of columns a row may leave out.
    """

    full_table_name: str  # this and the next one from DataJoint
    primary_key: list[str]
    key_column: ClassVar[str]
    text_column: ClassVar[str]
    label: ClassVar[str]
    slots: ClassVar[tuple[ClassSlot, ...]]
    required: ClassVar[tuple[str, ...]]
    defaults: ClassVar[Mapping[str, Any]]

    def insert_tuples(self, tuples: Any) -> Keys:
        """Insert one dict, a list of dicts or a DataFrame; rows that are already there are left as they are.

        The caller's objects are not changed. Either every row is inserted or, on an error, none.

        Returns
        -------
        Keys
            The primary keys in the order given; ``.new`` lists those that were not there before.

        Raises
        ------
        InvalidRow
            With the row's number, what is wrong and what to do.
        """
        return self._insert_identities(self._identities(tuples))

    insert_tuple = insert_tuples

    def _identities(self, tuples: Any) -> Iterator[tuple[Identity, dict[str, Any]]]:
        """Each row checked: its identity and its computed columns."""
        for number, row in enumerate(rows_of(tuples)):
            try:
                complete = self._checked(row)
                extra = self._extra(complete)
                identity = self._identity(complete, extra)
            except InvalidRow as error:
                raise type(error)(f"{type(self).__name__} row {number}: {error}") from error
            yield identity, extra

    def _checked(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The row with defaults filled in, its columns checked."""
        columns = self._given_columns()
        if not row.keys() <= columns:
            unknown = next(column for column in row if column not in columns)
            raise InvalidRow(unknown_column(unknown, columns))
        if missing := missing_columns(row, self.required):
            raise InvalidRow(f"the column {missing[0]} is missing; give {', '.join(missing)}")
        params = self._params_columns()
        complete = {**self.defaults, **row}
        return {column: value if column in params else self._field(column, value) for column, value in complete.items()}

    @classmethod
    @functools.cache
    def _given_columns(cls) -> frozenset[str]:
        """The columns that a row to insert may have."""
        return frozenset((*cls.required, *cls.defaults))

    @classmethod
    @functools.cache
    def _params_columns(cls) -> frozenset[str]:
        """Those of them that hold parameters."""
        return frozenset(slot.params for slot in cls.slots)

    def _extra(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Columns that are computed rather than given; those named in `keyed_extra` become part of the key."""
        return {}

    keyed_extra: ClassVar[tuple[str, ...]] = ()

    def _identity(self, row: Mapping[str, Any], extra: Mapping[str, Any]) -> Identity:
        params = self._params_columns()
        fields = {column: extra[column] for column in self.keyed_extra}
        fields.update((column, value) for column, value in row.items() if column not in params)
        return Identity(self.label, fields, {slot.params: self._bind(slot, row) for slot in self.slots})

    def _field(self, column: str, value: Any) -> Any:
        """A keyed column that is no parameter: text of at most 255 characters unless a table says otherwise."""
        checked = plain(value, column)
        if not isinstance(checked, str):
            raise InvalidRow(f"{column} must be text, not {type(value).__name__}")
        if len(checked) > 255:
            raise InvalidRow(f"{column} has {len(checked)} characters; at most 255 fit")
        return checked

    def _bind(self, slot: ClassSlot, row: Mapping[str, Any]) -> Bound:
        module, name, params = row[slot.module], row[slot.name], row[slot.params]
        if slot.optional and not module and not name:
            if params:
                raise InvalidRow(
                    f"{slot.params} is given without {slot.name}; name the class or leave the parameters out"
                )
            return Bound({}, {}, {})
        resolver = services(type(self).__name__).resolver
        signature = resolver.signature(module, name, slot.kind)
        bound = bind(signature, params, slot.params, lenient=slot.lenient)
        validate = getattr(resolver.resolve(module, name, slot.kind), "validate_params", None)
        if validate is not None:
            self._validate(validate, bound, slot)
        return bound

    @staticmethod
    def _validate(validate: Any, bound: Bound, slot: ClassSlot) -> None:
        known = _parameters_of(validate)  # a subclass may add parameters that the inherited check knows not
        given = {name: value for name, value in {**bound.complete, **bound.run}.items() if name in known}
        try:
            validate(**given)
        except ValueError as error:
            raise InvalidRow(f"{slot.params}: {error}") from error

    def _insert_identities(self, identities: Iterable[tuple[Identity, dict[str, Any]]]) -> Keys:
        stored = self._stored()
        found: list[dict[str, str]] = []
        rows: dict[str, dict[str, Any]] = {}
        for identity, extra in identities:
            known = stored(identity)
            key, text, changed = known.find(identity)
            found.append({self.key_column: key})
            if key in known.rows:
                self._warn_about_run_parameters(key, known.rows[key], identity)
                continue
            if changed and key not in rows:
                logger.warning(
                    "%s %s: a default of its classes has changed since a row with the same parameters was inserted; "
                    "this configuration gets a key of its own",
                    type(self).__name__,
                    key[:8],
                )
            if key not in rows:
                rows[key] = self._row(key, text, identity, extra)
        if rows:
            self._write(list(rows.values()))
        return Keys(found, [{self.key_column: key} for key in rows])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        """Insert complete rows of the same columns in one statement; those that others have inserted meanwhile stay.

        DataJoint's own `insert` does the same and looks every column of every row up in a heading that it makes anew
        each time: for these rows, which are checked already, half of all the time.
        """
        heading, adapter = self.heading, self.connection.adapter
        names = list(rows[0])
        json_names = {name for name in names if heading[name].json}
        columns = ", ".join(adapter.quote_identifier(name) for name in names)
        placeholders = f"({', '.join(['%s'] * len(names))})"
        self.connection.query(
            f"INSERT INTO {self.full_table_name} ({columns}) VALUES {', '.join([placeholders] * len(rows))}"
            + adapter.skip_duplicates_clause(self.full_table_name, self.primary_key),
            args=[json.dumps(row[name]) if name in json_names else row[name] for row in rows for name in names],
        )

    def read(self, row: Mapping[str, Any]) -> StoredText:
        """The parameters of a fetched row, verified against its key; json columns alone may have lost number types."""
        return StoredText.read(row[self.key_column], row[self.text_column]["text"], self.label)

    def _row(self, key: str, text: str, identity: Identity, extra: Mapping[str, Any]) -> dict[str, Any]:
        params = {column: {**bound.complete, **bound.run} for column, bound in identity.bound.items()}
        return {self.key_column: key, **identity.fields, **params, **extra, self.text_column: {"text": text}}

    def _stored(self) -> Callable[[Identity], Known]:
        """Gives the stored rows that name the same main class as an identity; each class is asked for once."""
        main = self.slots[0]

        @functools.cache
        def of_class(module: str, name: str) -> Known:
            same = self & {main.module: module, main.name: name}  # type: ignore[operator]
            texts = {
                row[self.key_column]: row[self.text_column]["text"] for row in same.proj(self.text_column).to_dicts()
            }
            return Known(self.label, texts, self._recorded_today)

        return lambda identity: of_class(identity.fields[main.module], identity.fields[main.name])

    def _recorded_today(self, column: str, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        """The defaults that the class of a stored row has today; none where it cannot be found any more."""
        slot = next(slot for slot in self.slots if slot.params == column)
        module, name = fields[slot.module], fields[slot.name]
        if not module and not name:
            return {}
        try:
            return services(type(self).__name__).resolver.signature(module, name, slot.kind).recorded
        except InvalidRow:
            return {}

    @staticmethod
    def _warn_about_run_parameters(key: str, stored: StoredText, identity: Identity) -> None:
        run = {column: bound.run for column, bound in identity.bound.items() if bound.run}
        if run and run != stored.run:
            logger.warning(
                "the row %s is already there with other run parameters (%s); it keeps %s, since run parameters do not "
                "make a new row",
                key[:8],
                run,
                stored.run,
            )


@functools.lru_cache(maxsize=256)
def _parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)


def rows_of(tuples: Any) -> Iterator[Mapping[str, Any]]:
    """The rows of one dict, an iterable of dicts or a DataFrame.

    Raises
    ------
    InvalidRow
        If something else is given.
    """
    if isinstance(tuples, Mapping):
        yield tuples
        return
    if hasattr(tuples, "to_dict") and hasattr(tuples, "columns"):
        tuples = tuples.to_dict(orient="records")
    if isinstance(tuples, str | bytes) or not isinstance(tuples, Iterable):
        raise InvalidRow(f"rows are given as a dict, a list of dicts or a DataFrame, not as {type(tuples).__name__}")
    for number, row in enumerate(tuples):
        if not isinstance(row, Mapping):
            raise InvalidRow(f"row {number} is a {type(row).__name__}, not a dict of columns")
        yield row


def each_checked(label: str, rows: Iterable[Row], check: Callable[[Row], Checked]) -> list[Checked]:
    """What a check makes of every row; an error names the table, by its label, and the number of the row.

    Raises
    ------
    InvalidRow
        If the check does.
    """
    checked = []
    for number, row in enumerate(rows):
        try:
            checked.append(check(row))
        except InvalidRow as error:
            raise InvalidRow(f"{label} row {number}: {error}") from error
    return checked


def unknown_column(column: str, columns: Iterable[str]) -> str:
    """The sentence about a column that the table does not have."""
    close = difflib.get_close_matches(str(column), columns, 1)
    hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(sorted(columns))}"
    return f"there is no column {column!r}; {hint}"
