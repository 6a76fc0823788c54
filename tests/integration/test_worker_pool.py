"""Pools of worker processes: what a process that died held, how long one waits, and what stops a pool."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import outlook, progress_file, worker_pool, worker_process
from pipeline.claim import Worker as Identity
from pipeline.errors import ConfigurationError
from pipeline.gpu_locks import Gpu
from pipeline.queue import Queue
from pipeline.session import Session
from pipeline.shift import Shift
from pipeline.stop import StopSignal
from pipeline.worker import Terms, Worker
from pipeline.worker_pool import Assignment, Event, WorkerPool
from pipeline.worker_process import Patience
from schemas.attempt import Attempt, Outcome
from schemas.script_result import ScriptResult
from schemas.script_task import ScriptTask
from tests.integration import queue_tables
from tests.integration.queue_tables import Made, insert_items


@pytest.fixture
def queue(session: Session) -> Iterator[Queue]:
    queue_tables.activate(session)
    yield Queue(Made(), Identity(name="ours"))
    queue_tables.scratch.drop(prompt=False)


def age(queue: Queue, column: str = "reserved_time") -> None:
    """Make something old in every job."""
    queue.connection.query(f"UPDATE {queue.jobs.full_table_name} SET {column} = '2001-01-01'")


def any_silent(queue: Queue, seconds: float, **among: Any) -> bool:
    (found,) = outlook.found(queue.connection, [queue.silent(seconds, **among)])
    return found


@pytest.mark.parametrize(
    ("outcome", "checkpoints", "blame"),
    [(Outcome.LOST, 0, "task"), (Outcome.LOST, 1, ""), (Outcome.PREEMPTED, 0, "")],
)
def test_what_a_dead_worker_held_is_given_back_and_nothing_else(
    queue: Queue, outcome: Outcome, checkpoints: int, blame: str
) -> None:
    insert_items(3)
    queue.enqueue()
    held = queue.claim()
    other = Queue(Made(), Identity(name="another")).claim()
    assert held is not None and other is not None
    Attempt().update1({"attempt_id": held.attempt, "attempt_checkpoints": checkpoints})
    assert queue.take_back("ours", outcome, "it died") == list(held.key.values())
    assert queue.take_back("ours", outcome, "it died") == []
    ended = (Attempt() & {"attempt_id": held.attempt}).fetch1()
    assert (ended["attempt_outcome"], ended["attempt_error"], ended["attempt_blame"]) == (outcome, "it died", blame)
    assert (queue.jobs & held.key).fetch1("status") == "pending"
    assert (queue.jobs & other.key).fetch1("status") == "reserved"


def test_silence_is_told_by_the_last_beat_of_those_who_count(queue: Queue) -> None:
    keys = insert_items(2)
    queue.enqueue()
    assert not any_silent(queue, 0)
    claim = queue.claim(keys=keys[:1])
    assert claim is not None
    assert not any_silent(queue, 1000)
    age(queue)
    assert any_silent(queue, 1000)
    assert any_silent(queue, 4.4e-07, keys=keys[:1])
    assert not any_silent(queue, 1000, keys=keys[1:])
    assert not any_silent(queue, 1000, without=keys[:1])
    assert not any_silent(queue, 1000, pids=[os.getpid()])


def test_only_jobs_that_a_worker_may_take_are_looked_forward_to(queue: Queue) -> None:
    keys = insert_items(2)
    assert queue.seconds_to_next() is None
    queue.enqueue()
    assert queue.seconds_to_next(keys[:1]) == 0
    assert queue.seconds_to_next(keys[:1], without=keys[:1]) is None
    assert queue.seconds_to_next([]) is None


class Waiting:
    """A worker of two queues that has nothing to do, and what happens each time that it sleeps."""

    def __init__(self, queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue = queue
        stop = StopSignal()
        given: dict[str, Any] = {"heartbeat": None, "terms": Terms(), "stop": stop, "identity": queue.worker}
        workers = [Worker(table, (), {}, **given) for table in (queue.table, ScriptResult())]
        self.shift = Shift(workers, stop, lease_seconds=60, max_tasks=None)
        self.sleeps: list[float] = []
        self.then: Callable[[], object] = lambda: None
        monkeypatch.setattr(worker_process, "_siblings", lambda: [])
        clock = SimpleNamespace(sleep=self._sleep, monotonic=lambda: sum(self.sleeps))
        monkeypatch.setattr(worker_process, "time", clock)

    def _sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.then()

    def wait(self, **assignment: Any) -> bool:
        return Patience(self.shift, Assignment(**assignment), 5.0).wait()


@pytest.fixture
def waiting(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(queue, monkeypatch)


def fail(queue: Queue, delay: float) -> None:
    """Let a job fail that is tried again after `delay` seconds."""
    insert_items(1)
    queue.enqueue()
    claim = queue.claim()
    assert claim is not None
    queue.release(claim, Outcome.FAILED, delay=delay)


def test_who_has_nothing_to_wait_for_ends(waiting: Waiting) -> None:
    assert not waiting.wait()
    assert waiting.sleeps == []


def test_a_task_that_is_soon_tried_again_is_waited_for(waiting: Waiting) -> None:
    fail(waiting.queue, 100)
    waiting.then = lambda: len(waiting.sleeps) == 3 and age(waiting.queue, "scheduled_time")
    assert waiting.wait(wait_seconds=120)
    assert len(waiting.sleeps) == 3


def test_a_script_that_is_soon_tried_again_is_waited_for(waiting: Waiting) -> None:
    ScriptTask().insert_task("test", "a = 1", {}, [])
    scripts = Queue(ScriptResult())
    scripts.enqueue()
    claim = scripts.claim()
    assert claim is not None
    scripts.release(claim, Outcome.FAILED, delay=100)
    waiting.then = lambda: len(waiting.sleeps) == 3 and age(scripts, "scheduled_time")
    assert waiting.wait(wait_seconds=120)
    assert len(waiting.sleeps) == 3


def test_a_task_that_is_tried_again_much_later_is_not_waited_for(waiting: Waiting) -> None:
    fail(waiting.queue, 1000)
    assert not waiting.wait(wait_seconds=120)


def test_a_job_whose_worker_died_is_waited_for_until_it_can_be_given_back(waiting: Waiting) -> None:
    insert_items(1)
    waiting.queue.enqueue()
    waiting.queue.claim()
    age(waiting.queue)
    assert waiting.wait(), "now `run` gives stale leases back"
    assert sum(waiting.sleeps) > worker_process.REFILL
    assert not waiting.wait(wait_seconds=0)


def test_a_job_whose_worker_lives_is_left_to_it(waiting: Waiting) -> None:
    insert_items(1)
    waiting.queue.enqueue()
    claim = waiting.queue.claim()
    assert claim is not None
    jobs = waiting.queue.jobs.full_table_name
    beat = f"UPDATE {jobs} SET reserved_time = CURRENT_TIMESTAMP(3)"
    waiting.then = lambda: len(waiting.sleeps) == 3 and waiting.queue.connection.query(beat)
    age(waiting.queue)
    assert not waiting.wait()
    assert len(waiting.sleeps) == 3


def test_who_watches_asks_once_per_look_and_looks_for_new_tasks_once_a_minute(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, query = [], waiting.queue.connection.query
    monkeypatch.setattr(
        waiting.queue.connection, "query", lambda *args, **options: asked.append(args) or query(*args, **options)
    )
    assert waiting.wait(watch=True)
    assert len(asked) == len(waiting.sleeps) + 1
    assert worker_process.REFILL < sum(waiting.sleeps) < worker_process.REFILL + 10
    assert {3.75 <= pause <= 6.25 for pause in waiting.sleeps} == {True}
    assert len(set(waiting.sleeps)) > 1


def test_a_limit_on_tasks_is_divided_among_the_processes() -> None:
    shares = worker_pool._shares(Assignment(max_tasks=5, order="random"), 3)
    assert [(share.max_tasks, share.order) for share in shares] == [(2, "random"), (2, "random"), (1, "random")]
    assert len(worker_pool._shares(Assignment(max_tasks=1), 3)) == 1


def test_there_are_no_more_processes_than_gpus(postgres_session: Session) -> None:
    with pytest.raises(ConfigurationError, match="2 worker processes need 2 GPUs and there are 1"):
        WorkerPool(postgres_session.settings, 2, Assignment(), [Gpu("uuid", "0")])


def end_at_once(*_: Any) -> None:
    """A worker process that dies of something that is no task's fault."""
    os._exit(7)


@pytest.mark.slow
def test_processes_that_keep_dying_are_given_up(postgres_session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    monkeypatch.setattr(worker_process, "run", end_at_once)
    monkeypatch.setattr(worker_pool, "QUICK_DEATHS", 2)
    assert WorkerPool(postgres_session.settings, 1, Assignment()).run(events.append) == 1
    assert [event.message for event in events] == [
        "2 worker processes died one after the other; no other one is started"
    ]


def refuse(*_: Any) -> None:
    """A worker process that is not configured."""
    os._exit(78)


def test_a_process_that_lacks_something_is_not_started_again(
    postgres_session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_process, "run", refuse)
    assert WorkerPool(postgres_session.settings, 2, Assignment()).run(lambda _: None) == 78


def hang(settings: Any, assignment: Any, place: Any, channel: Any) -> None:
    """A worker process that gets on, and then hears no signal and does nothing any more."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    place.sign.show()
    while True:
        signal.pause()


def test_a_process_that_shows_no_life_any_more_is_killed(
    open_session: Callable[..., Session], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = open_session(stall_seconds=0.5, poll_seconds=0.2, progress_file=tmp_path / "progress")
    events: list[Event] = []
    monkeypatch.setattr(worker_process, "run", hang)
    monkeypatch.setattr(worker_pool, "QUICK_DEATHS", 1)
    pool = WorkerPool(session.settings, 1, Assignment())
    assert pool.run(events.append) == 1
    killed = r"the worker process \d+ was killed: it had shown no life for \d s \(stall_seconds\)"
    assert [re.fullmatch(killed, event.message) is not None for event in events] == [True, False]
    assert progress_file.read(tmp_path / "progress")[1] == 0.5 + worker_pool.START_LIMIT


def test_the_file_of_a_pool_tells_of_the_process_that_has_been_silent_for_longest(
    open_session: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(progress_file=tmp_path / "progress")
    pool = WorkerPool(session.settings, 2, Assignment())
    for slot, seconds in zip(pool._slots, (100.0, 7.0), strict=True):
        slot.running = SimpleNamespace(silence=SimpleNamespace(seconds=seconds))
    monkeypatch.setattr(pool._progress, "_next", 0.0)
    pool._show_life()
    assert 100 <= progress_file.read(tmp_path / "progress")[0] < 110
