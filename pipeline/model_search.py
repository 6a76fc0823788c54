"""Models found by metric, time, column and restriction, each question in one SQL statement."""

from __future__ import annotations

import difflib
import functools
import operator
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import datajoint as dj
from datajoint.condition import make_condition
from datajoint.errors import DataJointError, LostConnectionError
from datajoint.expression import QueryExpression

from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.stored_model import StoredModel
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from .connection import first_line
from .errors import PipelineError

TIME = "time"
NEWEST = ((TIME, -1),)
BEST, ASCENDING, DESCENDING = 0, 1, -1
"""Directions of a sort; the first is ascending for a column."""
STORED_METRIC = re.compile(r"[A-Za-z0-9_@+-]+")  # names that can stand in a path into json as they are
EQUALITY = re.compile(r"\s*([a-z]\w*(?:\.\w+)*)\s*=\s*([^\s'\"=(][^'\"=()]*?)\s*")


class SearchError(PipelineError, ValueError):
    """Models were asked for in a way that cannot be answered."""


class NoModel(SearchError):
    """No model is what was asked for."""


@dataclass(frozen=True)
class Term:
    """One part of an order.

    Attributes
    ----------
    value : SQL of what is sorted by.
    ranked : SQL that is the smaller the better.
    join, values : the table that they need, and the values of its condition.
    nullable : whether there may be no value.
    """

    value: str
    ranked: str
    join: str = ""
    values: tuple[str, ...] = ()
    nullable: bool = True

    def order(self, direction: int) -> str:
        """SQL that puts what has no value last."""
        sorted_by = self.ranked if direction == BEST else f"{self.value}{' DESC' if direction == DESCENDING else ''}"
        return f"{self.value} IS NULL, {sorted_by}" if self.nullable else sorted_by


def find(table: Any, where: Any = True, sort: Any = None, limit: int | None = None) -> list[dict[str, str]]:
    """Keys of a table's models in the order asked for; see `TrainingResult.find`.

    Raises
    ------
    SearchError
        If the restriction is refused, or no model at all has what is sorted by.
    """
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise SearchError(f"limit is the number of models to find, at least 1, not {limit!r}")
    search = _search(table)
    orders = _orders(NEWEST if sort is None else sort)
    rows = search.rows(where, orders, limit)
    if rows and len(rows[0]) > 1:
        values = list(zip(*rows, strict=True))[1:]
        search.check_metrics(orders, [any(value is not None for value in column) for column in values])
    return [{search.key: row[0]} for row in rows]


def best(table: Any, metric: str, where: Any = True) -> dict[str, str]:
    """The key of the best model by a metric; see `TrainingResult.best`.

    Raises
    ------
    NoModel
        If none that fulfils the restriction has a value of it.
    """
    search = _search(table)
    rows = search.best(where, metric)
    if not rows:
        if not search.columns_of(metric):
            search.check_metrics([(metric, BEST)], [False])
        raise NoModel(f"no model that was asked for has a value of {metric}; widen the restriction")
    return {search.key: rows[0][0]}


def newest(table: Any, where: Any = True) -> dict[str, str]:
    """The key of the newest model; `NoModel` if there is none."""
    found = find(table, where, limit=1)
    if not found:
        raise NoModel("there is no model that was asked for; widen the restriction, or train or put one first")
    return found[0]


def _orders(sort: Any) -> list[tuple[str, int]]:
    """The sort as pairs of a name and a direction."""
    parts = [sort] if isinstance(sort, str) else sort
    if not isinstance(parts, Sequence) or not parts:
        raise SearchError(f"sort is a name such as 'accuracy' or '-time', or a list of (name, 1 or -1), not {sort!r}")
    return [_order(part) for part in parts]


def _order(part: Any) -> tuple[str, int]:
    if isinstance(part, str) and part.strip("-"):
        return (part[1:], DESCENDING) if part.startswith("-") else (part, BEST)
    if isinstance(part, Sequence) and len(part) == 2:
        name, direction = part
        if isinstance(name, str) and direction in (ASCENDING, DESCENDING):
            return name, int(direction)
    raise SearchError(f"sort has {part!r}; give a name such as 'accuracy' or '-time', or a pair (name, 1 or -1)")


class _Search:
    """What the searches of both kinds of models have in common."""

    key: str
    time: str
    tables: tuple[Any, ...]

    def __init__(self, table: Any) -> None:
        self.table = table
        self.connection = table.connection
        self._quote = table.connection.adapter.quote_identifier

    def rows(self, where: Any, orders: Sequence[tuple[str, int]], limit: int | None) -> list[tuple[Any, ...]]:
        """The key of each model and the metrics that they are sorted by."""
        terms = [self.term(name, f"m{number}") for number, (name, _) in enumerate(orders)]
        source = self._source(where, {column for name, _ in orders for column in self.columns_of(name)})
        joins = "".join(f" LEFT JOIN {term.join}" for term in terms if term.join)
        order = ", ".join(term.order(direction) for term, (_, direction) in zip(terms, orders, strict=True))
        metrics = [term.value for term, (name, _) in zip(terms, orders, strict=True) if not self.columns_of(name)]
        key = f"t.{self._quote(self.key)}"
        return self._run(
            f"SELECT {', '.join([key, *metrics])} FROM ({source}) AS t{joins} ORDER BY {order}, {key}"
            + (f" LIMIT {limit}" if limit is not None else ""),
            tuple(value for term in terms for value in term.values),
            where,
        )

    def best(self, where: Any, name: str) -> list[tuple[Any, ...]]:
        """The key of the best of the models that have a value, if there are any."""
        term = self.term(name, "m")
        source = self._source(where, self.columns_of(name))
        return self._best(f"({source}) AS t{f' LEFT JOIN {term.join}' if term.join else ''}", term, where)

    def _best(self, source: str, term: Term, where: Any) -> list[tuple[Any, ...]]:
        key = f"t.{self._quote(self.key)}"
        return self._run(
            f"SELECT {key} FROM {source} WHERE {term.value} IS NOT NULL ORDER BY {term.ranked}, {key} LIMIT 1",
            term.values,
            where,
        )

    def _run(self, statement: str, values: tuple[str, ...], where: Any) -> list[tuple[Any, ...]]:
        try:
            rows: list[tuple[Any, ...]] = list(self.connection.query(statement, args=values).fetchall())
        except LostConnectionError:
            raise
        except Exception as error:  # what is raised for a condition that the server refuses depends on the backend
            raise SearchError(f"models cannot be searched with {_named(where)}: {first_line(error)}") from error
        return rows

    def _source(self, where: Any, columns: Iterable[str], base: Any = None, others: Sequence[Any] | None = None) -> str:
        """SELECT of the key and columns of the models that fulfil a restriction, joined no further than these need.

        `base` holds a row for each model, by default the table itself; what more there is of a model is in `others`.
        """
        base = self.table if base is None else base
        others = [other() for other in self.tables] if others is None else others
        wanted = sorted({*columns} - {self.key})
        needed = {*wanted}
        try:
            full = functools.reduce(operator.mul, others, base)
            condition = _prepared(where, full.heading.names)
            make_condition(full, condition, needed)
            needed -= {*base.heading.names}
            joined = [other for other in others if other.restriction or needed & {*other.heading.names}]
            chosen = functools.reduce(operator.mul, joined, base) & condition
        except DataJointError as error:
            raise SearchError(f"models cannot be searched with {_named(where)}: {first_line(error)}") from error
        return str(chosen.proj(*wanted).make_sql())

    def columns_of(self, name: str) -> tuple[str, ...]:
        """The columns that a name to sort by is made of."""
        raise NotImplementedError

    def term(self, name: str, alias: str) -> Term:
        """SQL of a name to sort by."""
        raise NotImplementedError

    def metrics(self) -> list[str]:
        """The names of all metrics there are."""
        raise NotImplementedError

    def column(self, name: str) -> Term:
        """A column of the source."""
        value = f"t.{self._quote(name)}"
        return Term(value, value, nullable=self.all_columns()[name])

    def all_columns(self) -> dict[str, bool]:
        """Columns that may be sorted by, and whether each may be NULL."""
        headings = [self.table.heading, *(other().heading for other in self.tables)]
        return {
            name: heading[name].nullable for heading in headings for name in heading.names if not heading[name].json
        }

    def check_metrics(self, orders: Sequence[tuple[str, int]], valued: Sequence[bool]) -> None:
        """Raise if a metric of which no value was found is none that any model has; `valued` tells it of each metric
        among the orders."""
        metrics = [name for name, _ in orders if not self.columns_of(name)]
        for name, is_known in zip(metrics, valued, strict=True):
            if is_known:
                continue
            known = self.metrics()
            if name not in known:
                close = difflib.get_close_matches(name, [*known, TIME, *self.all_columns()], 1)
                hint = f"did you mean {close[0]}?" if close else f"the metrics are {', '.join(known) or 'none yet'}"
                raise NoModel(f"no model has the metric or column {name!r}; {hint}")


class _Results(_Search):
    """Finished tasks; their metrics are rows."""

    key = "training_task_md5_hash"
    time = "utc_insert_time"
    tables = (TrainingTask, DatasetConfig, ModelConfig, TrainingConfig)
    selection = "trainer_class_params"

    def columns_of(self, name: str) -> tuple[str, ...]:
        if name == "test_score":
            return name, self.selection
        column = self.time if name == TIME else name
        return (column,) if column in self.all_columns() else ()

    def term(self, name: str, alias: str) -> Term:
        if name == "test_score":
            return self._score(alias)
        columns = self.columns_of(name)
        if columns:
            return self.column(columns[0])
        return _by_direction(f"{alias}.metric_value", alias, self._metric(alias, "%s"), (name,))

    def best(self, where: Any, name: str) -> list[tuple[Any, ...]]:
        if self.columns_of(name):
            return super().best(where, name)
        # A metric's rows name their results: where nothing is asked of these, they need not be read.
        metric = TrainingResult.Metric() & {"metric_name": name}
        others = [self.table, *(other() for other in self.tables)]
        source = self._source(where, ("metric_value", "metric_direction"), metric, others)
        return self._best(f"({source}) AS t", _by_direction("t.metric_value", "t"), where)

    def _score(self, alias: str) -> Term:
        """A test score has the direction of what its trainer selected the best model by: the loss, where it says
        nothing else."""
        value = f"t.{self._quote('test_score')}"
        path = self.connection.adapter.json_path_expr(self.selection, "selection")
        return _by_direction(value, alias, self._metric(alias, f"COALESCE({path}, 'loss')"))

    def _metric(self, alias: str, name: str) -> str:
        key = self._quote(self.key)
        table = TrainingResult.Metric().full_table_name
        return f"{table} AS {alias} ON {alias}.{key} = t.{key} AND {alias}.metric_name = {name}"

    def metrics(self) -> list[str]:
        found = (dj.U("metric_name") & TrainingResult.Metric()).to_dicts(order_by="metric_name")
        return [row["metric_name"] for row in found]


class _Stored(_Search):
    """Models stored by hand; their metrics are a json column."""

    key = "stored_model_md5_hash"
    time = "stored_model_time"
    tables = ()
    values = "stored_model_metrics"

    def columns_of(self, name: str) -> tuple[str, ...]:
        for column in (self.time if name == TIME else name, f"stored_model_{name}"):
            if column in self.all_columns():
                return (column,)
        return ()

    def term(self, name: str, alias: str) -> Term:
        columns = self.columns_of(name)
        if columns:
            return self.column(columns[0])
        if not STORED_METRIC.fullmatch(name):
            raise NoModel(f"no model has the metric or column {name!r}")
        value, best_is = self._number(name), self._text(name, "direction")
        return Term(value, f"CASE WHEN {best_is} = 'max' THEN -({value}) ELSE {value} END")

    def _text(self, name: str, part: str) -> str:
        column = f"t.{self._quote(self.values)}"
        if self.connection.adapter.backend == "postgresql":
            return f"jsonb_extract_path_text({column}, '{name}', '{part}')"
        return f"JSON_VALUE({column}, '$.\"{name}\".{part}')"

    def _number(self, name: str) -> str:
        kind = "DOUBLE PRECISION" if self.connection.adapter.backend == "postgresql" else "DOUBLE"
        return f"CAST({self._text(name, 'value')} AS {kind})"

    def metrics(self) -> list[str]:
        return sorted({name for row in StoredModel().proj(self.values).to_dicts() for name in row[self.values]})

    def _source(self, where: Any, columns: Iterable[str], base: Any = None, others: Sequence[Any] | None = None) -> str:
        return super()._source(where, {*columns, self.values}, base, others)


def _by_direction(value: str, alias: str, join: str = "", values: tuple[str, ...] = ()) -> Term:
    """A value of which the table called `alias` says which way is better."""
    return Term(value, f"CASE WHEN {alias}.metric_direction = 'max' THEN -{value} ELSE {value} END", join, values)


def _search(table: Any) -> _Search:
    return _Stored(table) if isinstance(table, StoredModel) else _Results(table)


def _prepared(where: Any, names: Collection[str]) -> Any:
    """A restriction as DataJoint takes it; ``"column=value"`` needs no quotes, and tables restrict by their key, since
    json columns cannot be compared."""
    if isinstance(where, dj.AndList):
        return dj.AndList([_prepared(part, names) for part in where])
    if isinstance(where, list | tuple | set):
        return [_prepared(part, names) for part in where]
    if isinstance(where, type) and issubclass(where, QueryExpression):
        where = where()
    if isinstance(where, QueryExpression):
        return where.proj()
    match = EQUALITY.fullmatch(where) if isinstance(where, str) else None
    # DataJoint ignores what it does not know in a dict, but refuses it in text.
    return {match[1]: match[2]} if match and match[1].partition(".")[0] in names else where


def _named(where: Any) -> str:
    return repr(where) if isinstance(where, str | dict) else f"a restriction of type {type(where).__name__}"
