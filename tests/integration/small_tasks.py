"""Small tasks whose trainings draw random numbers, and what must hold when others have disturbed them."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from pipeline.home import Home
from pipeline.session import Session
from pipeline.store.interface import parse_address
from schemas.attempt import Attempt
from tests.integration.held_worker import awaited
from tests.integration.test_bad_input import DATASET, TRAINING, write
from tests.integration.test_connection import KILL, other_connection
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
    # Whether the last state stays would depend on how long somebody holds the worker.
    "trainer_class_params": {"checkpoint_epochs": 1, "checkpoints_kept_last": False, "metrics": ["accuracy"]},
}
OTHERS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'",
    "mysql": "SELECT id FROM information_schema.processlist WHERE user = 'root'",
}


def insert(
    session: Session, seeds: Iterable[int] = SEEDS, model: Any = DROPOUT, training: Any = SHUFFLED
) -> list[dict[str, str]]:
    """Small tasks with shuffling, dropout and a checkpoint after every epoch."""
    write(session.folders.dataset_dir / "data.h5")
    return TrainingTask().insert_grid(
        DatasetConfig().insert_tuples(DATASET),
        ModelConfig().insert_tuples(model),
        TrainingConfig().insert_tuples(training),
        seeds=seeds,
    )


def result(key: dict[str, str]) -> dict[str, Any]:
    """All of a result that must be the same whatever happened."""
    row = (TrainingResult() & key).fetch1()
    for name in ("duration", "utc_insert_time"):
        del row[name]
    metrics = (TrainingResult.Metric() & key).to_dicts(order_by="metric_name")
    return {**row, "metrics": metrics, "artifacts": (TrainingResult.Artifact() & key).to_dicts()}


def trained_alone(
    home: Home, folder: Path, insert_tasks: Callable[[Session], list[dict[str, str]]], count: int | None = None
) -> dict[str, Any]:
    """The results of trainings to which nothing happens, in a project of their own, by task; of the first `count` only.

    Keys are made of contents, so every project has the same. No session may be open.
    """
    (folder / "datasets").mkdir()
    project = f"u{uuid.uuid4().hex[:12]}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRAINLOOM_HOME", str(home.path))
        with connect(
            project=project,
            mongo_database=project,
            dataset_dir=folder / "datasets",
            dataset_cache_dir=folder / "cache",
            model_save_dir=folder / "models",
            torch_threads=1,
        ) as session:
            keys = insert_tasks(session)[:count]
            TrainingResult().populate(keys, reserve_jobs=True)
            return {key["training_task_md5_hash"]: result(key) for key in keys}


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


def cut_connections(session: Session, choose: Callable[[list[int]], list[int]] = lambda found: found) -> None:
    """Kill every connection to the database but this session's, or those chosen."""
    other = other_connection(session)
    backend = other.adapter.backend
    spared = {other.connection_id, session.connection.connection_id}
    for number in choose([number for (number,) in other.query(OTHERS[backend]).fetchall() if number not in spared]):
        try:
            other.query(KILL[backend] % number)
        except Exception as error:  # it has ended by itself meanwhile
            assert "Unknown thread id" in str(error)
    other.close()
