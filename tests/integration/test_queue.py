"""The queue: one winner, fenced writes, leases, on both backends."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from datajoint.errors import LostConnectionError

from pipeline.claim import Claim
from pipeline.queue import LeaseLost, Queue
from pipeline.services import PostgresServer
from pipeline.session import Session
from schemas.attempt import Attempt, Blame, Outcome
from tests.integration import queue_tables
from tests.integration.queue_tables import Item, Made, insert_items
from tests.integration.test_connection import await_lock_wait, other_connection, terminate

ROOT = Path(__file__).parents[2]
RACE = """
import json, sys
from pipeline.queue import Queue
from tests.integration import queue_tables
from trainloom import connect
session = connect()
queue_tables.activate(session)
queue = Queue(queue_tables.Made())
print("ready", flush=True)
sys.stdin.readline()
won = []
while (claim := queue.claim(order=sys.argv[1])) is not None:
    won.append(claim.key["item_md5"])
print(json.dumps(won))
"""


class Withdrawn(Exception):
    """Undoes a transaction."""


@pytest.fixture
def queue(session: Session) -> Iterator[Queue]:
    queue_tables.activate(session)
    yield Queue(Made())
    queue_tables.scratch.drop(prompt=False)


def insert_result(claim: Claim, value: int = 1) -> Callable[[], None]:
    return lambda: Made().insert1({**claim.key, "made_value": value}, allow_direct_insert=True)


def attempts() -> Counter[str]:
    return Counter(row["attempt_outcome"] for row in Attempt().to_dicts())


@pytest.mark.parametrize("order", ["original", "random"])
def test_a_claim_records_the_attempt_and_a_publication_settles_both(queue: Queue, order: str) -> None:
    keys = insert_items(3)
    queue.enqueue()
    claims = [queue.claim(order=order) for _ in range(3)]
    assert sorted(claim.key["item_md5"] for claim in claims) == sorted(keys)
    assert queue.claim(order=order) is None
    assert attempts() == {"running": 3}
    job = (queue.jobs & claims[0].key).fetch1()
    assert (job["status"], job["version"]) == ("reserved", claims[0].attempt)
    queue.publish(claims[0], insert_result(claims[0]))
    assert len(queue.jobs) == 2
    row = (Attempt() & {"attempt_id": claims[0].attempt}).fetch1()
    assert row["attempt_outcome"] == "finished"
    assert row["attempt_end"] >= row["attempt_start"]
    assert row["attempt_table"] == Made().table_name


@pytest.mark.parametrize("order", ["original", "random"])
def test_the_most_urgent_job_is_taken_and_conditions_bind(queue: Queue, order: str) -> None:
    lazy, urgent = insert_items(3), insert_items(2, priority=1, start=100)
    queue.enqueue()
    assert queue.claim(order=order, priority=0) is None
    assert queue.claim(order=order, keys=[]) is None
    assert queue.claim(order=order, keys=lazy[:1]).key["item_md5"] == lazy[0]
    assert queue.claim(order=order, without=urgent[:1]).key["item_md5"] == urgent[1]
    assert queue.claim(order=order).key["item_md5"] == urgent[0]
    assert queue.claim(order=order).key["item_md5"] in lazy


def test_who_lost_its_lease_can_write_nothing(queue: Queue) -> None:
    insert_items(1)
    queue.enqueue()
    claim = queue.claim()
    queue.connection.query(f"UPDATE {queue.jobs.full_table_name} SET reserved_time = '2001-01-01'")
    assert queue.reclaim(60) == [claim.key["item_md5"]]
    assert queue.reclaim(60) == []
    with pytest.raises(LeaseLost, match="was lost before its result could be written"):
        queue.publish(claim, insert_result(claim))
    assert len(Made()) == 0
    assert not queue.release(claim, Outcome.FAILED, error="too late")
    assert attempts() == {"lost": 1}
    again = queue.claim()
    queue.publish(again, insert_result(again))
    assert attempts() == {"lost": 1, "finished": 1}
    with pytest.raises(LeaseLost):
        queue.publish(claim, insert_result(claim, 2))
    assert Made().fetch1("made_value") == 1


def test_a_living_lease_is_left_alone(queue: Queue) -> None:
    insert_items(1)
    queue.enqueue()
    queue.claim()
    assert queue.reclaim(60) == []


def test_a_released_job_waits_its_delay_and_a_set_aside_one_for_ever(queue: Queue) -> None:
    insert_items(1)
    queue.enqueue()
    first = queue.claim()
    assert queue.release(first, Outcome.PREEMPTED)
    assert queue.seconds_to_next() == 0
    second = queue.claim()
    assert queue.release(second, Outcome.FAILED, error="x" * 5000, stack="trace \0", blame=Blame.TASK, delay=100)
    assert queue.claim() is None
    assert 90 < queue.seconds_to_next() <= 100
    assert [row["attempt_blame"] for row in queue.blamed(second.key["item_md5"])] == ["task"]
    queue.connection.query(f"UPDATE {queue.jobs.full_table_name} SET scheduled_time = '2001-01-01'")
    third = queue.claim()
    assert queue.release(third, Outcome.FAILED, error="again", stack="trace", delay=None)
    assert queue.claim() is None
    assert queue.seconds_to_next() is None
    job = queue.jobs.fetch1()
    assert (job["status"], job["error_message"], job["error_stack"]) == ("error", "again", "trace")
    assert attempts() == {"preempted": 1, "failed": 2}


def test_a_connection_that_is_lost_while_publishing_publishes_once(queue: Queue, session: Session) -> None:
    insert_items(1)
    queue.enqueue()
    claim, calls = queue.claim(), []

    def insert() -> None:
        insert_result(claim)()
        calls.append(1)
        if len(calls) == 1:
            terminate(session)

    queue.publish(claim, insert)
    assert len(calls) == 2
    assert len(Made()) == 1
    assert attempts() == {"finished": 1}


def test_a_commit_whose_answer_was_lost_is_settled_by_reading_back(
    queue: Queue, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_items(1)
    queue.enqueue()
    claim, commit = queue.claim(), session.connection.commit_transaction

    def lose_the_answer() -> None:
        commit()
        monkeypatch.undo()
        raise LostConnectionError("the answer was lost")

    monkeypatch.setattr(session.connection, "commit_transaction", lose_the_answer)
    queue.publish(claim, insert_result(claim))
    assert len(Made()) == 1
    assert attempts() == {"finished": 1}


def test_jobs_of_others_that_are_locked_are_skipped(queue: Queue, session: Session) -> None:
    insert_items(2)
    queue.enqueue()
    other = other_connection(session)
    with other.transaction:
        key = other.query(
            f"SELECT item_md5 FROM {queue.jobs.full_table_name} ORDER BY item_md5 LIMIT 1 FOR UPDATE"
        ).fetchone()[0]
        assert queue.claim(order="random").key["item_md5"] != key
        assert queue.claim(order="random") is None
    other.close()


def test_what_is_made_while_the_queue_is_filled_is_not_queued_again(queue: Queue, session: Session) -> None:
    first, *_, last = keys = [f"{number:032x}" for number in range(20)]
    Item().insert([{"item_md5": key} for key in keys])  # in their order, in which they are queued on both backends
    rival, worker = other_connection(session), other_connection(session)
    jobs, made = queue.jobs.full_table_name, Made().full_table_name
    columns = ", ".join(map(session.connection.adapter.quote_identifier, ("item_md5", "status", "priority")))
    insertion = f"INSERT INTO {jobs} ({columns}) VALUES (%s, 'pending', 5)"
    with ThreadPoolExecutor(1) as pool:
        with suppress(Withdrawn), rival.transaction:
            rival.query(insertion, args=(first,))
            filling = pool.submit(queue.enqueue)  # has seen no job by now, and waits for the first one
            await_lock_wait(session)
            # What a worker does that fills the queue, computes and publishes meanwhile.
            worker.query(insertion, args=(last,))
            worker.query(f"INSERT INTO {made} VALUES (%s, 1)", args=(last,))
            worker.query(f"DELETE FROM {jobs} WHERE item_md5 = %s", args=(last,))
            raise Withdrawn
        filling.result()
    rival.close()
    worker.close()
    assert len(Made()) == 1
    assert last not in queue.jobs.to_arrays("item_md5")
    assert len(queue.jobs) == 19


def test_a_connection_that_is_lost_while_the_queue_is_filled_fills_it_once(
    queue: Queue, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = insert_items(3)
    query, filled = session.connection.query, []

    def watched(statement: str, *args: Any, **options: Any) -> Any:
        answer = query(statement, *args, **options)
        if statement.startswith("INSERT"):
            filled.append(answer.rowcount)
            if len(filled) == 1:
                terminate(session)
        return answer

    monkeypatch.setattr(session.connection, "query", watched)
    queue.enqueue()
    assert filled == [3, 3]  # the first time it was undone
    assert sorted(queue.jobs.to_arrays("item_md5")) == sorted(keys)


def test_a_server_that_stays_away_while_the_queue_is_filled_is_waited_for_once(
    postgres_session: Session, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue_tables.activate(postgres_session)
    queue, connection = Queue(Made()), postgres_session.connection
    server, waits, reconnect = PostgresServer(postgres_session.home), [], connection._reconnect
    connection.reconnect_seconds = 0.3

    def counted() -> None:
        waits.append(1)
        reconnect()

    monkeypatch.setattr(connection, "_reconnect", counted)
    try:
        server.stop()
        with pytest.raises(LostConnectionError, match="did not come back"):
            queue.enqueue()
    finally:
        server.ensure_running()
    assert waits == [1]
    queue_tables.scratch.drop(prompt=False)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["original", "random"])
def test_eight_processes_claim_two_thousand_jobs_and_none_twice(queue: Queue, order: str) -> None:
    keys = insert_items(2000)
    queue.enqueue()
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, order], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("\n")
        racer.stdin.flush()
    won = [json.loads(racer.communicate()[0]) for racer in racers]
    assert sorted(key for of in won for key in of) == sorted(keys)
    assert attempts() == {"running": 2000}
