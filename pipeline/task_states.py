"""Where every task stands, read in one statement."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from schemas.attempt import Attempt
from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask
from schemas.warm_start import WarmStart

from .queue import job_table


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
STATE = (
    f"CASE WHEN r.{TASK_KEY} IS NOT NULL THEN '{State.FINISHED}' "
    f"WHEN j.status = 'reserved' THEN '{State.RUNNING}' "
    f"WHEN j.status = 'error' THEN '{State.ERROR}' "
    f"WHEN j.status = 'ignore' THEN '{State.CANCELLED}' "
    f"WHEN w.{TASK_KEY} IS NOT NULL AND s.{TASK_KEY} IS NULL THEN '{State.WAITING}' "
    f"WHEN j.scheduled_time > {NOW} THEN '{State.RETRY}' "
    f"ELSE '{State.PENDING}' END"
)
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
    found = dict(_query(f"SELECT {STATE}, COUNT(*) {_source(tasks)} GROUP BY 1").fetchall())
    return {state.value: int(found.get(state.value, 0)) for state in State}


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
    attempts, message = _attempts()
    columns = {**COLUMNS, "attempts": attempts, "message": message}
    listed = ", ".join(f"'{State(state).value}'" for state in states)
    restriction = f" WHERE {STATE} IN ({listed})" if states else ""
    limited = f" LIMIT {int(limit)}" if limit is not None else ""
    configs = " ".join(
        f"JOIN {table().full_table_name} AS {alias} ON {alias}.{table.key_column} = t.{table.key_column}"
        for alias, table in CONFIGS
    )
    found = _query(
        f"SELECT {', '.join(columns.values())} {_source(tasks)} {configs}{restriction} "
        f"ORDER BY t.training_task_time DESC, t.{TASK_KEY}{limited}"
    )
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]


def _attempts() -> tuple[str, str]:
    """How often a task was tried and its last error: looked up by an index for the rows that are read alone."""
    theirs = (
        f"FROM {Attempt().full_table_name} AS a WHERE a.attempt_key = t.{TASK_KEY} "
        f"AND a.attempt_table = '{TrainingResult().table_name}'"
    )
    last = f"SELECT a.attempt_error {theirs} AND a.attempt_error <> '' ORDER BY a.attempt_start DESC LIMIT 1"
    return f"(SELECT COUNT(*) {theirs})", f"COALESCE(({last}), j.error_message)"


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
