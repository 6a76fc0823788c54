"""Taking tasks out of the queue and putting them back."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from . import task_states
from .errors import PipelineError
from .queue import enqueue, job_table
from .short_keys import shown
from .task_states import TASK_KEY, State


class TaskInUse(PipelineError, ValueError):
    """A task is in a state in which this cannot be done with it."""


def cancel(keys: Iterable[str]) -> None:
    """Take tasks out of the queue, all of them or none: their jobs become `ignore`.

    Raises
    ------
    TaskInUse
        If a task is finished or being trained.
    """
    rows = _rows(keys)
    for row in rows:
        if row["state"] == State.FINISHED:
            raise TaskInUse(f"task {shown(row['task'])} is finished; there is nothing to cancel")
        if row["state"] == State.RESERVED:
            raise TaskInUse(f"task {shown(row['task'])} is being trained by {_holder(row)}; stop that worker first")
    jobs = job_table(TrainingResult())
    for row in rows:
        jobs.ignore({TASK_KEY: row["task"]})


def check_retrain(keys: Iterable[str], *, force: bool = False) -> list[str]:
    """Which of the tasks are finished, so that `retrain` would delete results.

    Raises
    ------
    TaskInUse
        If a worker holds one of the tasks: one that lives, or one of another machine unless `force` says that it is
        dead.
    """
    rows = _rows(keys)
    for row in rows:
        if row["state"] == State.RESERVED and not (force or _is_lost(row)):
            raise TaskInUse(
                f"task {shown(row['task'])} is being trained by {_holder(row)}; stop that worker first, or, if it is "
                "dead, add --force"
            )
    return [row["task"] for row in rows if row["state"] == State.FINISHED]


def retrain(keys: Iterable[str]) -> None:
    """Delete results and their parts, forget errors, and queue the tasks again; call `check_retrain` first."""
    table = TrainingResult()
    for key in keys:
        restriction = {TASK_KEY: key}
        (job_table(table) & restriction).delete_quick()
        (table & restriction).delete(prompt=False)
        enqueue(table, (restriction,))


def requeue_broken(keys: Iterable[str]) -> None:
    """Queue those of the tasks again that failed or whose worker died on this machine."""
    rows = _rows(keys)
    retrain(
        [
            row["task"]
            for row in rows
            if row["state"] == State.ERROR or (row["state"] == State.RESERVED and _is_lost(row))
        ]
    )


def _rows(keys: Iterable[str]) -> list[dict[str, Any]]:
    return [task_states.rows(TrainingTask() & {TASK_KEY: key})[0] for key in keys]


def _holder(row: Mapping[str, Any]) -> str:
    return f"process {row['pid']} on {row['host']}"


def _is_lost(row: Mapping[str, Any]) -> bool:
    """Whether the worker that holds a task was one of this machine and has gone."""
    import psutil

    return bool(row["host"] == platform.node() and not psutil.pid_exists(row["pid"]))
