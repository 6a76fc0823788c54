"""Workers take only what they can give, from the view of a pod."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from pipeline.capacity import ANY, GIB, Capacity
from pipeline.claim import Worker as Identity
from pipeline.live_workers import live_workers
from pipeline.queue import Queue
from pipeline.session import Session
from pipeline.shift import Shift
from pipeline.stop import StopSignal
from pipeline.worker import Terms, Worker
from schemas.attempt import Attempt
from tests.integration.small_tasks import insert
from tests.integration.test_bad_input import TRAINING
from trainloom import TrainingConfig, TrainingResult

KEY = "training_task_md5_hash"
WANTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "two": {"devices": 2},
    "gpu": {"gpu_memory": "10Gi"},
    "host": {"memory": "32Gi"},
}
LEARNING_RATES = dict(zip(WANTS, (0.1, 0.2, 0.3, 0.4), strict=True))  # memory alone makes no other configuration
CPU = Capacity(ANY, 0, 16 * GIB)
CARD = Capacity(1, 11 * GIB, 16 * GIB)
SMALL_CARD = Capacity(1, 8 * GIB, 16 * GIB)
NODE = Capacity(4, 80 * GIB, 512 * GIB)
GROUP = Capacity(2, 80 * GIB, 512 * GIB, all_or_one=True)
LARGER_GROUP = Capacity(8, 80 * GIB, 512 * GIB, all_or_one=True)


@pytest.fixture
def keys(session: Session) -> dict[str, str]:
    """A task for each of `WANTS`."""
    return {name: insert(session, seeds=[0], training=training(name))[0][KEY] for name in WANTS}


def training(name: str) -> dict[str, Any]:
    return {
        **TRAINING,
        "optimizer_class_params": {"lr": LEARNING_RATES[name]},
        "trainer_class_params": WANTS[name],
    }


def queue(capacity: Capacity | None) -> Queue:
    return Queue(TrainingResult(), Identity(capacity=capacity))


def claimed(capacity: Capacity | None, order: str) -> set[str]:
    """The keys of all tasks that a worker would take, one after the other."""
    mine, found = queue(capacity), set()
    while (claim := mine.claim(order=order)) is not None:
        found.add(claim.key[KEY])
    assert mine.seconds_to_next() is None
    mine.connection.query(f"UPDATE {mine.jobs.full_table_name} SET status = 'pending'")
    return found


@pytest.mark.feature("S18", "B9")
@pytest.mark.parametrize("order", ["original", "random"])
def test_a_worker_claims_what_it_can_give_and_no_more(session: Session, keys: dict[str, str], order: str) -> None:
    queue(None).enqueue()
    for capacity, expected in (
        (None, set(WANTS)),
        (CPU, {"nothing", "two"}),
        (CARD, {"nothing", "gpu"}),
        (SMALL_CARD, {"nothing"}),
        (NODE, set(WANTS)),
        (GROUP, set(WANTS)),
        (LARGER_GROUP, {"nothing", "gpu", "host"}),  # the ranks of "two" would be another group
    ):
        assert claimed(capacity, order) == {keys[name] for name in expected}, capacity
    assert [queue(capacity).count_unfit() for capacity in (None, CPU, CARD, SMALL_CARD, NODE)] == [0, 2, 2, 3, 0]


def test_more_urgent_tasks_that_a_worker_cannot_give_to_do_not_hold_it_up(
    session: Session, keys: dict[str, str]
) -> None:
    mine = queue(SMALL_CARD)
    mine.enqueue()
    mine.connection.query(f"UPDATE {mine.jobs.full_table_name} SET priority = 1 WHERE {KEY} <> '{keys['nothing']}'")
    for order in ("random", "original"):
        claim = mine.claim(order=order)
        assert claim is not None and claim.key[KEY] == keys["nothing"]
        mine.connection.query(f"UPDATE {mine.jobs.full_table_name} SET status = 'pending'")
    text, args = mine.most_urgent()
    assert mine.connection.query(text, args=args).fetchone() == (5,)


def test_only_what_asks_for_more_than_usual_is_recorded(session: Session, keys: dict[str, str]) -> None:
    rows = TrainingConfig.Need().to_dicts()
    assert sorted((row["need_devices"], row["need_gpu_memory"], row["need_memory"]) for row in rows) == [
        (1, 0, 32 * GIB),
        (1, 10 * GIB, 0),
        (2, 0, 0),
    ]
    (again,) = insert(session, seeds=[0], training=training("two"))
    assert again[KEY] == keys["two"]
    assert len(TrainingConfig.Need()) == 3


def test_a_worker_says_how_many_tasks_it_leaves_alone(
    session: Session, keys: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    given: dict[str, Any] = {"heartbeat": None, "terms": Terms(), "stop": StopSignal()}
    for capacity in (SMALL_CARD, NODE):
        mine = Worker(TrainingResult(), (), {}, **given, identity=Identity(capacity=capacity))
        mine.queue.enqueue()
        with caplog.at_level(logging.WARNING, logger="trainloom"):
            Shift([mine], given["stop"], lease_seconds=60, max_tasks=None).say_what_is_unfit()
    assert [record.message for record in caplog.records] == [
        "3 waiting tasks ask for more than this worker can give (1 GPU of 8.0 GiB, 16.0 GiB of memory); a worker with "
        "more takes them"
    ]


@pytest.mark.feature("S18")
def test_populate_leaves_what_needs_a_gpu_to_workers_that_have_one(
    open_session: Callable[..., Session], backend: str
) -> None:
    session = open_session(device="cpu")
    training = {**TRAINING, "trainer_class_params": {"gpu_memory": "1Gi"}}
    (with_gpu,) = insert(session, seeds=[0], training=training)
    (without,) = insert(session, seeds=[1])
    assert TrainingResult().populate(reserve_jobs=True) == {"success_count": 1, "error_list": []}
    assert without in TrainingResult()
    assert (TrainingResult().jobs & with_gpu).fetch1("status") == "pending"


def test_an_attempt_says_in_which_pod_it_ran(
    session: Session, monkeypatch: pytest.MonkeyPatch, keys: dict[str, str]
) -> None:
    image = "registry.example/trainloom@sha256:" + "a" * 64
    for name, value in {
        "POD_NAME": "lab-workers-3-x7k2p",
        "POD_NAMESPACE": "lab",
        "NODE_NAME": "gpu-node-1",
        "IMAGE": image + "b" * 2000,
    }.items():
        monkeypatch.setenv(f"TRAINLOOM_{name}", value)
    held: list[dict[str, Any]] = []
    make_fetch = TrainingResult.make_fetch

    def watched(self: Any, key: dict[str, Any]) -> Any:
        held.extend(live_workers())
        return make_fetch(self, key)

    monkeypatch.setattr(TrainingResult, "make_fetch", watched)
    done = TrainingResult().populate({KEY: keys["nothing"]}, reserve_jobs=True)
    assert done == {"success_count": 1, "error_list": []}
    row = (Attempt() * Attempt.Pod()).fetch1()
    assert (row["attempt_pod"], row["pod_namespace"], row["pod_node"]) == ("lab-workers-3-x7k2p", "lab", "gpu-node-1")
    assert row["pod_image"] == (image + "b" * 2000)[:1023]
    assert row["pod_gpu"] == ""
    assert (held[0]["pod"], held[0]["namespace"], held[0]["node"]) == ("lab-workers-3-x7k2p", "lab", "gpu-node-1")
