"""What people, clocks and other workers do to a task while it trains, and what a worker lacks."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from datajoint.errors import LostConnectionError

from pipeline import task_queue
from pipeline.connection import HealingConnection
from pipeline.queue import Queue
from pipeline.services import MongoServer
from pipeline.session import Session
from schemas.attempt import Attempt
from schemas.checkpoint import Checkpoint
from tests.integration.conftest import LEASE
from tests.integration.held_worker import HeldWorker, awaited
from tests.integration.small_tasks import (
    BATCHES,
    DROPOUT,
    EPOCHS,
    SEEDS,
    SHUFFLED,
    STEPS,
    assert_settled,
    cut_connections,
    finish,
    insert,
    outcomes,
)
from tests.integration.test_connection import other_connection
from trainloom import TrainingResult, TrainingTask

pytestmark = pytest.mark.usefixtures("impatience")

LONG_LEASE = {"TRAINLOOM_LEASE_SECONDS": "30"}  # s; where it must not end while a server starts
LAB_NET = """
from models_impl.simple_mlp import SimpleMLP

class LabNet(SimpleMLP):
    pass
"""
MODEL_OF_LAB = {**DROPOUT, "model_class_module_name": "lab_net", "model_class_name": "LabNet"}


def test_a_claim_whose_answer_was_lost_takes_no_second_job(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = insert(session)
    queue = Queue(TrainingResult())
    queue.enqueue()
    lost: list[int] = []
    run = HealingConnection._execute_query

    def lose_the_answer(self: HealingConnection, cursor: Any, query: str, *rest: Any) -> None:
        run(self, cursor, query, *rest)
        if not lost and query.startswith(("WITH pick", "BEGIN NOT ATOMIC", "COMMIT")):
            lost.append(1)
            self._conn.close()
            raise LostConnectionError("the server went away")

    monkeypatch.setattr(HealingConnection, "_execute_query", lose_the_answer)
    claims = [queue.claim(), queue.claim()]
    assert lost
    assert sorted(claim.key["training_task_md5_hash"] for claim in claims) == sorted(
        key["training_task_md5_hash"] for key in keys
    )
    assert queue.claim() is None
    assert outcomes() == {"running": 2}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["epoch", "publication", "insert"])
def test_a_task_that_is_deleted_while_it_trains_harms_nothing(
    session: Session, undisturbed: dict[str, Any], hold: Callable[..., HeldWorker], stage: str
) -> None:
    keys = insert(session)
    worker = hold(stage)
    held = {"training_task_md5_hash": Attempt().fetch1("attempt_key")}
    if stage == "insert":  # whoever deletes waits for the transaction, and may have to do it again
        threading.Timer(0.5, worker.release).start()
        with suppress(psycopg2.errors.RestrictViolation):
            (TrainingTask() & held).delete(prompt=False)
    else:
        (TrainingTask() & held).delete(prompt=False)
        worker.release()
    assert worker.end() == 0, worker.said
    (TrainingTask() & held).delete(prompt=False)
    left = [key for key in keys if key != held]
    assert_settled(session, left, undisturbed)
    assert len(TrainingTask()) == len(left)
    assert len(Checkpoint()) == 0
    assert outcomes() == ({"finished": 2} if stage == "insert" else {"finished": 1, "cancelled": 1})


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["epoch", "publication"])
def test_a_task_that_is_cancelled_while_it_trains_is_left_out_until_it_is_wanted_again(
    session: Session, undisturbed: dict[str, Any], hold: Callable[..., HeldWorker], stage: str, steps: list[int]
) -> None:
    keys = insert(session)
    worker = hold(stage)
    held = {"training_task_md5_hash": Attempt().fetch1("attempt_key")}
    assert task_queue.cancel(held.values()) == [*held.values()]
    worker.release()
    assert worker.end() == 0, worker.said
    assert held not in TrainingResult()
    assert TrainingResult().jobs.fetch1("status") == "ignore"
    assert outcomes() == {"finished": 1, "cancelled": 1}
    task_queue.retry(held.values())
    finish(keys)
    assert_settled(session, keys, undisturbed)
    assert len(steps) < EPOCHS * BATCHES


def test_a_failure_of_a_task_that_was_cancelled_meanwhile_is_none(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(session, seeds=SEEDS[:1])

    def cancelled(table: TrainingResult, key: dict[str, Any], *fetched: Any) -> None:
        task_queue.cancel(key.values())
        raise FileNotFoundError("a file that went with the task")

    monkeypatch.setattr(TrainingResult, "make_compute", cancelled)
    assert TrainingResult().populate(reserve_jobs=True) == {"success_count": 0, "error_list": []}
    assert outcomes() == {"cancelled": 1}
    assert TrainingResult().jobs.fetch1("status") == "ignore"


@pytest.mark.slow
def test_a_task_that_is_given_another_priority_while_it_trains_goes_on(
    session: Session, undisturbed: dict[str, Any], hold: Callable[..., HeldWorker]
) -> None:
    keys = insert(session)
    worker = hold("epoch")
    task_queue.prioritize([Attempt().fetch1("attempt_key")], 1)
    worker.release()
    assert worker.end() == 0, worker.said
    assert_settled(session, keys, undisturbed)
    assert outcomes() == {"finished": 2}


def test_a_worker_that_wakes_writes_nothing_while_another_has_its_task(
    postgres_session: Session, undisturbed: dict[str, Any], hold: Callable[..., HeldWorker]
) -> None:
    keys = insert(postgres_session, seeds=SEEDS[:1])
    sleeper = hold("publication")
    sleeper.send(signal.SIGSTOP)
    queue = Queue(TrainingResult())
    awaited(lambda: queue.reclaim(LEASE) != [], lambda: str(queue.jobs.to_dicts()))
    other = hold("publication")
    sleeper.send(signal.SIGCONT)
    sleeper.release()
    assert sleeper.end() == 0, sleeper.said
    assert len(TrainingResult()) == len(TrainingResult.Artifact()) == 0
    assert queue.jobs.fetch1("status") == "reserved"
    other.release()
    assert other.end() == 0, other.said
    assert_settled(postgres_session, keys, undisturbed)
    assert outcomes() == {"lost": 1, "finished": 1}


@pytest.mark.slow
def test_a_worker_on_another_node_goes_on_from_the_store(
    session: Session, undisturbed: dict[str, Any], hold: Callable[..., HeldWorker], tmp_path: Path, steps: list[int]
) -> None:
    keys = insert(session)
    node = {f"TRAINLOOM_{name}_DIR": str(tmp_path / "node" / name) for name in ("MODEL_SAVE", "DATASET_CACHE")}
    worker = hold("epoch", **node)
    worker.send(signal.SIGTERM)
    worker.release()
    assert worker.end() == 143, worker.said
    shutil.rmtree(tmp_path / "node")
    finish(keys)
    assert_settled(session, keys, undisturbed)
    assert len(steps) == STEPS - (BATCHES + 3)


def test_states_of_a_training_that_another_node_has_finished_do_not_stay(
    postgres_session: Session, hold: Callable[..., HeldWorker], tmp_path: Path
) -> None:
    keys = insert(postgres_session, seeds=SEEDS[:1])
    node = {f"TRAINLOOM_{name}_DIR": str(tmp_path / "node" / name) for name in ("MODEL_SAVE", "DATASET_CACHE")}
    worker = hold("epoch", **node)
    worker.kill()
    assert [*(tmp_path / "node").rglob("*.checkpoint")]
    finish(keys)
    assert hold(None, **node).end() == 0
    assert not [*(tmp_path / "node").rglob("*.checkpoint")]


@pytest.mark.slow
def test_a_store_that_stays_away_ends_the_attempt_and_not_the_worker(
    postgres_session: Session, undisturbed: dict[str, Any], hold: Callable[..., HeldWorker], server_home: Any
) -> None:
    keys = insert(postgres_session)
    worker = hold("checkpoint", **LONG_LEASE, TRAINLOOM_STORE_AWAY_SECONDS="0.5")
    server = MongoServer(server_home)
    assert server.stop()
    try:
        worker.release()
        awaited(lambda: outcomes()["preempted"] > 1, lambda: worker.said)
        assert list(postgres_session.folders.model_save_dir.rglob("epoch000002*.checkpoint"))
    finally:
        server.ensure_running()
    assert worker.end() == 0, worker.said
    assert_settled(postgres_session, keys, undisturbed)
    assert {*outcomes()} == {"preempted", "finished"}


@pytest.mark.slow
def test_a_task_whose_workers_keep_dying_is_set_aside(
    backend: str, open_session: Callable[..., Session], hold: Callable[..., HeldWorker]
) -> None:
    session = open_session(max_attempts=2)
    insert(session, seeds=SEEDS[:1])
    for _ in range(2):
        awaited(lambda: status_of_job() == "pending", lambda: str(Attempt().to_dicts()))
        hold("data").kill()
    awaited(lambda: status_of_job() == "error", lambda: str(Attempt().to_dicts()))
    assert "2 attempts failed or were lost" in TrainingResult().jobs.fetch1("error_message")
    assert outcomes() == {"lost": 2}
    assert len(TrainingResult()) == 0


def status_of_job() -> str:
    """What became of the only job; this process takes it back from the dead, and trains nothing that is not urgent."""
    TrainingResult().populate(reserve_jobs=True, priority=0)
    return str(TrainingResult().jobs.fetch1("status"))


@pytest.fixture
def lab(backend: str, open_session: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A session with a class of one's own; a folder that lacks it, as a stale image does."""
    for name in ("code", "stale"):
        (tmp_path / name).mkdir()
    (tmp_path / "code" / "lab_net.py").write_text(LAB_NET)
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "lab_net, lab_trainer")
    monkeypatch.setenv("TRAINLOOM_CODE_DIR", str(tmp_path / "code"))
    sys.modules.pop("lab_net", None)
    yield open_session()
    sys.modules.pop("lab_net", None)


@pytest.mark.slow
def test_a_worker_whose_image_lacks_the_class_ends_and_another_trains_all(
    lab: Session, hold: Callable[..., HeldWorker], tmp_path: Path
) -> None:
    keys = insert(lab, seeds=range(4), model=MODEL_OF_LAB)
    worker = hold(None, TRAINLOOM_CODE_DIR=str(tmp_path / "stale"))
    assert worker.end() == 78, worker.said
    assert "3 tasks in a row could not be trained for what this worker lacks" in worker.said
    assert [row["attempt_blame"] for row in Attempt().to_dicts()] == ["worker"] * 3
    finish(keys)
    assert outcomes() == {"failed": 3, "finished": 4}
    assert TrainingResult().jobs.to_dicts() == []


@pytest.mark.slow
def test_a_task_is_set_aside_for_what_two_hosts_lack(
    lab: Session, hold: Callable[..., HeldWorker], tmp_path: Path
) -> None:
    insert(lab, seeds=SEEDS[:1], model=MODEL_OF_LAB)
    stale = {"TRAINLOOM_CODE_DIR": str(tmp_path / "stale")}
    for host, status in (("first", "pending"), ("first", "pending"), ("second", "error")):
        tried = len(Attempt())
        awaited(lambda: Queue(TrainingResult()).seconds_to_next() in (0.0, None), lambda: "the job is never due")
        assert hold(None, host, **stale).end() == 0
        assert len(Attempt()) == tried + 1
        assert TrainingResult().jobs.fetch1("status") == status
    assert "lab_net" in TrainingResult().jobs.fetch1("error_message")


PLAIN_TRAINER = """
import pathlib, time

class PlainTrainer:
    def __init__(self, train_dataloader=None, validation_dataloader=None, test_dataloader=None, device=None,
                 model_class=None, model_class_params=None, optimizer_class=None, optimizer_class_params=None,
                 criterion_class=None, criterion_class_params=None, model_save_path=None, max_epoch=None):
        self.train_dataloader = train_dataloader

    def train(self):
        while not pathlib.Path(__file__).with_name("enough").exists():
            for batch in self.train_dataloader:
                time.sleep(0.02)

    def validate(self):
        return 0.0

    def evaluate(self, return_outputs_targets_and_loss=False):
        return 0.0

    def load_best_performing_model(self):
        pass
"""


@pytest.fixture
def slow_plain_training(lab: Session, tmp_path: Path) -> Iterator[dict[str, str]]:
    """A task whose trainer knows nothing of progress and stops, and trains until there is a file `enough`."""
    (tmp_path / "code" / "lab_trainer.py").write_text(PLAIN_TRAINER)
    trainer = {
        "trainer_class_module_name": "lab_trainer",
        "trainer_class_name": "PlainTrainer",
        "trainer_class_params": {},
    }
    [key] = insert(lab, SEEDS[:1], training={**SHUFFLED, **trainer})
    yield key
    (tmp_path / "code" / "enough").touch()


@pytest.mark.slow
def test_a_trainer_that_knows_nothing_of_progress_keeps_its_task(
    slow_plain_training: dict[str, str], hold: Callable[..., HeldWorker], tmp_path: Path
) -> None:
    worker = hold(None, TRAINLOOM_STALL_SECONDS="1")
    long = timedelta(seconds=2 * LEASE)
    awaited(lambda: bool(Attempt() & "attempt_beat IS NOT NULL"), lambda: worker.said)

    def has_run_for_long() -> bool:
        row = Attempt().fetch1()
        return bool(row["attempt_beat"] - row["attempt_start"] > long)

    awaited(has_run_for_long, lambda: worker.said)
    assert Queue(TrainingResult()).reclaim(LEASE) == []
    (tmp_path / "code" / "enough").touch()
    assert worker.end() == 0, worker.said
    assert slow_plain_training in TrainingResult()
    assert outcomes() == {"finished": 1}


@pytest.mark.slow
def test_a_trainer_that_knows_nothing_of_stops_is_cancelled(
    slow_plain_training: dict[str, str], hold: Callable[..., HeldWorker]
) -> None:
    worker = hold(None)
    awaited(lambda: bool(Attempt() & "attempt_beat IS NOT NULL"), lambda: worker.said)
    task_queue.cancel(slow_plain_training.values())
    assert worker.end() == 0, worker.said
    assert len(TrainingResult()) == 0
    assert outcomes() == {"cancelled": 1}


@pytest.fixture
def server_zone(session: Session) -> Iterator[Callable[[int], None]]:
    """Sets the server's time zone for new connections, in hours east of Greenwich."""

    def choose(hours: int) -> None:
        other = other_connection(session)
        if other.adapter.backend == "postgresql":
            other.query(f"ALTER DATABASE trainloom SET timezone TO 'Etc/GMT{-hours:+}'")
        else:
            other.query(f"SET GLOBAL time_zone = '{hours:+03}:00'")
        other.close()

    yield choose
    choose(0)


@pytest.fixture
def summer_time(monkeypatch: pytest.MonkeyPatch) -> Iterator[datetime]:
    """This process and those that it starts are in a time zone that changes to summer time in some seconds."""
    change = (datetime.now(UTC) + timedelta(seconds=6)).replace(microsecond=0)
    local = change + timedelta(hours=1)
    day = local.timetuple().tm_yday - 1
    zone = f"WIN-1SUM-2,{day}/{local:%H:%M:%S},J365/23:59:59"
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert time.localtime(change.timestamp() - 1).tm_isdst == 0
    assert time.localtime(change.timestamp() + 1).tm_isdst == 1
    yield change
    monkeypatch.undo()
    time.tzset()


@pytest.mark.slow
def test_leases_hold_and_end_over_a_change_to_summer_time(
    session: Session,
    undisturbed: dict[str, Any],
    hold: Callable[..., HeldWorker],
    server_zone: Callable[[int], None],
    summer_time: datetime,
) -> None:
    keys = insert(session)
    server_zone(-5)
    worker = hold("epoch", TZ=os.environ["TZ"])
    queue = Queue(TrainingResult())
    awaited(lambda: datetime.now(UTC) > summer_time, lambda: "time stands still")
    server_zone(-4)
    cut_connections(session)
    beat = (Attempt() & "attempt_outcome = 'running'").fetch1("attempt_beat")
    awaited(lambda: Attempt().fetch1("attempt_beat") > beat, lambda: worker.said)
    assert queue.reclaim(LEASE) == []
    worker.kill()
    finish(keys)
    assert_settled(session, keys, undisturbed)
    assert outcomes() == {"lost": 1, "finished": 2}
    now = datetime.now(UTC).replace(tzinfo=None)
    for row in Attempt().to_dicts():
        assert timedelta(0) <= row["attempt_end"] - row["attempt_start"] < timedelta(minutes=2)
        assert now - timedelta(minutes=2) < row["attempt_start"] <= now + timedelta(seconds=1)
