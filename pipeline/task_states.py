"""Where every task stands, read in one statement."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Any

from schemas.attempt import Attempt
from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask
from schemas.warm_start import WarmStart

from .job_table import job_table


class State(StrEnum):
    """The state of a task."""

    PENDING = "pending"  # whoever comes takes it; workers put tasks into the job table that nobody has put there
    RETRY = "retry"  # it failed and is not due yet
    WAITING = "waiting"  # the task that it starts from has no result
    RUNNING = "running"
    ERROR = "error"  # set aside
    CANCELLED = "cancelled"
    FINISHED = "finished"


TASK_KEY = "training_task_md5_hash"
NOW = "CURRENT_TIMESTAMP(3)"


def state_sql(key: str, waiting: str = "") -> str:
    """SQL of the state of a task, whose result is `r` and whose job is `j`; `waiting` says when it waits for others."""
    waits = f"WHEN {waiting} THEN '{State.WAITING}' " if waiting else ""
    return (
        f"CASE WHEN r.{key} IS NOT NULL THEN '{State.FINISHED}' "
        f"WHEN j.status = 'reserved' THEN '{State.RUNNING}' "
        f"WHEN j.status = 'error' THEN '{State.ERROR}' "
        f"WHEN j.status = 'ignore' THEN '{State.CANCELLED}' "
        f"{waits}WHEN j.scheduled_time > {NOW} THEN '{State.RETRY}' "
        f"ELSE '{State.PENDING}' END"
    )


STATE = state_sql(TASK_KEY, f"w.{TASK_KEY} IS NOT NULL AND s.{TASK_KEY} IS NULL")
COLUMNS = {
    "task": f"t.{TASK_KEY}",
    "state": STATE,
    "dataset": "t.dataset_config_md5_hash",
    "model": "t.model_config_md5_hash",
    "training": "t.training_config_md5_hash",
    "dataset_file": "d.dataset_file_name",
    "model_class": "m.model_class_name",
    "optimizer_class": "c.optimizer_class_name",
    "seed": "t.seed",
    "priority": "t.priority",
    "time": "t.training_task_time",
    "test_score": "r.test_score",
    "host": "j.host",
    "pid": "j.pid",
    "attempt": "j.version",
}
CONFIGS = (("d", DatasetConfig), ("m", ModelConfig), ("c", TrainingConfig))


def count(tasks: Any = None) -> dict[str, int]:
    """Number of tasks by state, every state named; `tasks` is a restricted `TrainingTask`, all of them by default."""
    return every_state(_query(f"SELECT {STATE}, COUNT(*) {_source(tasks)} GROUP BY 1").fetchall())


def rows(tasks: Any = None, *, states: tuple[State, ...] = (), limit: int | None = None) -> list[dict[str, Any]]:
    """Tasks, the newest first, as dicts.

    ``task``, ``dataset``, ``model`` and ``training`` are keys; ``dataset_file``, ``model_class`` and
    ``optimizer_class`` names; ``seed``, ``priority``, ``time`` (UTC), ``state``, ``test_score``; ``attempts`` is how
    often it was tried, ``message`` the error of the last attempt that had one; ``host``, ``pid`` and ``attempt`` are
    its job's, each None where there is none.

    Parameters
    ----------
    tasks : a restricted `TrainingTask`, all of them by default.
    states : only tasks in one of these; empty for all.
    """
    columns = {**COLUMNS, **attempts_sql(TrainingResult, TASK_KEY)}
    configs = " ".join(
        f"JOIN {table().full_table_name} AS {alias} ON {alias}.{table.key_column} = t.{table.key_column}"
        for alias, table in CONFIGS
    )
    found = _query(
        f"SELECT {', '.join(columns.values())} {_source(tasks)} {configs}{in_states(STATE, states)} "
        f"ORDER BY t.training_task_time DESC, t.{TASK_KEY}{limited_to(limit)}"
    )
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]


def every_state(found: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Numbers by state, every state named."""
    numbers = dict(found)
    return {state.value: int(numbers.get(state.value, 0)) for state in State}


def in_states(state: str, states: tuple[State, ...]) -> str:
    """SQL that restricts to some states, where any are given; `state` is that of `state_sql`."""
    listed = ", ".join(f"'{State(chosen).value}'" for chosen in states)
    return f" WHERE {state} IN ({listed})" if states else ""


def limited_to(limit: int | None) -> str:
    """SQL that limits rows, where they are limited."""
    return f" LIMIT {int(limit)}" if limit is not None else ""


def seconds_between(since: datetime | None, now: datetime) -> float | None:
    """Seconds from a time that a row holds to the database's present one; None where there is none."""
    return None if since is None else max(0.0, (now.replace(tzinfo=None) - since).total_seconds())


def attempts_sql(results: Any, key: str) -> dict[str, str]:
    """SQL of how often a task `t` was tried, ``attempts``, and of its last error, ``message``: looked up by an index
    for the rows that are read alone."""
    theirs = (
        f"FROM {Attempt().full_table_name} AS a WHERE a.attempt_key = t.{key} "
        f"AND a.attempt_table = '{results().table_name}'"
    )
    last = f"SELECT a.attempt_error {theirs} AND a.attempt_error <> '' ORDER BY a.attempt_start DESC LIMIT 1"
    return {"attempts": f"(SELECT COUNT(*) {theirs})", "message": f"COALESCE(({last}), j.error_message)"}


def _query(statement: str) -> Any:
    return TrainingTask().connection.query(statement)


def _source(tasks: Any) -> str:
    """Tasks with their results and jobs, and with the results that they start from."""
    chosen = TrainingTask() if tasks is None else tasks
    result = TrainingResult().full_table_name
    joined = (
        (result, "r", f"r.{TASK_KEY} = t.{TASK_KEY}"),
        (job_table(TrainingResult()).full_table_name, "j", f"j.{TASK_KEY} = t.{TASK_KEY}"),
        (WarmStart().full_table_name, "w", f"w.{TASK_KEY} = t.{TASK_KEY}"),
        (result, "s", f"s.{TASK_KEY} = w.warm_start_task_md5_hash"),
    )
    joins = " ".join(f"LEFT JOIN {name} AS {alias} ON {condition}" for name, alias, condition in joined)
    return f"FROM ({chosen.make_sql()}) AS t {joins}"
