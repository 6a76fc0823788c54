"""States of tasks, short keys and the queue, on both backends."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest

from pipeline import task_queue, task_states
from pipeline.queue import enqueue
from pipeline.short_keys import full_key
from pipeline.task_states import TASK_KEY, State
from schemas.model_config import ModelConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask
from tests.integration.digits_tasks import insert_tasks, train, training

GONE = 2**22 + 1  # no process has it: pid_max is at most 2**22 (proc(5))


def reserve(key: str, **holder: Any) -> None:
    """Let a worker hold a task."""
    enqueue(TrainingResult(), ({TASK_KEY: key},))
    jobs = TrainingResult().jobs
    assert jobs.reserve({TASK_KEY: key})
    if holder:
        jobs.update1({TASK_KEY: key, **holder})


def states() -> dict[str, str]:
    return {row["task"]: row["state"] for row in task_states.rows()}


def test_every_state_is_told(session: Any) -> None:
    keys = [key[TASK_KEY] for key in insert_tasks(session, training(), seeds=range(5))]
    train({TASK_KEY: keys[0]})
    task_queue.cancel([keys[1]])
    reserve(keys[2])
    enqueue(TrainingResult(), ({TASK_KEY: keys[3]},))
    TrainingResult().jobs.error({TASK_KEY: keys[3]}, error_message="it went wrong")
    expected = [State.FINISHED, State.IGNORE, State.RESERVED, State.ERROR, State.PENDING]
    assert states() == dict(zip(keys, expected, strict=True))
    assert task_states.count() == dict.fromkeys(State, 1)
    assert task_states.count(TrainingTask() & "seed < 2")[State.PENDING] == 0

    failed = task_states.rows(state=State.ERROR)
    assert [(row["task"], row["message"]) for row in failed] == [(keys[3], "it went wrong")]
    held = task_states.rows(TrainingTask() & "seed > 0", state=State.RESERVED)
    assert [(row["host"], row["pid"]) for row in held] == [(platform.node(), os.getpid())]
    assert [row["test_score"] is not None for row in task_states.rows(state=State.FINISHED)] == [True]
    assert len(task_states.rows(limit=2)) == 2


def test_nothing_is_cancelled_if_one_cannot_be(session: Any) -> None:
    keys = [key[TASK_KEY] for key in insert_tasks(session, training(), seeds=range(2))]
    reserve(keys[1])
    with pytest.raises(task_queue.TaskInUse, match="is being trained by process"):
        task_queue.cancel(keys)
    assert states() == {keys[0]: State.PENDING, keys[1]: State.RESERVED}


def test_a_task_is_taken_from_a_worker_only_if_that_has_gone(session: Any) -> None:
    keys = [key[TASK_KEY] for key in insert_tasks(session, training(), seeds=range(3))]
    reserve(keys[0])
    reserve(keys[1], pid=GONE)
    reserve(keys[2], host="elsewhere", pid=GONE)
    for key in (keys[0], keys[2]):
        with pytest.raises(task_queue.TaskInUse, match="--force"):
            task_queue.check_retrain([key])
        assert task_queue.check_retrain([key], force=True) == []
    task_queue.requeue_broken(keys)
    assert states() == {keys[0]: State.RESERVED, keys[1]: State.PENDING, keys[2]: State.RESERVED}


def test_training_again_deletes_the_result_with_its_parts(session: Any) -> None:
    (key,) = insert_tasks(session, training())
    train()
    assert task_queue.check_retrain([key[TASK_KEY]]) == [key[TASK_KEY]]
    task_queue.retrain([key[TASK_KEY]])
    parts = (TrainingResult, TrainingResult.Metric, TrainingResult.Artifact, TrainingResult.Provenance)
    assert [len(table()) for table in parts] == [0, 0, 0, 0]
    assert states() == {key[TASK_KEY]: State.PENDING}
    train()
    assert states() == {key[TASK_KEY]: State.FINISHED}


def test_short_keys_name_rows(session: Any) -> None:
    (task,) = insert_tasks(session, training())
    model = ModelConfig().fetch1("model_config_md5_hash")
    assert full_key(TrainingTask, task[TASK_KEY][:8]) == task[TASK_KEY]
    assert full_key(ModelConfig, model[:4].upper()) == full_key(ModelConfig, model) == model
