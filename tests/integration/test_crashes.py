"""A worker dies, is stopped or loses what it needs at every stage of a task: every task gets its one result, bit for bit
that of an undisturbed training."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.services import MongoServer, PostgresServer
from pipeline.session import Session
from pipeline.store.interface import parse_address
from schemas.attempt import Attempt
from schemas.checkpoint import Checkpoint
from tests.conftest import BACKENDS
from tests.integration.held_worker import HeldWorker, awaited
from tests.integration.test_bad_input import DATASET, TRAINING, write
from tests.integration.test_connection import KILL, other_connection
from trainers.nn_trainer import NNTrainer
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask, connect

EPOCHS, BATCHES = 3, 4  # of the training tier
SEEDS = (0, 1)
STEPS = len(SEEDS) * EPOCHS * BATCHES
DROPOUT = {
    "model_class_module_name": "models_impl.simple_mlp",
    "model_class_name": "SimpleMLP",
    "model_class_params": {"hidden_size": 8, "dropout": 0.3},
}
SHUFFLED = {
    **TRAINING,
    "epoch_limit": EPOCHS,
    "trainer_class_params": {"checkpoint_epochs": 1, "metrics": ["accuracy"]},
}
LEASE = 2.5  # s; short where a test waits for its end
LONG_LEASE = {"TRAINLOOM_LEASE_SECONDS": "30"}  # s; where it must not end while a server starts
OTHERS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'",
    "mysql": "SELECT id FROM information_schema.processlist WHERE user = 'root'",
}
FILLER = "filler"


def insert(session: Session, seeds: Any = SEEDS, model: dict[str, Any] = DROPOUT) -> list[dict[str, str]]:
    """Small tasks with shuffling, dropout and a checkpoint after every epoch."""
    write(session.folders.dataset_dir / "data.h5")
    return TrainingTask().insert_grid(
        DatasetConfig().insert_tuples(DATASET),
        ModelConfig().insert_tuples(model),
        TrainingConfig().insert_tuples(SHUFFLED),
        seeds=seeds,
    )


def result(key: dict[str, str]) -> dict[str, Any]:
    """All of a result that must be the same whatever happened."""
    row = (TrainingResult() & key).fetch1()
    for name in ("duration", "utc_insert_time"):
        del row[name]
    metrics = (TrainingResult.Metric() & key).to_dicts(order_by="metric_name")
    return {**row, "metrics": metrics, "artifacts": (TrainingResult.Artifact() & key).to_dicts()}


@pytest.fixture(scope="module")
def undisturbed(server_home: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of trainings to which nothing happens, by task: keys are made of contents, so every project has the
    same."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "datasets").mkdir()
    project = f"u{uuid.uuid4().hex[:12]}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRAINLOOM_HOME", str(server_home.path))
        with connect(
            project=project,
            mongo_database=project,
            dataset_dir=folder / "datasets",
            dataset_cache_dir=folder / "cache",
            model_save_dir=folder / "models",
            torch_threads=1,
        ) as session:
            keys = insert(session)
            TrainingResult().populate(reserve_jobs=True)
            return {key["training_task_md5_hash"]: result(key) for key in keys}


@pytest.fixture(autouse=True)
def impatience(project_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
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

    def start(stage: str | None, **environment: str) -> HeldWorker:
        worker = HeldWorker(stage, tmp_path / f"worker-{len(started)}.log", **environment)
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
    step = NNTrainer._step

    def counted(self: Any, *batch: Any) -> Any:
        taken.append(1)
        return step(self, *batch)

    monkeypatch.setattr(NNTrainer, "_step", counted)
    return taken


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


def outcomes() -> Counter[str]:
    return Counter(row["attempt_outcome"] for row in Attempt().proj("attempt_outcome").to_dicts())


def finish(keys: list[dict[str, str]]) -> None:
    """Another worker, this process, computes whatever is left."""

    def done() -> bool:
        TrainingResult().populate(reserve_jobs=True, suppress_errors=True)
        return all(key in TrainingResult() for key in keys)

    awaited(done, lambda: f"jobs {TrainingResult().jobs.to_dicts()}, attempts {Attempt().to_dicts()}")


def assert_settled(session: Session, keys: list[dict[str, str]], undisturbed: dict[str, Any]) -> None:
    """Every task has one result, the undisturbed one, whole; nothing is stuck or half-written."""
    for key in keys:
        found = result(key)
        assert found == undisturbed[key["training_task_md5_hash"]]
        assert len(found["artifacts"]) == len(TrainingResult.Provenance() & key) == 1
        assert session.store.get_bytes(parse_address(found["model_save_path"]))  # verified while it is read
        finished = Attempt() & {"attempt_key": key["training_task_md5_hash"]} & "attempt_outcome = 'finished'"
        assert len(finished) == 1
    assert len(TrainingResult()) == len(keys)
    assert TrainingResult().jobs.to_dicts() == []
    assert outcomes()["running"] == 0
    assert len(Attempt() & "attempt_end IS NULL") == 0
    assert list(session.folders.model_save_dir.parent.rglob(".unfinished*")) == []
    assert list(session.folders.model_save_dir.rglob("*.checkpoint")) == []


@dataclass
class Cell:
    """One square of the matrix: a worker that waits at a stage, and all around it."""

    worker: HeldWorker
    session: Session
    home: Any
    keys: list[dict[str, str]]


def cut_connections(session: Session) -> None:
    """Kill every connection to the database but this session's."""
    other = other_connection(session)
    backend = other.adapter.backend
    spared = {other.connection_id, session.connection.connection_id}
    for (number,) in other.query(OTHERS[backend]).fetchall():
        if number not in spared:
            try:
                other.query(KILL[backend] % number)
            except Exception as error:  # it has ended by itself meanwhile
                assert "Unknown thread id" in str(error)
    other.close()


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
    server = PostgresServer(cell.home)
    assert server.stop()
    cell.worker.release()
    server.ensure_running()
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
STAGES = ("claim", "data", "epoch", "checkpoint", "publication", "insert")
FAST = {("SIGKILL", "epoch"), ("SIGTERM", "epoch"), ("pause", "epoch"), ("connections cut", "insert")}
ON_MARIADB = {
    *(("SIGKILL", stage) for stage in ("claim", "epoch", "insert")),
    *(("pause", stage) for stage in ("epoch", "publication", "insert")),
    *(("connections cut", stage) for stage in STAGES),
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
        return stage in ("publication", "insert")
    return fault != "SIGKILL"


ENDS = {"SIGKILL": "lost", "pause": "lost", "SIGTERM": "preempted", "ENOSPC": "failed"}
# Batches of the held task that nobody trains again: those before the last checkpoint.
SAVED = {
    "SIGKILL": {"claim": 0, "data": 0, "epoch": 4, "checkpoint": 4, "publication": 12, "insert": 12},
    "SIGTERM": {"claim": 0, "data": 0, "epoch": 7, "checkpoint": 8, "publication": 12, "insert": 12},
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
    cell = Cell(worker, session, server_home, keys)
    (pause_in_transaction if (fault, stage) == ("pause", "insert") else FAULTS[fault])(cell)
    finish(keys)
    assert_settled(session, keys, undisturbed)
    of_held = [row["attempt_outcome"] for row in (Attempt() & {"attempt_key": held}).to_dicts(order_by="attempt_start")]
    assert of_held == (["finished"] if survives(fault, stage) else [ENDS[fault], "finished"])
    if fault in SAVED:
        assert len(steps) == STEPS - SAVED[fault][stage]
