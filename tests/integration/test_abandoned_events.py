"""Live events of tasks that are gone: told first, removed after the grace period, whatever else is going on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import abandoned_events, event_file
from pipeline.collector import Collector, NothingOwned
from pipeline.errors import ConfigurationError
from pipeline.event_collection import TASKS
from pipeline.event_record import EventsUnavailable, Selection, new_event
from pipeline.event_spool import EventSpool
from pipeline.events import EventLog
from schemas.project import Project
from tests.integration.digits_tasks import insert_tasks, train, training
from trainloom import DatasetConfig, ScriptTask, TrainingResult, TrainingTask

KEY = "training_task_md5_hash"
HOUR = timedelta(hours=1)
NO_GRACE = -timedelta(seconds=1)  # clocks of milliseconds
GONE, OTHER = "0" * 32, "1" * 32


@pytest.fixture(params=["gridfs", "folder"], autouse=True)
def store_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Events go into a collection, and into a file."""
    monkeypatch.setenv("TRAINLOOM_STORE", request.param)
    monkeypatch.setenv("TRAINLOOM_STORE_DIR", str(tmp_path / "store"))
    return str(request.param)


def append(session: Any, task: str, count: int = 1, age: timedelta = 2 * HOUR) -> None:
    for step in range(count):
        session.events.append("training", {"step": step}, task=task, time=datetime.now(UTC) - age)


def counts(session: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for event in session.events.read():
        found[event["task"]] = found.get(event["task"], 0) + 1
    return found


@pytest.mark.feature("T4")
def test_events_of_tasks_that_are_gone_are_told_and_removed_after_the_grace(session: Any) -> None:
    (key,) = insert_tasks(session, training())
    (script,) = ScriptTask().insert_task("later", "a = 1\n", {}, [])
    kept = {key[KEY]: 2, script["script_task_md5_hash"]: 2, "mine": 3, "": 1}
    for task, number in kept.items():
        append(session, task, number)
    append(session, GONE, 4)
    append(session, GONE, 1, age=timedelta(0))
    append(session, OTHER, 5)
    append(session, "2" * 32, 6, age=timedelta(0))
    dry = Collector(session).collect(HOUR)
    assert (dry.events, dry.deleted) == ((2, 9), False)
    assert counts(session) == {**kept, GONE: 5, OTHER: 5, "2" * 32: 6}, "a dry run changes nothing"
    assert Collector(session).collect(HOUR, delete=True).events == (2, 9)
    assert counts(session) == {**kept, GONE: 1, "2" * 32: 6}, "the younger ones stay"
    assert Collector(session).collect(HOUR, delete=True).events == (0, 0)
    assert Collector(session).collect(NO_GRACE, delete=True).events == (2, 7)
    assert counts(session) == kept


def test_a_task_keeps_its_events_when_its_result_is_deleted(postgres_session: Any) -> None:
    keys = [key[KEY] for key in insert_tasks(postgres_session, training(), seeds=(0, 1))]
    train()
    before = counts(postgres_session)
    assert {*before} == {*keys}
    TrainingResult().delete()
    assert Collector(postgres_session).collect(NO_GRACE, delete=True).events == (0, 0)
    (TrainingTask() & {KEY: keys[0]}).delete()
    assert Collector(postgres_session).collect(NO_GRACE, delete=True).events == (1, before[keys[0]])
    assert counts(postgres_session) == {keys[1]: before[keys[1]]}


def test_a_training_that_runs_meanwhile_keeps_its_events(
    postgres_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = insert_tasks(postgres_session, training(epoch_limit=3))
    append(postgres_session, GONE, 2)
    told = []
    original = EventLog.append

    def swept(self: EventLog, kind: str, *rest: Any, **named: Any) -> None:
        original(self, kind, *rest, **named)
        if kind == "validation":  # once in every epoch
            told.append(Collector(postgres_session).collect(NO_GRACE, delete=True).events)

    monkeypatch.setattr(EventLog, "append", swept)
    train()
    assert told == [(1, 2), (0, 0), (0, 0)]
    assert counts(postgres_session) == {key[KEY]: 7}, "three epochs of training and validation, and the test"


KILLED = """
import os, signal, sys
from pathlib import Path
from pipeline.event_record import new_event
from pipeline.event_spool import EventSpool
spool = EventSpool(Path(sys.argv[1]), 10_000)
spool.write([new_event("training", {"step": step}, "0" * 32, None) for step in range(3)])
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_events_that_a_dead_process_left_on_the_node_are_swept_too(postgres_session: Any) -> None:
    insert_tasks(postgres_session, training())
    folder = postgres_session.events._spool._folder
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode == -signal.SIGKILL
    living = EventSpool(folder, 10_000)
    living.write([new_event("training", {"step": 7}, GONE, None)])
    assert Collector(postgres_session).collect(NO_GRACE, delete=True).events == (1, 3)
    assert counts(postgres_session) == {}
    assert len(os.listdir(folder)) == 1, "that of a living process is its own"
    living.close()
    assert Collector(postgres_session).collect(NO_GRACE, delete=True).events == (1, 1)
    assert os.listdir(folder) == []


def test_nothing_is_collected_while_events_cannot_be_sent(
    postgres_session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_tasks(postgres_session, training())
    append(postgres_session, GONE)
    assert postgres_session.events.flush()

    def away(*_: Any) -> Any:
        raise EventsUnavailable("the server is away")

    monkeypatch.setattr(type(postgres_session.events._store), "insert", away)
    append(postgres_session, OTHER)
    with pytest.raises(EventsUnavailable, match="collect garbage then"):
        Collector(postgres_session).collect(HOUR, delete=True)
    monkeypatch.undo()
    assert Collector(postgres_session).collect(HOUR, delete=True).events == (2, 2)


def test_more_tasks_than_a_page_are_all_looked_up(postgres_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abandoned_events, "KEYS", 3)
    monkeypatch.setattr(event_file, "PAGE", 2)
    keys = [key[KEY] for key in insert_tasks(postgres_session, training(), seeds=range(4))]
    gone = [f"{number:032x}" for number in range(7)]
    for task in [*keys, *gone]:
        append(postgres_session, task)
    assert {*postgres_session.events.tasks()} == {*keys, *gone}
    assert Collector(postgres_session).collect(HOUR, delete=True).events == (7, 7)
    assert {*counts(postgres_session)} == {*keys}


def test_events_are_kept_where_no_row_owns_anything(postgres_session: Any) -> None:
    """A database that was restored empty must not cost the logs of all trainings."""
    append(postgres_session, GONE, 3)
    for delete in (False, True):
        with pytest.raises(NothingOwned, match="any of the 3 events"):
            Collector(postgres_session).collect(HOUR, delete=delete)
    assert counts(postgres_session) == {GONE: 3}


def test_events_beside_a_store_of_another_project_are_kept(postgres_session: Any) -> None:
    insert_tasks(postgres_session, training())
    append(postgres_session, GONE)
    Project().update1({"project_key": 1, "project_id": "f" * 32})
    with pytest.raises(ConfigurationError, match="belongs to another project"):
        Collector(postgres_session).collect(HOUR, delete=True)
    assert counts(postgres_session) == {GONE: 1}


def test_finding_the_tasks_does_not_read_their_events(postgres_session: Any, store_kind: str) -> None:
    for task in (GONE, OTHER):
        append(postgres_session, task, 1000)
    assert postgres_session.events.flush()
    assert sorted(postgres_session.events.tasks()) == [GONE, OTHER]
    if store_kind == "gridfs":
        database = postgres_session.events._store._connect()
        name = f"{postgres_session.settings.schema_name}.events"
        command = {"aggregate": name, "pipeline": TASKS, "cursor": {}}
        found = str(database.command("explain", command, verbosity="executionStats"))
        assert "DISTINCT_SCAN" in found
        assert "'totalDocsExamined': 0" in found
    else:
        with postgres_session.events._store._usable() as file:
            plan = str(file.execute(f"EXPLAIN QUERY PLAN {event_file.NEXT_TASKS}", ("", 10)).fetchall())
        assert plan.count("SEARCH events USING COVERING INDEX") == 2


def test_a_collection_of_many_events_is_not_cut_short(postgres_session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any other operation on events may take seconds only."""
    insert_tasks(postgres_session, training())
    append(postgres_session, GONE, 5000)
    assert postgres_session.events.flush()
    monkeypatch.setattr("pipeline.event_collection.TIMEOUT", 1e-9)
    assert postgres_session.events.delete(Selection(task=GONE)) == 5000
    assert len(DatasetConfig()) == 1
