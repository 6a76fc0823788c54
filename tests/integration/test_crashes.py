"""A worker dies, is stopped or loses what it needs at every stage of a task: every task gets its one result, bit for
bit that of an undisturbed training."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.services import MongoServer, PostgresServer
from pipeline.session import Session
from schemas.attempt import Attempt
from tests.conftest import BACKENDS
from tests.integration.held_worker import HeldWorker, awaited
from tests.integration.small_tasks import STEPS, assert_settled, cut_connections, finish, insert
from trainloom import TrainingResult

pytestmark = pytest.mark.usefixtures("impatience")

LONG_LEASE = {"TRAINLOOM_LEASE_SECONDS": "30"}  # s; where it must not end while a server starts
FILLER = "filler"


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system of its own, 4 MB, for weights, checkpoints and cached data."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted: {mounted.stderr.decode().strip()}")
    monkeypatch.setenv("TRAINLOOM_MODEL_SAVE_DIR", str(folder / "models"))
    monkeypatch.setenv("TRAINLOOM_DATASET_CACHE_DIR", str(folder / "cache"))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@dataclass
class Cell:
    """One square of the matrix: a worker that waits at a stage, and all around it."""

    worker: HeldWorker
    session: Session
    home: Any
    database: Any
    keys: list[dict[str, str]]


def sigkill(cell: Cell) -> None:
    cell.worker.kill()


def sigterm(cell: Cell) -> None:
    cell.worker.send(signal.SIGTERM)
    cell.worker.release()
    assert cell.worker.end() == 143, cell.worker.said


def pause(cell: Cell) -> None:
    """Stopped until others have finished everything; then it wakes and must not write."""
    cell.worker.send(signal.SIGSTOP)
    finish(cell.keys)
    cell.worker.send(signal.SIGCONT)
    cell.worker.release()
    assert cell.worker.end() == 0, cell.worker.said


def pause_in_transaction(cell: Cell) -> None:
    """Stopped with all written but not committed: the others leave the locked job alone, and it may commit."""
    cell.worker.send(signal.SIGSTOP)
    finish(cell.keys[1:])
    TrainingResult().populate(reserve_jobs=True)
    assert len(TrainingResult()) == len(cell.keys) - 1
    cell.worker.send(signal.SIGCONT)
    cell.worker.release()
    assert cell.worker.end() == 0, cell.worker.said


def cut(cell: Cell) -> None:
    cut_connections(cell.session)
    cell.worker.release()
    assert cell.worker.end() == 0, cell.worker.said


def sql_restart(cell: Cell) -> None:
    assert cell.database.stop()
    cell.worker.release()
    cell.database.ensure_running()
    assert cell.worker.end() == 0, cell.worker.said


def mongo_away(cell: Cell) -> None:
    """MongoDB is away until the worker has missed it."""
    server = MongoServer(cell.home)
    assert server.stop()
    try:
        cell.worker.release()
        awaited(lambda: "trying again" in cell.worker.said, lambda: cell.worker.said)
    finally:
        server.ensure_running()
    assert cell.worker.end() == 0, cell.worker.said


def disk_full(cell: Cell) -> None:
    """The node's disk has no room until the worker has ended."""
    disk = cell.session.folders.model_save_dir.parent
    with open(disk / FILLER, "wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(1 << 12))
    cell.worker.release()
    code = cell.worker.end()
    assert code == 0, cell.worker.said
    (disk / FILLER).unlink()


FAULTS: dict[str, Callable[[Cell], None]] = {
    "SIGKILL": sigkill,
    "SIGTERM": sigterm,
    "pause": pause,
    "connections cut": cut,
    "SQL restart": sql_restart,
    "mongod away": mongo_away,
    "ENOSPC": disk_full,
}
STAGES = ("claim", "data", "epoch", "checkpoint", "upload", "publication", "insert")
FAST = {("SIGKILL", "epoch"), ("SIGTERM", "epoch"), ("pause", "epoch"), ("connections cut", "insert")}
ON_MARIADB = {
    *(("SIGKILL", stage) for stage in ("claim", "epoch", "insert")),
    *(("pause", stage) for stage in ("epoch", "publication", "insert")),
    *(("connections cut", stage) for stage in STAGES),
    *(("SQL restart", stage) for stage in STAGES),
    ("SIGTERM", "epoch"),
}
OUTAGES = {"connections cut", "SQL restart", "mongod away", "ENOSPC"}
POSTGRESQL, MARIADB = BACKENDS[0], BACKENDS[1]


def cells() -> Iterator[Any]:
    for fault in FAULTS:
        for stage in STAGES:
            marks = [] if (fault, stage) in FAST else [pytest.mark.slow]
            yield pytest.param(POSTGRESQL, fault, stage, marks=marks, id=f"{fault}-{stage}-postgresql")
            if (fault, stage) in ON_MARIADB:
                marks = [*MARIADB.marks, pytest.mark.slow]
                yield pytest.param("mariadb", fault, stage, marks=marks, id=f"{fault}-{stage}-mariadb")


def survives(fault: str, stage: str) -> bool:
    """Whether the attempt that is held finishes all the same."""
    if fault == "pause":
        return stage == "insert"
    if fault in ("SIGTERM", "ENOSPC"):
        return stage in ("upload", "publication", "insert")
    return fault != "SIGKILL"


ENDS = {"SIGKILL": "lost", "pause": "lost", "SIGTERM": "preempted", "ENOSPC": "failed"}
# Batches of the held task that nobody trains again: those before the last checkpoint.
SAVED = {
    "SIGKILL": {"claim": 0, "data": 0, "epoch": 4, "checkpoint": 4, "upload": 12, "publication": 12, "insert": 12},
    "SIGTERM": {"claim": 0, "data": 0, "epoch": 7, "checkpoint": 8, "upload": 12, "publication": 12, "insert": 12},
}


@pytest.mark.parametrize(("backend", "fault", "stage"), [*cells()], indirect=["backend"])
def test_every_task_ends_with_its_one_result(
    request: pytest.FixtureRequest,
    undisturbed: dict[str, Any],
    backend: str,
    fault: str,
    stage: str,
    server_home: Any,
    hold: Callable[..., HeldWorker],
    steps: list[int],
) -> None:
    if fault == "ENOSPC":
        request.getfixturevalue("small_disk")
    session = request.getfixturevalue("session")
    keys = insert(session)
    worker = hold(stage, **(LONG_LEASE if fault in OUTAGES else {}))
    held = Attempt().fetch1("attempt_key")
    server = PostgresServer(server_home) if backend == "postgresql" else request.getfixturevalue("mariadb_server")
    cell = Cell(worker, session, server_home, server, keys)
    (pause_in_transaction if (fault, stage) == ("pause", "insert") else FAULTS[fault])(cell)
    finish(keys)
    assert_settled(session, keys, undisturbed)
    of_held = [row["attempt_outcome"] for row in (Attempt() & {"attempt_key": held}).to_dicts(order_by="attempt_start")]
    assert of_held == (["finished"] if survives(fault, stage) else [ENDS[fault], "finished"])
    if fault in SAVED:
        assert len(steps) == STEPS - SAVED[fault][stage]
