"""Taking tasks, trainings, predictions and scripts, out of the queue, putting them back, and changing their order."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.attempt import Outcome
from schemas.checkpoint import Checkpoint
from schemas.prediction import Prediction
from schemas.training_result import TrainingResult

from .claim import Claim
from .errors import PipelineError
from .job_table import enqueue, job_table
from .live_workers import live_workers
from .queue import Queue
from .short_keys import shown
from .task_kind import KINDS, TRAININGS, TaskKind
from .task_states import State


class TaskInUse(PipelineError, ValueError):
    """A task is in a state in which this cannot be done with it."""


def cancel(keys: Iterable[str]) -> list[str]:
    """Take tasks out of the queue, all of them or none: their jobs become `ignore`.

    Returns those that a worker held: it learns it with the next heartbeat, stops at the next step, or ends the script,
    and writes nothing.

    Raises
    ------
    TaskInUse
        If a task is finished.
    """
    rows = _rows(keys)
    for row in rows:
        if row["state"] == State.FINISHED:
            raise TaskInUse(f"task {shown(row['task'])} is finished; there is nothing to cancel")
    for row in rows:
        kind: TaskKind = row["kind"]
        queue = Queue(kind.results())
        queue.jobs.ignore({kind.key: row["task"]})
        _end_attempt(queue, kind, row)
    return [row["task"] for row in rows if row["state"] == State.RUNNING]


def retry(keys: Iterable[str]) -> None:
    """Queue tasks again that failed or were cancelled, all of them or none; their attempts are counted anew. What
    waits already is due at once.

    Raises
    ------
    TaskInUse
        If a task is finished or held by a worker.
    """
    rows = _rows(keys)
    for row in rows:
        again = f"`trainloom task retrain` has it {row['kind'].participle} again"
        if row["state"] == State.FINISHED:
            raise TaskInUse(f"task {shown(row['task'])} is finished; {again}")
        if row["state"] == State.RUNNING:
            raise TaskInUse(f"task {shown(row['task'])} is being {row['kind'].participle} by {_holder(row)}")
    for row in rows:
        table, key = row["kind"].results(), {row["kind"].key: row["task"]}
        # A job made anew is one since whose creation nothing has failed; a worker may have taken it by now.
        (job_table(table) & key & "status <> 'reserved'").delete_quick()
        enqueue(table, (key,))


def prioritize(keys: Iterable[str], priority: int) -> None:
    """Change the priority of tasks, 0 to 127, lower first; one that runs goes on."""
    for row in _rows(keys):
        table, jobs, key = row["kind"].tasks(), job_table(row["kind"].results()), {row["kind"].key: row["task"]}
        with table.connection.transaction:
            table.update1({**key, "priority": priority})
            if jobs & key:
                jobs.update1({**key, "priority": priority})


def check_retrain(keys: Iterable[str], *, force: bool = False) -> list[str]:
    """Which of the tasks are finished, so that `retrain` would delete results.

    Raises
    ------
    TaskInUse
        If a worker holds one of the tasks, and `force` does not say that it may be stopped.
    """
    rows = _rows(keys)
    for row in rows:
        if row["state"] == State.RUNNING and not force:
            raise TaskInUse(
                f"task {shown(row['task'])} is being {row['kind'].participle} by {_holder(row)}; "
                "add --force to have that stopped"
            )
    return [row["task"] for row in rows if row["state"] == State.FINISHED]


def predictions_of(keys: Iterable[str]) -> int:
    """How many predictions were made with the results of tasks: they go when these are deleted."""
    made_with = [{"predicted_with_md5_hash": key} for key in keys]
    return len(Prediction() & made_with) if made_with else 0


def retrain(keys: Iterable[str]) -> None:
    """Delete results, their parts and what was predicted with them, forget errors, stop what runs, and queue the tasks
    again; call `check_retrain` first."""
    for row in _rows(keys):
        kind: TaskKind = row["kind"]
        queue = Queue(kind.results())
        restriction = {kind.key: row["task"]}
        (queue.jobs & restriction).delete_quick()
        _end_attempt(queue, kind, row)
        if kind is TRAININGS:
            (Checkpoint() & restriction).delete_quick()  # it begins anew
        (queue.table & restriction).delete(prompt=False)
        enqueue(queue.table, (restriction,))


def requeue_broken(keys: Iterable[str]) -> None:
    """Queue those of the trainings again that failed, and those whose worker died on this machine."""
    wanted = set(keys)
    queue = Queue(TrainingResult())
    for worker in live_workers():
        if worker["task"] in wanted and worker["worker"] is not None and _has_gone(worker):
            queue.take_back(worker["worker"], Outcome.LOST, f"{_holder(worker)} has gone")
    retry([row["task"] for row in _rows(wanted) if row["state"] in (State.ERROR, State.RETRY)])


def _end_attempt(queue: Queue, kind: TaskKind, row: Mapping[str, Any]) -> None:
    """End the attempt whose job was taken from it: its worker may be dead."""
    if row["state"] == State.RUNNING and row["attempt"]:
        queue.withdraw(Claim({kind.key: row["task"]}, row["attempt"]))


def _rows(keys: Iterable[str]) -> list[dict[str, Any]]:
    """Where tasks of any kind stand, each with its ``kind``; two kinds never have the same key."""
    wanted = list(dict.fromkeys(keys))
    found: dict[str, dict[str, Any]] = {}
    for kind in KINDS.values():
        left = [{kind.key: key} for key in wanted if key not in found]
        rows = kind.rows(kind.tasks() & left) if left else []
        found.update({row["task"]: {**row, "kind": kind} for row in rows})
    return [found[key] for key in wanted]


def _holder(row: Mapping[str, Any]) -> str:
    return f"process {row['pid']} on {row['host']}"


def _has_gone(worker: Mapping[str, Any]) -> bool:
    """Whether a worker was one of this machine and is none of its processes any more."""
    import psutil

    return bool(worker["host"] == platform.node()[:255] and not psutil.pid_exists(worker["pid"]))
