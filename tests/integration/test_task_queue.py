"""States of tasks, who trains them, short keys and the queue, on both backends."""

from __future__ import annotations

import os
import platform
from typing import Any

import pytest

from pipeline import script_states, task_queue, task_states
from pipeline.claim import Claim, Worker
from pipeline.job_table import enqueue
from pipeline.live_workers import live_workers, seconds_left
from pipeline.queue import Queue
from pipeline.short_keys import AmbiguousKey, UnknownKey, full_key
from pipeline.task_kind import SCRIPTS, TRAININGS, named
from pipeline.task_states import TASK_KEY, State
from schemas.attempt import Attempt, Blame, Outcome
from schemas.model_config import ModelConfig
from schemas.script_result import ScriptResult
from schemas.script_task import KEY as SCRIPT_KEY
from schemas.script_task import ScriptTask
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask
from tests.integration.digits_tasks import insert_tasks, train, training

GONE = 2**22 + 1  # no process has it: pid_max is at most 2**22 (proc(5))


@pytest.fixture
def queue(session: Any) -> Queue:
    return Queue(TrainingResult(), Worker("a GPU", name="ours"))


@pytest.fixture
def scripts_allowed(backend: str, open_session: Any) -> Any:
    """An open session that runs scripts, on each backend."""
    return open_session(allow_scripts=True)


def claim(key: str, worker: Worker | None = None) -> Claim:
    """Let a worker hold a task."""
    enqueue(TrainingResult(), ({TASK_KEY: key},))
    claimed = Queue(TrainingResult(), worker).claim(keys=[key])
    assert claimed is not None
    return claimed


def fail(key: str, delay: float | None) -> None:
    """Let the training of a task fail; `delay` as in `Queue.release`."""
    held = claim(key)
    Queue(TrainingResult()).release(held, Outcome.FAILED, error="it went wrong", blame=Blame.TASK, delay=delay)


def states() -> dict[str, str]:
    return {row["task"]: row["state"] for row in task_states.rows()}


def outcomes() -> list[str]:
    return [row["attempt_outcome"] for row in Attempt().to_dicts(order_by="attempt_start")]


def insert(session: Any, count: int) -> list[str]:
    return [key[TASK_KEY] for key in insert_tasks(session, training(), seeds=range(count))]


def insert_successor(key: str) -> str:
    """A task that starts from the weights of another one."""
    row = (TrainingTask() & {TASK_KEY: key}).proj(..., "-priority", "-training_task_time", "-code_version").fetch1()
    del row[TASK_KEY]
    (successor,) = TrainingTask().insert_tuples({**row, "warm_start": key})
    return str(successor[TASK_KEY])


def test_every_state_is_told(session: Any) -> None:
    keys = insert(session, 6)
    keys.append(insert_successor(keys[5]))
    train({TASK_KEY: keys[0]})
    task_queue.cancel([keys[1]])
    claim(keys[2])
    fail(keys[3], delay=None)
    fail(keys[4], delay=1000)
    expected = [
        State.FINISHED,
        State.CANCELLED,
        State.RUNNING,
        State.ERROR,
        State.RETRY,
        State.PENDING,
        State.WAITING,
    ]
    assert states() == dict(zip(keys, expected, strict=True))
    assert task_states.count() == dict.fromkeys(State, 1)
    assert task_states.count(TrainingTask() & "seed < 5")[State.PENDING] == 0

    failed = {row["task"]: row for row in task_states.rows(states=(State.ERROR, State.RETRY))}
    assert {key: (row["attempts"], row["message"]) for key, row in failed.items()} == {
        keys[3]: (1, "it went wrong"),
        keys[4]: (1, "it went wrong"),
    }
    assert [row["test_score"] is not None for row in task_states.rows(states=(State.FINISHED,))] == [True]
    assert len(task_states.rows(limit=2)) == 2
    train({TASK_KEY: keys[5]})
    assert states()[keys[6]] == State.PENDING


def test_a_live_worker_is_shown_with_its_progress(session: Any, queue: Queue) -> None:
    (key,) = insert(session, 1)
    held = claim(key, queue.worker)
    assert [(row["host"], row["pid"]) for row in live_workers()] == [(platform.node(), os.getpid())]
    update = f"UPDATE {queue.full_names[1]} SET "
    later = "attempt_epoch = 1, attempt_step = 7, attempt_loss = 0.5, attempt_start = '2024-01-01'"
    session.connection.query(f"{update} {later} WHERE attempt_id = '{held.attempt}'")
    (row,) = live_workers()
    assert (row["task"], row["worker"], row["device"]) == (key, "ours", "a GPU")
    assert (row["epoch"], row["epoch_limit"], row["step"], row["loss"]) == (1, 1, 7, 0.5)
    assert row["seconds"] > 1e6 and row["seconds_left"] == 0
    assert 0 <= row["beat_seconds"] < 1e4
    queue.release(held, Outcome.PREEMPTED)
    assert live_workers() == []


@pytest.mark.parametrize(
    ("epoch", "begun", "left"), [(0, 0, None), (5, 0, 10.0), (5, 4, 50.0), (4, 4, None), (None, 0, None)]
)
def test_the_time_left_goes_by_the_epochs_of_this_attempt(epoch: int | None, begun: int, left: float | None) -> None:
    assert seconds_left(10.0, epoch, 10, begun) == left


@pytest.mark.feature("S4")
def test_a_cancelled_task_is_taken_from_its_worker(session: Any, queue: Queue) -> None:
    keys = insert(session, 3)
    held = claim(keys[1])
    assert task_queue.cancel(keys[:2]) == [keys[1]]
    assert states() == {keys[0]: State.CANCELLED, keys[1]: State.CANCELLED, keys[2]: State.PENDING}
    assert outcomes() == ["cancelled"]
    assert not queue.release(held, Outcome.PREEMPTED)
    assert queue.claim(keys=keys[:2]) is None

    train({TASK_KEY: keys[2]})
    task_queue.retry(keys[:1])
    with pytest.raises(task_queue.TaskInUse, match="is finished"):
        task_queue.cancel([keys[0], keys[2]])
    assert states()[keys[0]] == State.PENDING


@pytest.mark.parametrize("delay", [None, 1000.0])
def test_a_task_that_is_retried_is_due_and_its_attempts_count_anew(
    session: Any, queue: Queue, delay: float | None
) -> None:
    (key,) = insert(session, 1)
    fail(key, delay)
    assert len(queue.blamed(key)) == 1
    task_queue.retry([key])
    assert states() == {key: State.PENDING}
    assert queue.blamed(key) == []
    train()
    assert outcomes() == ["failed", "finished"]
    with pytest.raises(task_queue.TaskInUse, match="retrain"):
        task_queue.retry([key])


def test_a_task_that_runs_is_not_retried(session: Any) -> None:
    (key,) = insert(session, 1)
    claim(key)
    with pytest.raises(task_queue.TaskInUse, match=f"is being trained by process {os.getpid()}"):
        task_queue.retry([key])


def test_a_priority_changes_the_order_and_harms_no_training(session: Any, queue: Queue) -> None:
    keys = insert(session, 3)
    held = claim(keys[2], queue.worker)
    enqueue(TrainingResult())
    task_queue.prioritize([keys[2]], 9)
    task_queue.prioritize([keys[1]], 1)
    assert [(TrainingTask() & {TASK_KEY: key}).fetch1("priority") for key in keys] == [5, 1, 9]
    assert (queue.jobs & {TASK_KEY: keys[2]}).fetch1("status", "priority") == ("reserved", 9)
    assert queue.claim().key == {TASK_KEY: keys[1]}
    assert queue.release(held, Outcome.PREEMPTED)


def test_what_was_broken_is_queued_again(session: Any) -> None:
    keys = insert(session, 4)
    claim(keys[0])
    claim(keys[1], Worker(pid=GONE))
    claim(keys[2], Worker(host="elsewhere", pid=GONE))
    fail(keys[3], delay=None)
    task_queue.requeue_broken(keys)
    assert states() == {
        keys[0]: State.RUNNING,
        keys[1]: State.PENDING,
        keys[2]: State.RUNNING,
        keys[3]: State.PENDING,
    }


def test_training_again_deletes_the_result_with_its_parts(session: Any) -> None:
    (key,) = insert(session, 1)
    train()
    assert task_queue.check_retrain([key]) == [key]
    task_queue.retrain([key])
    parts = (TrainingResult, TrainingResult.Metric, TrainingResult.Artifact, TrainingResult.Provenance)
    assert [len(table()) for table in parts] == [0, 0, 0, 0]
    assert states() == {key: State.PENDING}
    train()
    assert states() == {key: State.FINISHED}


def test_training_again_stops_what_runs_only_if_told_to(session: Any, queue: Queue) -> None:
    (key,) = insert(session, 1)
    held = claim(key)
    with pytest.raises(task_queue.TaskInUse, match="--force"):
        task_queue.check_retrain([key])
    assert task_queue.check_retrain([key], force=True) == []
    task_queue.retrain([key])
    assert states() == {key: State.PENDING}
    assert outcomes() == ["cancelled"]
    assert not queue.release(held, Outcome.PREEMPTED)


def insert_script(number: int = 0) -> str:
    (key,) = ScriptTask().insert_task("test", "a = 1", {"number": number}, ["a"])
    return str(key[SCRIPT_KEY])


def claim_script() -> Claim:
    enqueue(ScriptResult())
    claimed = Queue(ScriptResult(), Worker(name="ours")).claim()
    assert claimed is not None
    return claimed


def test_every_state_of_a_script_task_is_told(scripts_allowed: Any) -> None:
    keys = [insert_script(number) for number in range(6)]
    queue = Queue(ScriptResult())
    task_queue.cancel(keys[1:2])
    for key, delay in ((keys[3], None), (keys[4], 1000.0)):
        enqueue(ScriptResult(), ({SCRIPT_KEY: key},))
        held = queue.claim(keys=[key])
        assert held is not None
        queue.release(held, Outcome.FAILED, error="it went wrong", blame=Blame.TASK, delay=delay)
    enqueue(ScriptResult(), ({SCRIPT_KEY: keys[2]},))
    assert Queue(ScriptResult(), Worker("a GPU", name="ours")).claim(keys=keys[2:3]) is not None
    ScriptResult().populate({SCRIPT_KEY: keys[0]})
    expected = [State.FINISHED, State.CANCELLED, State.RUNNING, State.ERROR, State.RETRY, State.PENDING]
    assert {row["task"]: row["state"] for row in script_states.rows()} == dict(zip(keys, expected, strict=True))
    assert script_states.count() == {**dict.fromkeys(State, 1), State.WAITING: 0}
    failed = script_states.rows(states=(State.ERROR, State.RETRY))
    assert {row["task"] for row in failed} == set(keys[3:5])
    assert {(row["attempts"], row["message"]) for row in failed} == {(1, "it went wrong")}
    assert len(script_states.rows(limit=2)) == 2
    (running,) = script_states.live_workers()
    assert (running["task"], running["name"], running["worker"]) == (keys[2], "test", "ours")
    assert running["seconds"] >= 0 and running["beat_seconds"] >= 0


def test_script_tasks_are_cancelled_retried_and_ordered_like_trainings(scripts_allowed: Any) -> None:
    (training_key,) = insert(scripts_allowed, 1)
    first, second = insert_script(0), insert_script(1)
    task_queue.prioritize([second, training_key], 1)
    assert (ScriptTask() & {SCRIPT_KEY: second}).fetch1("priority") == 1
    assert (TrainingTask() & {TASK_KEY: training_key}).fetch1("priority") == 1
    held = claim_script()
    assert held.key == {SCRIPT_KEY: second}
    with pytest.raises(task_queue.TaskInUse, match=f"is being run by process {os.getpid()}"):
        task_queue.retry([second])
    assert task_queue.cancel([first, second, training_key]) == [second]
    assert outcomes() == ["cancelled"]
    assert not Queue(ScriptResult()).release(held, Outcome.PREEMPTED)
    task_queue.retry([first, training_key])
    assert {row["task"]: row["state"] for row in script_states.rows()} == {first: "pending", second: "cancelled"}
    assert states() == {training_key: State.PENDING}
    ScriptResult().populate({SCRIPT_KEY: first})
    with pytest.raises(task_queue.TaskInUse, match="is finished; `trainloom task retrain` has it run again"):
        task_queue.retry([first])
    assert task_queue.check_retrain([first, training_key]) == [first]
    task_queue.retrain([first])
    assert len(ScriptResult()) == 0
    assert claim_script().key == {SCRIPT_KEY: first}


def test_a_short_key_names_a_training_or_a_script(session: Any) -> None:
    (training_key,) = insert(session, 1)
    script = insert_script()
    assert named(training_key[:8]) == (TRAININGS, training_key)
    assert named(script[:8].upper()) == (SCRIPTS, script)
    with pytest.raises(UnknownKey, match="there is no task with a key that begins with 00000000"):
        named("00000000")
    twin = {**ScriptTask().fetch1(), SCRIPT_KEY: training_key[:8] + script[8:]}
    ScriptTask().insert1(twin)
    with pytest.raises(AmbiguousKey, match="a training and a script task have keys"):
        named(training_key[:8])


def test_short_keys_name_rows(session: Any) -> None:
    (task,) = insert(session, 1)
    model = ModelConfig().fetch1("model_config_md5_hash")
    assert full_key(TrainingTask, task[:8]) == task
    assert full_key(ModelConfig, model[:4].upper()) == full_key(ModelConfig, model) == model
