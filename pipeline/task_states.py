"""Where every task stands, read in one statement."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from .queue import job_table


class State(StrEnum):
    """The state of a task: that of its job in DataJoint's job table, or finished where there is a result."""

    PENDING = "pending"
    RESERVED = "reserved"
    ERROR = "error"
    IGNORE = "ignore"
    FINISHED = "finished"


TASK_KEY = "training_task_md5_hash"
# A task that nobody has put into the job table yet is pending as well; workers put it there.
JOB_STATES = (State.RESERVED, State.ERROR, State.IGNORE)
STATE = (
    f"CASE WHEN r.{TASK_KEY} IS NOT NULL THEN '{State.FINISHED}' "
    + " ".join(f"WHEN j.status = '{state}' THEN '{state}'" for state in JOB_STATES)
    + f" ELSE '{State.PENDING}' END"
)


def count(tasks: Any = None) -> dict[str, int]:
    """Number of tasks by state, every state named; `tasks` is a restricted `TrainingTask`, all of them by default."""
    found = dict(_query(f"SELECT {STATE}, COUNT(*) {_source(tasks)} GROUP BY 1").fetchall())
    return {state.value: int(found.get(state.value, 0)) for state in State}


def rows(tasks: Any = None, *, state: State | None = None, limit: int | None = None) -> list[dict[str, Any]]:
    """Tasks, the newest first, as dicts.

    ``task``, ``dataset``, ``model`` and ``training`` are keys; ``dataset_file``, ``model_class`` and
    ``optimizer_class`` names; ``seed``, ``priority``, ``time`` (UTC), ``state``; of the job, each None where there is
    none: ``message``, ``host``, ``pid``; ``test_score``.
    """
    columns = {
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
        "message": "j.error_message",
        "host": "j.host",
        "pid": "j.pid",
    }
    restriction = f" WHERE {STATE} = '{State(state).value}'" if state is not None else ""
    limited = f" LIMIT {int(limit)}" if limit is not None else ""
    found = _query(
        f"SELECT {', '.join(columns.values())} {_source(tasks)}{restriction} "
        f"ORDER BY t.training_task_time DESC, t.{TASK_KEY}{limited}"
    )
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]


def _query(statement: str) -> Any:
    return TrainingTask().connection.query(statement)


def _source(tasks: Any) -> str:
    """Tasks with their configurations, results and jobs."""
    chosen = TrainingTask() if tasks is None else tasks
    joins = " ".join(
        f"JOIN {table().full_table_name} AS {alias} ON {alias}.{table.key_column} = t.{table.key_column}"
        for alias, table in (("d", DatasetConfig), ("m", ModelConfig), ("c", TrainingConfig))
    )
    result = TrainingResult()
    optional = " ".join(
        f"LEFT JOIN {name} AS {alias} ON {alias}.{TASK_KEY} = t.{TASK_KEY}"
        for alias, name in (("r", result.full_table_name), ("j", job_table(result).full_table_name))
    )
    return f"FROM ({chosen.make_sql()}) AS t {joins} {optional}"
