"""One worker for several queues: which job comes first, what an empty queue costs, and that none holds up another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.claim import Claim
from pipeline.claim import Worker as Identity
from pipeline.job_table import enqueue
from pipeline.queue import Queue
from pipeline.session import Session
from pipeline.shift import Shift
from pipeline.stop import StopSignal
from pipeline.worker import Terms, Worker
from schemas.attempt import Attempt
from schemas.script_result import ScriptResult
from schemas.script_task import ScriptTask
from tests.integration import queue_tables
from tests.integration.queue_tables import Made, insert_items
from tests.integration.test_connection import other_connection


class Noting(Worker):
    """A worker that computes nothing: it notes what it took, and the job is gone."""

    taken_by_all: list[tuple[str, int]]

    def _attempt(self, claim: Claim, _: float) -> None:
        self.taken_by_all.append((self.queue.table.table_name, (self.queue.jobs & claim.key).fetch1("priority")))
        self.queue.drop(claim, "it was only to be taken")


@pytest.fixture
def taken(session: Session) -> Iterator[list[tuple[str, int]]]:
    """(table, priority) of the jobs in the order in which they were taken."""
    queue_tables.activate(session)
    yield []
    queue_tables.scratch.drop(prompt=False)


def shift_of(
    taken: list[tuple[str, int]], *tables: Any, max_tasks: int | None = None, order: str = "original"
) -> Shift:
    stop = StopSignal()
    options = {"order": order, "priority": None, "refresh": False, "max_calls": max_tasks}
    workers = []
    for table in tables:
        worker = Noting(table, (), options, heartbeat=None, terms=Terms(), stop=stop, identity=Identity())  # type: ignore[arg-type]
        worker.taken_by_all = taken
        workers.append(worker)
    return Shift(workers, stop, lease_seconds=60, max_tasks=max_tasks)


def insert_scripts(*priorities: int) -> None:
    for number, priority in enumerate(priorities):
        ScriptTask().insert_task("test", f"a = {number}", {}, [], priority=priority)
    enqueue(ScriptResult())


def insert_jobs(*priorities: int) -> None:
    for start, priority in enumerate(priorities):
        insert_items(1, priority, start)
    enqueue(Made())


ITEM, SCRIPT = "__made", "__script_result"


@pytest.mark.parametrize("order", ["original", "random"])
def test_the_more_urgent_job_goes_first_and_equally_urgent_ones_in_turns(
    taken: list[tuple[str, int]], order: str
) -> None:
    insert_jobs(1, 5, 5, 9)
    insert_scripts(2, 5, 5, 7)
    shift = shift_of(taken, Made(), ScriptResult(), order=order)
    shift.run()
    assert taken == [(ITEM, 1), (SCRIPT, 2), (ITEM, 5), (SCRIPT, 5), (ITEM, 5), (SCRIPT, 5), (SCRIPT, 7), (ITEM, 9)]
    assert shift.taken == 8


def test_a_limit_is_one_for_all_queues(taken: list[tuple[str, int]]) -> None:
    insert_jobs(5, 5)
    insert_scripts(5, 5)
    shift = shift_of(taken, Made(), ScriptResult(), max_tasks=3)
    shift.run()
    assert len(taken) == shift.taken == 3


def test_a_job_that_is_not_due_keeps_nobody_waiting(taken: list[tuple[str, int]]) -> None:
    insert_jobs(5)
    insert_scripts(1)
    scripts = Queue(ScriptResult())
    scripts.connection.query(f"UPDATE {scripts.jobs.full_table_name} SET scheduled_time = '2100-01-01'")
    shift_of(taken, Made(), ScriptResult()).run()
    assert taken == [(ITEM, 5)]


def test_a_queue_that_is_empty_costs_no_statement_per_task(
    taken: list[tuple[str, int]], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_jobs(*[5] * 8)
    asked, query = [], session.connection.query
    monkeypatch.setattr(
        session.connection, "query", lambda *args, **options: asked.append(args) or query(*args, **options)
    )

    def statements(count: int, *tables: Any) -> int:
        shift = shift_of(taken, *tables, max_tasks=count)
        asked.clear()
        shift.run()
        return len(asked)

    alone = statements(3, Made()) - statements(1, Made())
    assert alone == statements(3, Made(), ScriptResult()) - statements(1, Made(), ScriptResult())
    assert taken == [(ITEM, 5)] * 8


def test_a_job_that_somebody_has_locked_holds_up_no_other_queue(taken: list[tuple[str, int]], session: Session) -> None:
    insert_jobs(5, 5)
    insert_scripts(1)
    scripts = Queue(ScriptResult())
    other = other_connection(session)
    with other.transaction:
        assert other.query(f"SELECT * FROM {scripts.jobs.full_table_name} FOR UPDATE").rowcount == 1
        shift_of(taken, Made(), ScriptResult()).run()
        assert taken == [(ITEM, 5), (ITEM, 5)]
    other.close()


def test_what_a_dead_worker_held_is_given_back_in_every_queue(taken: list[tuple[str, int]], session: Session) -> None:
    insert_jobs(5)
    insert_scripts(5)
    for table in (Made(), ScriptResult()):
        queue = Queue(table)
        assert queue.claim() is not None
        queue.connection.query(f"UPDATE {queue.jobs.full_table_name} SET reserved_time = '2001-01-01'")
    shift_of(taken, Made(), ScriptResult()).run()
    assert sorted(taken) == [(ITEM, 5), (SCRIPT, 5)]
    assert sorted(row["attempt_outcome"] for row in Attempt().to_dicts()) == ["cancelled"] * 2 + ["lost"] * 2
