"""What trainings cost: measured, added up over interrupted attempts, shown. The GPU is made up, trainings are real."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pynvml
import pytest
from datajoint.errors import DataJointError

from pipeline import gpu_meter
from pipeline.event_record import Selection
from pipeline.gpu_choice import OwnGpu
from pipeline.results import find_results
from pipeline.session import Session
from pipeline.trace import render, trace
from pipeline.training_events import TrainingEvents
from schemas.attempt import Attempt
from tests.fake_nvml import GIB, FakeLibrary, driver, two
from tests.integration.small_tasks import SEEDS, insert
from trainloom import TrainingResult

KEY = "training_task_md5_hash"
FIRST, _ = two()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLibrary]:
    """The driver of a GPU that trainings of this process are said to run on: 3.6 MJ, or 1 kWh, from look to look."""

    def work(library: FakeLibrary) -> None:
        found = library.gpus[0]
        found.energy = 3_600_000_000 * library.looks
        found.used, found.utilisation = 3 * GIB, 70

    monkeypatch.setattr(OwnGpu, "uuid", FIRST.uuid)
    with driver(FIRST) as library:
        library.on_look = work
        yield library


def usage(key: dict[str, str]) -> dict[str, Any]:
    return {name.removeprefix("usage_"): value for name, value in (TrainingResult.Usage() & key).fetch1().items()}


@pytest.mark.feature("B7")
def test_a_result_says_what_it_cost_and_every_look_is_an_event(session: Session, gpu: FakeLibrary) -> None:
    keys = insert(session)
    assert TrainingResult().populate(reserve_jobs=True)["success_count"] == len(keys)
    for key in keys:
        found = usage(key)
        assert found["device"] == FIRST.name
        assert (found["attempts"], found["unmeasured"]) == (1, 0)
        assert found["energy"] == pytest.approx(1.0)
        assert (found["peak_gpu_memory"], found["utilisation"]) == (3 * GIB, 70.0)
        assert 0 < found["gpu_hours"] * 3600 == pytest.approx(found["seconds"])
        assert found["cpu_seconds"] > 0
        assert found["peak_resident"] > 50 << 20
        (attempt,) = (Attempt & {"attempt_key": key[KEY]}).to_arrays("attempt_id")
        looks = list(session.events.read(Selection(task=key[KEY], kind="gpu")))
        assert {look["attempt"] for look in looks} <= {attempt}
        assert all(look["memory"] == 3 * GIB and look["power"] == 100.0 for look in looks)
        assert looks[-1]["energy"] == pytest.approx(3.6e6)
    assert len(Attempt.Usage()) == 0


def test_on_the_cpu_time_and_memory_are_measured(postgres_session: Session) -> None:
    (key,) = insert(postgres_session, SEEDS[:1])
    TrainingResult().populate()
    found = usage(key)
    assert found["device"] == "cpu"
    assert found["cpu_seconds"] > 0
    assert found["peak_resident"] > 50 << 20
    assert (found["gpu_hours"], found["energy"], found["peak_memory"], found["utilisation"]) == (None,) * 4
    assert postgres_session.events.count(Selection(kind="gpu")) == 0
    shown = render(trace(key))
    assert "cost on cpu: " in shown
    assert " s of processors, " in shown


@pytest.mark.feature("B7")
def test_the_cost_of_interrupted_attempts_is_added(
    session: Session, gpu: FakeLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = insert(session, SEEDS[:1])
    epoch_finished = TrainingEvents.epoch_finished

    def stop(self: TrainingEvents, epoch: int, values: Any) -> None:
        epoch_finished(self, epoch, values)
        if epoch == 0:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as interrupted:
        interrupted.setattr(TrainingEvents, "epoch_finished", stop)
        with pytest.raises(SystemExit):
            TrainingResult().populate(reserve_jobs=True)
    (kept,) = Attempt.Usage().to_dicts()
    assert kept["usage_energy"] == pytest.approx(1.0)
    TrainingResult().populate(reserve_jobs=True)
    found = usage(key)
    assert (found["attempts"], found["unmeasured"]) == (2, 0)
    assert found["energy"] == pytest.approx(2.0)
    assert found["seconds"] > kept["usage_seconds"]
    assert found["gpu_hours"] * 3600 == pytest.approx(found["seconds"])
    assert "in 2 attempts: " in render(trace(key))


def leave(key: str, outcome: str, number: int) -> str:
    """An attempt as a process leaves it that was killed."""
    name = f"{number:032x}"
    table = TrainingResult().table_name
    start = datetime(2020, 1, 1, 0, number, tzinfo=UTC).replace(tzinfo=None)
    row = {"attempt_id": name, "attempt_table": table, "attempt_key": key, "attempt_start": start}
    for column in ("worker", "host", "pod", "device", "blame", "error"):
        row[f"attempt_{column}"] = ""
    Attempt().insert1({**row, "attempt_pid": 1, "attempt_outcome": outcome})
    return name


def test_of_killed_attempts_the_events_tell(session: Session, gpu: FakeLibrary) -> None:
    (key,) = insert(session, SEEDS[:1])
    leave(key[KEY], "lost", 1)  # before the result that there was once: not a part of this one
    leave(key[KEY], "finished", 2)
    leave(key[KEY], "lost", 3)  # with no event
    lost = leave(key[KEY], "lost", 4)
    for seconds, energy in ((5.0, 1.8e6), (7200.0, 3.6e7)):
        told = {"gpu": "x", "name": "Other GPU", "seconds": seconds, "energy": energy, "attempt": lost}
        session.events.append("gpu", told, task=key[KEY])
    TrainingResult().populate(reserve_jobs=True)
    found = usage(key)
    assert (found["attempts"], found["unmeasured"]) == (2, 1)
    assert found["energy"] == pytest.approx(11.0)
    assert found["gpu_hours"] == pytest.approx(2.0, abs=0.1)
    assert found["device"] == f"Other GPU, {FIRST.name}"
    assert "without 1 that were lost" in render(trace(key))


@pytest.mark.feature("B7")
def test_a_gpu_that_is_lost_to_the_driver_ends_no_training(
    postgres_session: Session, gpu: FakeLibrary, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose(library: FakeLibrary) -> None:
        library.gpus[0].broken = pynvml.NVML_ERROR_GPU_IS_LOST if library.looks > 2 else 0

    gpu.on_look = lose
    monkeypatch.setattr(gpu_meter, "INTERVAL", 0.001)
    (key,) = insert(postgres_session, SEEDS[:1])
    assert TrainingResult().populate(reserve_jobs=True)["success_count"] == 1
    assert usage(key)["device"] == FIRST.name
    assert caplog.text.count("the GPU is not watched any longer") == 1


def test_a_cost_that_cannot_be_written_hides_no_error(
    postgres_session: Session, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("the training broke")

    def refuse(*_: Any, **__: Any) -> None:
        raise DataJointError("no room")

    insert(postgres_session, SEEDS[:1])
    monkeypatch.setattr(TrainingEvents, "epoch_finished", fail)
    monkeypatch.setattr(Attempt.Usage, "insert1", refuse)
    with pytest.raises(RuntimeError, match="the training broke"):
        TrainingResult().populate(reserve_jobs=True)
    assert caplog.text.count("what an attempt cost could not be written: no room") == 1


def test_results_without_a_cost_are_shown_as_before(postgres_session: Session) -> None:
    """Those of older releases."""
    (key,) = insert(postgres_session, SEEDS[:1])
    TrainingResult().populate()
    (found,) = find_results(columns=["task", "usage_device"])
    assert found == {"task": key[KEY], "usage_device": "cpu"}
    TrainingResult.Usage().delete_quick()
    assert trace(key)["result"]["usage"] is None
    assert "cost on" not in render(trace(key))
    assert find_results(columns=["task", "usage_device"]) == [{"task": key[KEY], "usage_device": None}]


def test_results_are_sorted_by_what_they_cost(session: Session) -> None:
    insert(session)
    TrainingResult().populate()
    costs = [row["usage_cpu_seconds"] for row in find_results(sort="usage_cpu_seconds", columns=["usage_cpu_seconds"])]
    assert costs == sorted(costs)
    assert find_results("usage_device=cpu", columns=["usage_device"]) == [{"usage_device": "cpu"}] * len(SEEDS)
    assert find_results("usage_seconds < 0") == []
