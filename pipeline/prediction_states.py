"""Where every prediction task stands, read in one statement, and who makes one right now."""

from __future__ import annotations

from typing import Any

from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.prediction import Prediction
from schemas.prediction_task import KEY, PREDICTED, STORED, TASK, PredictionTask
from schemas.stored_dataset import StoredDataset
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from .holders import holders
from .job_table import job_table
from .task_states import State, attempts_sql, every_state, in_states, limited_to, state_sql

STATE = state_sql(KEY, f"s.{TASK} IS NULL")
NAMES = {
    "training": f"t.{TASK}",
    "model_class": "m.model_class_name",
    "data": "COALESCE(d.dataset_file_name, v.stored_dataset_name)",
    "tier": "t.prediction_tier",
}
COLUMNS = {
    "task": f"t.{KEY}",
    "state": STATE,
    **NAMES,
    "priority": "t.priority",
    "time": "t.prediction_task_time",
    "score": "r.prediction_score",
    "count": "r.example_count",
    "host": "j.host",
    "pid": "j.pid",
    "attempt": "j.version",
}


def count(tasks: Any = None) -> dict[str, int]:
    """Number of prediction tasks by state, every state named; `tasks` is a restricted `PredictionTask`, all by
    default."""
    return every_state(_query(f"SELECT {STATE}, COUNT(*) {_source(tasks)} GROUP BY 1").fetchall())


def rows(tasks: Any = None, *, states: tuple[State, ...] = (), limit: int | None = None) -> list[dict[str, Any]]:
    """Prediction tasks, the newest first, as dicts.

    ``task`` is the key and ``training`` that of the training task; ``model_class``, ``data`` (a file, or the name of a
    stored dataset) and ``tier`` names; ``priority``, ``time`` (UTC), ``state``, ``score``, ``count`` (of examples);
    ``attempts`` is how often it was tried, ``message`` the error of the last attempt that had one; ``host``, ``pid``
    and ``attempt`` are its job's, each None where there is none. `tasks` and `states` as in `task_states.rows`.
    """
    columns = {**COLUMNS, **attempts_sql(Prediction, KEY)}
    found = _query(
        f"SELECT {', '.join(columns.values())} {_source(tasks)} {_names()}{in_states(STATE, states)} "
        f"ORDER BY t.prediction_task_time DESC, t.{KEY}{limited_to(limit)}"
    )
    return [dict(zip(columns, values, strict=True)) for values in found.fetchall()]


def live_workers() -> list[dict[str, Any]]:
    """The holders of prediction tasks, as `holders` tells them, with the names that `rows` has."""
    return holders(PredictionTask(), Prediction(), KEY, NAMES, _names())


def _query(statement: str) -> Any:
    return PredictionTask().connection.query(statement)


def _source(tasks: Any) -> str:
    """Prediction tasks with their predictions and jobs, and with the results of their trainings."""
    chosen = PredictionTask() if tasks is None else tasks
    joined = (
        (Prediction().full_table_name, "r", KEY),
        (job_table(Prediction()).full_table_name, "j", KEY),
        (TrainingResult().full_table_name, "s", TASK),
    )
    joins = " ".join(f"LEFT JOIN {name} AS {alias} ON {alias}.{key} = t.{key}" for name, alias, key in joined)
    return f"FROM ({chosen.make_sql()}) AS t {joins}"


def _names() -> str:
    """What names the model and the data of a task `t`."""
    config, model = DatasetConfig.key_column, ModelConfig.key_column
    return (
        f"JOIN {TrainingTask().full_table_name} AS training ON training.{TASK} = t.{TASK} "
        f"JOIN {ModelConfig().full_table_name} AS m ON m.{model} = training.{model} "
        f"LEFT JOIN {DatasetConfig().full_table_name} AS d ON d.{config} = t.{PREDICTED} "
        f"LEFT JOIN {StoredDataset().full_table_name} AS v ON v.{STORED} = t.{STORED}"
    )
