"""Prediction tasks that somebody asks for one at a time: what they are of, made here, or waited for."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from schemas.dataset_config import DatasetConfig
from schemas.prediction import Prediction
from schemas.prediction_task import CONFIG, KEY, STORED, TASK, PredictionTask
from schemas.stored_dataset import StoredDataset
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from . import prediction_states, task_states
from .dataset_store import DatasetMissing
from .errors import PipelineError
from .prediction_pass import Progress
from .short_keys import AmbiguousKey, UnknownKey, full_key, shown
from .task_states import State

KEY_LIKE = re.compile(r"[0-9a-fA-F]{4,32}")
OVER = (State.FINISHED, State.ERROR, State.CANCELLED)


class NotPredicted(PipelineError):
    """A prediction did not come about."""


def data_named(typed: str) -> dict[str, str]:
    """The key of the data that somebody typed: a key of a dataset configuration or of a stored dataset, or its
    beginning; else the name of a stored dataset, the newest of that name, or ``name@version``.

    Raises
    ------
    DatasetMissing
        If there is none.
    pipeline.short_keys.AmbiguousKey
        If several have a key that begins so.
    """
    found = []
    if KEY_LIKE.fullmatch(typed.strip()):
        for column, table in ((CONFIG, DatasetConfig), (STORED, StoredDataset)):
            try:
                found.append({column: full_key(table, typed)})
            except AmbiguousKey:
                raise
            except UnknownKey:
                continue
    if len(found) > 1:
        raise AmbiguousKey(
            f"a dataset configuration and a stored dataset have keys that begin with {typed}; give more characters"
        )
    if found:
        return found[0]
    name, at, version = typed.partition("@")
    named: Any = StoredDataset() & {"stored_dataset_name": name}
    if at:
        named &= {"stored_dataset_version": version}
    rows = named.proj().to_dicts(order_by="stored_dataset_time DESC", limit=1)
    if not rows:
        raise DatasetMissing(
            f"there is no data {typed!r}: no dataset configuration or stored dataset has a key that begins so, and no "
            "stored dataset this name; `trainloom insert` prints the keys of configurations"
        )
    return dict(rows[0])


def check_trained(task: str) -> None:
    """Raise `NotPredicted` if a training task has no result."""
    if not TrainingResult() & {TASK: task}:
        raise NotPredicted(
            f"task {shown(task)} is not trained yet, and a prediction waits for that; `trainloom worker` does both, "
            "and --queue leaves it to one"
        )


def make_here(key: dict[str, str], progress: Progress | None = None) -> None:
    """Predict a task in this process.

    Raises
    ------
    NotPredicted
        If it cannot be: another worker holds it, it was cancelled or set aside, or its result was deleted.
    Exception
        What the prediction raised; it is tried again later.
    """
    table = Prediction()
    if key in table:
        return
    table.progress = progress
    table.populate(key, reserve_jobs=True, max_calls=1)
    if key not in table:
        raise NotPredicted(_why(key))


def wait(key: dict[str, str], poll_s: float) -> None:
    """Return when a worker has predicted a task.

    Raises
    ------
    NotPredicted
        If it or its training is cancelled or set aside, or it is deleted.
    """
    while True:
        rows = prediction_states.rows(PredictionTask() & key)
        if not rows or rows[0]["state"] in OVER or _given_up(rows[0]):
            break
        time.sleep(poll_s)
    if not rows or rows[0]["state"] != State.FINISHED:
        raise NotPredicted(_why(key))


def _given_up(row: Mapping[str, Any]) -> str | None:
    """The state of the training that a task, by its row of `prediction_states.rows`, waits for, if nobody trains it any
    more."""
    if row["state"] != State.WAITING:
        return None
    states = [found["state"] for found in task_states.rows(TrainingTask() & {TASK: row["training"]})]
    return next((state for state in states if state in (State.ERROR, State.CANCELLED)), None)


def _why(key: dict[str, str]) -> str:
    """Why a task has no prediction, in a sentence."""
    rows = prediction_states.rows(PredictionTask() & key)
    task = f"prediction task {shown(key[KEY])}"
    if not rows:
        return f"{task} was deleted"
    row = rows[0]
    if row["state"] == State.RUNNING:
        return f"{task} is being predicted by process {row['pid']} on {row['host']}; --wait waits for that"
    if given_up := _given_up(row):
        training, how = shown(row["training"]), "cancelled" if given_up == State.CANCELLED else "set aside"
        return f"{task} waits for task {training}, which was {how}; `trainloom task retry {training}` puts that back"
    if row["state"] == State.CANCELLED:
        return f"{task} was cancelled; `trainloom task retry {shown(key[KEY])}` puts it back"
    if row["state"] == State.ERROR:
        return f"{task} was set aside: {row['message']}; `trainloom task retry {shown(key[KEY])}` puts it back"
    return f"{task} was not predicted ({row['state']}): {row['message'] or 'nothing is due now'}; try again"


def summary(key: dict[str, str]) -> dict[str, Any]:
    """What came of a task, or where it stands: ``key``, ``training``, ``model``, ``data``, ``tier``, ``state``,
    ``count``, ``shape``, ``score``, ``metrics`` by name and ``seconds``, None where it is not predicted."""
    (row,) = prediction_states.rows(PredictionTask() & key)
    found = (Prediction() & key).to_dicts()
    metrics = (Prediction.Metric() & key).to_dicts(order_by="metric_name")
    return {
        "key": key[KEY],
        "training": row["training"],
        "model": row["model_class"],
        "data": row["data"],
        "tier": row["tier"],
        "state": str(row["state"]),
        "count": row["count"],
        "shape": found[0]["prediction_shape"] if found else None,
        "score": row["score"],
        "metrics": {one["metric_name"]: one["metric_value"] for one in metrics},
        "seconds": found[0]["prediction_duration"] if found else None,
    }


def training_named(typed: str | None, metric: str | None, where: Any) -> str:
    """The key of the training task whose model is meant: typed, or of the best result by a metric, or of the newest."""
    if typed is not None:
        return full_key(TrainingTask, typed)
    chosen = TrainingResult().best(metric, where) if metric is not None else TrainingResult().newest(where)
    return chosen[TASK]
