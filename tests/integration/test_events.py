"""Live events in a MongoDB collection and in a file: read back, deleted, and kept when their place is away."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest

from pipeline import events
from pipeline.event_collection import EventCollection
from pipeline.event_file import PAGE, EventFile
from pipeline.event_record import EventsUnavailable, InvalidEvent, Selection, new_event
from pipeline.event_spool import EventSpool
from pipeline.events import EventLog

SPOOL_BYTES = 1 << 24
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture(params=["collection", "file"])
def store(request: pytest.FixtureRequest, open_session: Callable[..., Any], tmp_path: Path) -> Any:
    """Where the events of a session go, with and without MongoDB."""
    chosen = {} if request.param == "collection" else {"store": "folder", "store_dir": tmp_path / "store"}
    opened = open_session(**chosen).events._store
    assert isinstance(opened, EventCollection if request.param == "collection" else EventFile)
    return opened


@pytest.fixture
def new_log(tmp_path: Path) -> Iterator[Callable[..., EventLog]]:
    """Makes event logs whose spool lies in one folder."""
    made: list[EventLog] = []

    def make(store: Any, limit: int = SPOOL_BYTES) -> EventLog:
        made.append(EventLog(store, EventSpool(tmp_path / "spool", limit)))
        return made[-1]

    yield make
    for log in made:
        log.close(0.0)


class Away:
    """A place of events that can be away, or hang."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.is_away = True
        self.hangs = threading.Event()
        self.hangs.set()

    def insert(self, given: list[Any]) -> None:
        self.hangs.wait()
        if self.is_away:
            raise EventsUnavailable("the server is away")
        self.store.insert(given)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


def steps(log: EventLog, **chosen: Any) -> list[int]:
    return [event["step"] for event in log.read(Selection(**chosen))]


def spooled(tmp_path: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in (tmp_path / "spool").glob("*"))


@pytest.mark.feature("T4")
def test_events_are_read_by_task_kind_time_and_field(store: Any, new_log: Any) -> None:
    log = new_log(store)
    for step in range(10):
        moment = BEGIN + timedelta(seconds=step)
        log.append("training", {"step": step, "loss": 1 / (1 + step)}, task="a", time=moment)
        log.append("validation", {"step": step, "note": "good" if step == 3 else None}, task="a", time=moment)
    log.append("training", {"step": 77}, task="b")
    assert steps(log, task="a", kind="training") == list(range(10))
    assert steps(log, task="b") == [77]
    between = Selection("a", "training", BEGIN + timedelta(seconds=2), BEGIN + timedelta(seconds=4))
    assert [event["step"] for event in log.read(between)] == [2, 3]
    assert steps(log, where={"note": "good"}) == [3]
    assert steps(log, task="a", kind="training", ranges={"loss": (0.2, 0.5)}) == [2, 3, 4]
    assert [event["step"] for event in log.read(Selection("a", "training"), limit=2, newest_first=True)] == [9, 8]
    (first,) = log.read(Selection("a", "training"), limit=1)
    assert first == {"task": "a", "kind": "training", "time": BEGIN, "step": 0, "loss": 1.0}
    assert log.count(Selection("a")) == 20


@pytest.mark.feature("T4")
def test_events_are_deleted_by_filter(store: Any, new_log: Any) -> None:
    log = new_log(store)
    for step in range(4):
        log.append("training", {"step": step, "accuracy": 0.33 if step < 2 else 0.44})
    assert log.delete(Selection(kind="validation")) == 0
    assert log.delete(Selection(kind="training", where={"accuracy": 0.33})) == 2
    assert steps(log) == [2, 3]
    assert log.delete() == 2
    assert log.count() == 0


def test_more_events_than_a_page_come_once_and_in_order(store: Any, new_log: Any) -> None:
    log = new_log(store)
    count = 2 * PAGE + 1
    for step in range(count):
        log.append("training", {"step": step}, time=BEGIN + timedelta(seconds=step // 700))
    assert steps(log) == list(range(count))
    reverse = [event["step"] for event in log.read(newest_first=True)]
    assert reverse == list(reversed(range(count)))


def test_values_come_back_as_they_were(store: Any, new_log: Any) -> None:
    import numpy as np

    log = new_log(store)
    given = {"text": "ä€", "yes": True, "none": None, "big": 2**63 - 1, "list": [1, 2.5], "dict": {"a": ["b"]}}
    log.append("testing", {**given, "lr/group-0": np.float32(0.5), "count": np.int64(3), "loss": math.inf})
    log.append("testing", {"loss": math.nan})
    known, unknown = log.read()
    assert {name: known[name] for name in given} == given
    assert (known["lr/group-0"], known["count"], known["loss"]) == (0.5, 3, math.inf)
    assert math.isnan(unknown["loss"])
    assert log.count(Selection(where={"loss": math.inf})) == 1


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("Training", {}, "kind 'Training'"),
        ("training", {"a.b": 1}, "'a.b' cannot be the name"),
        ("training", {"$where": 1}, "'\\$where' cannot be the name"),
        ("training", {"time": 1}, "'time' cannot be the name"),
        ("training", {"nested": {"$gt": 1}}, "'\\$gt' cannot be the name"),
        ("training", {"number": 2**63}, "number is an integer of more than 63 bits"),
        ("training", {"text": "x" * 70_000}, "70000 characters"),
        ("training", {"rows": object()}, "rows is a builtins.object"),
    ],
)
def test_what_cannot_be_kept_is_refused_at_once(kind: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidEvent, match=said):
        new_event(kind, fields, "", None)


def test_a_condition_is_never_a_query_of_its_own() -> None:
    with pytest.raises(InvalidEvent, match="loss is compared with"):
        Selection(where={"loss": {"$gt": 0}})


def test_reading_the_newest_of_many_events_examines_only_those(postgres_session: Any, new_log: Any) -> None:
    collection = postgres_session.events._store._connect()[f"{postgres_session.settings.schema_name}.events"]
    log = new_log(postgres_session.events._store)
    for step in range(5000):
        log.append("training", {"step": step}, task="a")
    log.index("step")
    assert log.flush()
    found = collection.find({"task": {"$eq": "a"}, "kind": {"$eq": "training"}}).sort([("time", -1), ("_id", -1)])
    assert found.limit(10).explain()["executionStats"]["totalDocsExamined"] <= 10
    ranged = {"task": {"$eq": "a"}, "kind": {"$eq": "training"}, "step": {"$gte": 100, "$lt": 110}}
    assert collection.find(ranged).explain()["executionStats"]["totalDocsExamined"] <= 10


def test_events_sent_twice_are_kept_once(store: Any) -> None:
    sent = [new_event("training", {"step": step}, "", None) for step in range(3)]
    store.insert(sent)
    store.insert([*sent, new_event("training", {"step": 3}, "", None)])
    assert store.count(Selection()) == 4


def test_events_wait_on_the_node_while_their_place_is_away(store: Any, new_log: Any, tmp_path: Path) -> None:
    away = Away(store)
    log = new_log(away)
    for step in range(5):
        log.append("training", {"step": step, "loss": math.nan})
    assert not log.flush()
    assert spooled(tmp_path) == 5
    with pytest.raises(EventsUnavailable, match="wait on this node"):
        log.delete()
    away.is_away = False
    assert log.flush()
    assert steps(log) == list(range(5))
    assert spooled(tmp_path) == 0


def test_a_dead_server_stops_nobody(new_log: Any, tmp_path: Path) -> None:
    nowhere = f"mongodb://{str(tmp_path / 'nobody.sock').replace('/', '%2F')}"
    with pymongo.MongoClient(nowhere, serverSelectionTimeoutMS=100) as client:
        log = new_log(EventCollection(lambda: client["nowhere"], "events"))
        for step in range(events.MOST_WAITING + 1):
            log.append("training", {"step": step})
        log.close(1.0)
    assert spooled(tmp_path) == events.MOST_WAITING + 1


def test_a_server_that_hangs_stops_nobody(store: Any, new_log: Any, tmp_path: Path) -> None:
    away = Away(store)
    away.is_away = False
    away.hangs.clear()
    log = new_log(away)
    count = 2 * events.MOST_WAITING
    for step in range(count):
        log.append("training", {"step": step})
    log.close(0.1)
    assert spooled(tmp_path) == count
    away.hangs.set()  # what was being sent arrives after all
    log._sender.join()
    second = new_log(store)
    second.append("training", {"step": count})
    assert second.flush()
    assert sorted(steps(second)) == list(range(count + 1))


def test_the_spool_is_bounded(store: Any, new_log: Any, tmp_path: Path) -> None:
    away = Away(store)
    log = new_log(away, limit=2000)
    for step in range(100):
        log.append("training", {"step": step})
    assert not log.flush()
    assert 0 < spooled(tmp_path) < 100
    assert sum(path.stat().st_size for path in (tmp_path / "spool").glob("*")) <= 2000
    assert log.dropped == 100 - spooled(tmp_path)


def test_events_of_a_killed_process_follow_with_the_next_one(store: Any, new_log: Any, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from pipeline.event_record import new_event
from pipeline.event_spool import EventSpool
spool = EventSpool(Path({str(tmp_path / "spool")!r}), 10_000)
spool.write([new_event("training", {{"step": step}}, "", None) for step in range(3)])
os.write(spool._writing[1], b'["half')
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    log = new_log(store)
    log.append("training", {"step": 3})
    assert log.flush()
    assert sorted(steps(log)) == [0, 1, 2, 3]
    assert spooled(tmp_path) == 0


def test_the_spool_of_a_living_process_is_left_alone(store: Any, new_log: Any, tmp_path: Path) -> None:
    theirs = EventSpool(tmp_path / "spool", 10_000)
    theirs.write([new_event("training", {"step": 0}, "", None)])
    log = new_log(store)
    log.append("training", {"step": 1})
    assert log.flush()
    assert steps(log) == [1]
    theirs.close()


def test_a_forked_child_sends_its_own_events_and_no_others(store: Any, new_log: Any) -> None:
    log = new_log(store)
    log.append("training", {"step": 0})
    child = os.fork()
    if child == 0:
        log.append("training", {"step": 1})
        os._exit(0 if log.flush() else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert sorted(steps(log)) == [0, 1]


def test_a_process_that_closes_nothing_leaves_its_events(postgres_session: Any) -> None:
    program = "from trainloom import connect; connect(create_home=False).events.append('training', {'step': 7})"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert steps(postgres_session.events) == [7]


def test_a_closed_session_takes_no_events(postgres_session: Any) -> None:
    postgres_session.events.append("training", {"loss": 1.0})
    postgres_session.close()
    with pytest.raises(EventsUnavailable, match="closed"):
        postgres_session.events.append("training", {"loss": 1.0})


@pytest.mark.feature("T1")
def test_two_projects_on_one_server_never_see_each_others_events(
    open_session: Callable[..., Any], project_environment: dict[str, str]
) -> None:
    with open_session() as first:
        first.events.append("training", {"step": 1})
        first.events.flush()
        name, database = first.settings.schema_name, first.settings.mongo_database
    other = open_session(project=f"{name}x", mongo_database=database)
    try:
        other.events.append("training", {"step": 2})
        assert steps(other.events) == [2]
    finally:
        other.connection.query(f'DROP SCHEMA "{name}x" CASCADE')
