"""Finished results as rows: all that a task is made of and every metric, in one join; histories are never fetched."""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import datajoint as dj
from datajoint.errors import LostConnectionError
from datajoint.expression import QueryExpression

from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from .connection import first_line
from .errors import PipelineError

RESULT_COLUMNS = ("test_score", "model_save_path", "parameter_count", "epochs", "duration", "utc_insert_time")
# Short names for people, beside the tables' own. COALESCE of one value copies it on every backend.
ALIASES = {"task": "training_task_md5_hash", "dataset": "dataset_file_name", "model": "model_class_name"}
# Short texts, and the columns that they are made of.
SUMMARIES = {
    "training": ("optimizer_class_name", "optimizer_class_params", "batch_size", "epoch_limit"),
    "model_params": ("model_config_text",),
}
LEADERBOARD = (
    *("task", "dataset", "model", "model_params", "training", "seed", "test_score"),
    *("epochs", "duration", "parameter_count", "model_save_path", "utc_insert_time"),
)
NEWEST = "utc_insert_time"
SAFE_METRIC = re.compile(r"[A-Za-z0-9_.@+-]+")  # names that can stand in a statement as they are
EQUALITY = re.compile(r"\s*([A-Za-z_][\w@+-]*)((?:\.\w+)*)\s*=\s*([^\s'\"=].*?)\s*")


class ResultsError(PipelineError, ValueError):
    """Results were asked for in a way that cannot be answered."""


@dataclass(frozen=True)
class Results:
    """All finished results and their columns.

    Attributes
    ----------
    query : the join; its columns are those of `columns` and of `hidden`.
    columns : what may be shown, sorted and filtered by.
    directions : metric to ``"max"`` or ``"min"``, whichever most of its rows say.
    """

    query: Any
    columns: tuple[str, ...]
    directions: dict[str, str]

    @classmethod
    def all(cls) -> Results:
        """The results of the open session."""
        results = TrainingResult().proj(*RESULT_COLUMNS)
        # Results of older releases say nothing of what they cost.
        joined = results.join(TrainingResult.Usage(), left=True) * TrainingTask().proj(...)
        hidden = set()
        for table in (DatasetConfig(), ModelConfig(), TrainingConfig()):
            joined = joined * table.proj(...)
            hidden.add(table.text_column)
        joined = joined.proj(..., **{alias: f"coalesce({column})" for alias, column in ALIASES.items()})
        directions = _directions()
        taken = {*joined.heading.names, *SUMMARIES}
        metrics = {
            f"metric_{name}" if name in taken else name: name for name in directions if SAFE_METRIC.fullmatch(name)
        }
        if metrics:
            joined = joined * _pivot(metrics)
        shown = [*LEADERBOARD, *metrics, *joined.heading.names]
        columns = tuple(name for name in dict.fromkeys(shown) if name not in hidden)
        return cls(joined, columns, {column: directions[name] for column, name in metrics.items()})

    def check(self, column: str) -> None:
        """Raise `ResultsError` unless the column, or the json column before a dot, exists."""
        if column in self.columns or ("." in column and column.partition(".")[0] in self.columns):
            return
        close = difflib.get_close_matches(column, self.columns, 1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(self.columns)}"
        raise ResultsError(f"there is no column or metric {column!r}; {hint}")

    def condition(self, where: Any) -> Any:
        """A restriction as DataJoint takes it; ``"column=value"`` needs no quotes, other text is SQL."""
        if isinstance(where, dj.AndList):
            return dj.AndList([self.condition(part) for part in where])
        if isinstance(where, type) and issubclass(where, QueryExpression):
            where = where()
        if isinstance(where, QueryExpression):
            return where.proj()  # by its key: DataJoint refuses to compare json columns
        match = EQUALITY.fullmatch(where) if isinstance(where, str) else None
        if match is None:
            return where
        column, path, text = match.groups()
        if column not in self.query.heading.names:
            self.check(column)
            raise ResultsError(f"{column} cannot be filtered by; filter by {', '.join(SUMMARIES[column])}")
        source = ALIASES.get(column, column)
        if path or not (source in self.directions or self.query.heading[source].numeric):
            return {column + path: text}
        number = _number(text)
        return where if number is None else {column: number}

    def fetch(self, where: Any, columns: Iterable[str]) -> list[dict[str, Any]]:
        """The rows that fulfil a restriction, with the columns that the given ones are made of."""
        needed = {part for column in columns for part in SUMMARIES.get(column, (column.partition(".")[0],))}
        condition = self.condition(where)
        named = repr(where) if isinstance(where, str | Mapping) else f"of type {type(where).__name__}"
        try:
            rows: list[dict[str, Any]] = (self.query & condition).proj(*sorted(needed)).to_dicts()
        except LostConnectionError:
            raise
        except Exception as error:  # what is raised for a condition that the server refuses depends on the backend
            raise ResultsError(
                f"the filter {named} cannot be used: {first_line(error)}; "
                f"write column=value or an SQL condition on {', '.join(self.columns)}"
            ) from error
        return rows


def leaderboard(metric: str = "accuracy", limit: int | None = None, restriction: Any = True) -> list[dict[str, Any]]:
    """The results with the best first, by the metric's own direction; what has no value comes last.

    Parameters
    ----------
    metric : name of a recorded metric, or ``"test_score"``.
    limit : how many rows at most.
    restriction : a DataJoint restriction on the columns of `find_results`.

    Returns
    -------
    list of dict
        ``task`` (key), ``dataset`` (file), ``model`` (class), ``model_params`` (those that differ from their defaults),
        ``training``, ``seed``, the metric, ``test_score``, ``epochs``, ``duration`` (s), ``parameter_count``,
        ``model_save_path`` and ``utc_insert_time``.

    Raises
    ------
    ResultsError
        If there are results, and none of them has the metric.
    """
    columns = dict.fromkeys((*LEADERBOARD[:6], metric, *LEADERBOARD[6:]))
    return find_results(where=restriction, sort=metric, columns=tuple(columns), limit=limit)


def find_results(
    where: Any = True,
    sort: str | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    *,
    descending: bool | None = None,
) -> list[dict[str, Any]]:
    """Finished results, one dict each.

    Parameters
    ----------
    where : a DataJoint restriction, in which text such as ``"model=SimpleMLP"`` needs no quotes.
    sort : column or metric; newest first by default.
    columns : what to return; ``optimizer_class_params.lr`` reaches into a json column. By default those of
        `leaderboard` and every metric.
    limit : how many rows at most.
    descending : by default a metric's best comes first, and other columns ascend. Rows without a value come last either
        way.

    Raises
    ------
    ResultsError
        If a column does not exist or the database refuses the condition.
    """
    if limit is not None and limit < 1:
        raise ResultsError(f"limit is the number of results to return, at least 1, not {limit!r}")
    if not TrainingResult():
        return []  # which metrics there will be is not known yet
    results = Results.all()
    chosen = list(dict.fromkeys(columns)) if columns is not None else [*LEADERBOARD, *results.directions]
    key = sort or NEWEST
    for column in (*chosen, key):
        results.check(column)
    rows = results.fetch(where, [*chosen, key, *(("trainer_class_params",) if key == "test_score" else ())])
    if descending is None:
        descending = sort is None or _best_is_highest(results, key, rows)
    ordered = _sorted(rows, key, descending)
    return [{column: _value(row, column) for column in chosen} for row in ordered[:limit]]


def _directions() -> dict[str, str]:
    """Metric to the direction that most of its rows record."""
    counted = dj.U("metric_name", "metric_direction").aggr(TrainingResult.Metric(), count="count(*)").to_dicts()
    return {row["metric_name"]: row["metric_direction"] for row in sorted(counted, key=lambda row: row["count"])}


def _pivot(metrics: dict[str, str]) -> Any:
    """One row per result with a column for each metric (column to name)."""
    cases = {column: f"max(case when metric_name='{name}' then metric_value end)" for column, name in metrics.items()}
    return TrainingResult().proj().aggr(TrainingResult.Metric(), **cases)


def _best_is_highest(results: Results, key: str, rows: list[dict[str, Any]]) -> bool:
    """Whether the best value of a column is its highest.

    A test score has the direction of what its trainer selected the best model by: the loss, where it says nothing else.
    """
    if key != "test_score":
        return results.directions.get(key) == "max"
    selected = Counter(str(row["trainer_class_params"].get("selection", "loss")) for row in rows)
    return bool(selected) and results.directions.get(selected.most_common(1)[0][0]) == "max"


def _sorted(rows: list[dict[str, Any]], key: str, descending: bool) -> list[dict[str, Any]]:
    """By the column, rows without a value last, ties by task so that the order is always the same."""
    ordered = sorted(rows, key=lambda row: str(row["training_task_md5_hash"]))
    known = [row for row in ordered if _value(row, key) is not None]
    known.sort(key=lambda row: _comparable(_value(row, key)), reverse=descending)
    return [*known, *(row for row in ordered if _value(row, key) is None)]


def _comparable(value: Any) -> tuple[int, Any]:
    """json columns may hold numbers in one row and text in the next."""
    if isinstance(value, bool | int | float):
        return 0, value
    return (1, value) if isinstance(value, str) else (2, str(value))


def _value(row: dict[str, Any], column: str) -> Any:
    """A column of a fetched row; None where a path leads to nothing."""
    if column == "training":
        return training_summary(row)
    if column == "model_params":
        return model_summary(row["model_config_text"]["text"])
    if column in row:
        return row[column]
    name, *path = column.split(".")
    value = row[name]
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def training_summary(row: Mapping[str, Any]) -> str:
    """Such as ``Adam lr=0.001 batch=64 epochs=10``."""
    params = row["optimizer_class_params"]
    rate = [f"lr={params['lr']:g}"] if isinstance(params.get("lr"), int | float) else []
    return " ".join([row["optimizer_class_name"], *rate, f"batch={row['batch_size']}", f"epochs={row['epoch_limit']}"])


def given_params(text: str, column: str) -> dict[str, Any]:
    """The parameters of a row that differ from their defaults, from the text that its key was made of."""
    given: dict[str, Any] = json.loads(text)["hashed"]["params"][column]
    return given


def model_summary(text: str) -> str:
    """Such as ``dropout=0.2 hidden_size=64``: a model's parameters that differ from their defaults."""
    given = given_params(text, "model_class_params")
    return " ".join(f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in sorted(given.items()))


def _number(text: str) -> int | float | None:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return None
