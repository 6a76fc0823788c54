"""What the tests of disturbed workers share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.held_worker import HeldWorker
from tests.integration.small_tasks import insert, trained_alone
from trainers.learner import Learner

LEASE = 2.5  # s; short where a test waits for its end


@pytest.fixture(scope="module")
def undisturbed(server_home: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results that the small tasks have when nothing happens to their trainings."""
    return trained_alone(server_home, tmp_path_factory.mktemp("undisturbed"), insert)


@pytest.fixture
def impatience(project_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Short leases and delays."""
    for name, value in {
        "HEARTBEAT_SECONDS": 0.3,
        "LEASE_SECONDS": LEASE,
        "RETRY_SECONDS": 0.2,
        "STORE_AWAY_SECONDS": 60,
        "RECONNECT_SECONDS": 60,
    }.items():
        monkeypatch.setenv(f"TRAINLOOM_{name}", str(value))


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Callable[..., HeldWorker]]:
    """Starts a worker; returns it when it waits at its stage."""
    started: list[HeldWorker] = []

    def start(stage: str | None, host: str = "", table: str = "TrainingResult", **environment: str) -> HeldWorker:
        worker = HeldWorker(stage, tmp_path / f"worker-{len(started)}.log", host, table, **environment)
        started.append(worker)
        if stage is not None:
            worker.await_stage()
        return worker

    yield start
    for worker in started:
        worker.close()


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every batch that this process trains."""
    taken: list[int] = []
    step = Learner.step

    def counted(self: Learner, *batch: Any) -> Any:
        taken.append(1)
        return step(self, *batch)

    monkeypatch.setattr(Learner, "step", counted)
    return taken
