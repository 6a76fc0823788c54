"""Tasks that are trained on two devices: the numbers, and what becomes of them when a process ends too soon."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.session import Session
from schemas.attempt import Attempt
from schemas.checkpoint import Checkpoint
from tests.integration.held_worker import HeldWorker, awaited
from tests.integration.small_tasks import SHUFFLED, assert_settled, finish, insert, outcomes, trained_alone
from trainloom import TrainingConfig, TrainingResult

pytestmark = [pytest.mark.feature("B9"), pytest.mark.usefixtures("impatience", "lab")]

TOLERANCE = 1e-5  # as docs/data-parallel.md promises
PARALLEL = {
    **SHUFFLED,
    "batch_size": 5,
    "trainer_class_params": {**SHUFFLED["trainer_class_params"], "devices": 2},
}
LAB = """
import os
import signal
import time
from pathlib import Path

from models_impl.simple_mlp import SimpleMLP

TRICKS = Path(os.environ["LAB_TRICKS"])


class LabNet(SimpleMLP):
    '''Does what the files in a folder say at the seventh batch that it trains in a rank: they name the rank.'''

    trained = 0

    def forward(self, x):
        LabNet.trained += self.training
        if LabNet.trained == 7 and self.training and "RANK" in os.environ:
            self._play(os.environ["RANK"])
        return super().forward(x)

    def _play(self, rank):
        secrets = [name for name in os.environ if name.startswith("TRAINLOOM_")]
        (TRICKS / f"reached.{rank}").write_text(f"{os.getpid()} {secrets}")
        while (TRICKS / "hold").exists():
            time.sleep(0.02)
        if (TRICKS / f"fail.{rank}").exists():
            raise ArithmeticError("the net of the lab does not like this batch")
        if (TRICKS / f"kill.{rank}").exists():
            (TRICKS / f"kill.{rank}").unlink()
            os.kill(os.getpid(), signal.SIGKILL)
"""
LAB_NET = {
    "model_class_module_name": "lab_ranks",
    "model_class_name": "LabNet",
    "model_class_params": {"hidden_size": 8, "dropout": 0.3},
}


@pytest.fixture(scope="module")
def lab_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "lab_ranks.py").write_text(LAB)
    return folder


@pytest.fixture
def lab(lab_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of tricks; a package of the lab's own is allowed."""
    tricks = tmp_path / "tricks"
    tricks.mkdir()
    monkeypatch.setenv("LAB_TRICKS", str(tricks))
    monkeypatch.setenv("TRAINLOOM_ALLOWED_PACKAGES", "lab_ranks")
    monkeypatch.setenv("TRAINLOOM_CODE_DIR", str(lab_folder))
    return tricks


def insert_parallel(session: Session) -> list[dict[str, str]]:
    return insert(session, seeds=(0,), model=LAB_NET, training=PARALLEL)


@pytest.fixture(scope="module")
def undisturbed(server_home: Any, lab_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The result of the task when nothing happens to its ranks."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LAB_TRICKS", str(folder))
        environment.setenv("TRAINLOOM_ALLOWED_PACKAGES", "lab_ranks")
        environment.setenv("TRAINLOOM_CODE_DIR", str(lab_folder))
        return trained_alone(server_home, folder, insert_parallel)


def ranks_of(lab: Path) -> list[int]:
    """The process ids of both ranks, once they have come to their seventh batch."""
    files = [lab / f"reached.{rank}" for rank in range(2)]
    awaited(lambda: all(file.exists() and file.read_text() for file in files), lambda: "the ranks did not get there")
    return [int(file.read_text().split()[0]) for file in files]


def test_two_devices_give_the_numbers_of_one_with_the_doubled_batch(postgres_session: Session, lab: Path) -> None:
    plain = {**LAB_NET, "model_class_params": {"hidden_size": 8}}
    parallel, alone = (
        insert(postgres_session, seeds=(3,), model=plain, training=training)[0]
        for training in (PARALLEL, {**SHUFFLED, "batch_size": 10})
    )
    assert len(TrainingConfig()) == 2
    done = TrainingResult().populate(reserve_jobs=True)
    assert done["error_list"] == []
    found, expected = ((TrainingResult() & key).fetch1() for key in (parallel, alone))
    for name in ("training_epoch_loss_history", "validation_epoch_loss_history", "test_score"):
        assert found[name] == pytest.approx(expected[name], rel=TOLERANCE), name
    assert found["parameter_count"] == expected["parameter_count"]
    accuracies = [(TrainingResult.Metric() & key & {"metric_name": "accuracy"}).fetch1() for key in (parallel, alone)]
    assert accuracies[0]["metric_value"] == accuracies[1]["metric_value"]
    # Scoring again needs one process only.
    again = TrainingResult().get_trainer(parallel).evaluate()
    assert again == pytest.approx(found["test_score"], rel=TOLERANCE)
    assert (lab / "reached.1").read_text().endswith(" []"), "a rank has settings of the worker in its environment"


def test_a_rank_that_fails_ends_all_with_its_own_error(
    postgres_session: Session, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab / "fail.1").touch()
    (key,) = insert_parallel(postgres_session)
    done = TrainingResult().populate(reserve_jobs=True, suppress_errors=True)
    assert done["success_count"] == 0
    error = (Attempt() & {"attempt_key": key["training_task_md5_hash"]}).to_dicts()[0]["attempt_error"]
    assert error == "RankFailed: rank 1 of 2: ArithmeticError: the net of the lab does not like this batch"
    assert not any(map(psutil.pid_exists, ranks_of(lab)))


@pytest.mark.slow
def test_a_rank_that_is_killed_fails_the_attempt_and_the_next_ends_with_the_same_bits(
    postgres_session: Session, lab: Path, undisturbed: dict[str, Any]
) -> None:
    (lab / "kill.1").touch()
    keys = insert_parallel(postgres_session)
    TrainingResult().populate(reserve_jobs=True, suppress_errors=True)
    error = Attempt().to_dicts(order_by="attempt_start")[0]["attempt_error"]
    assert error.startswith("RankFailed: rank 1 of 2 was ended by SIGKILL")
    finish(keys)
    assert outcomes() == {"failed": 1, "finished": 1}
    assert_settled(postgres_session, keys, undisturbed)


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_saves_and_the_next_goes_on_with_the_same_bits(
    postgres_session: Session, lab: Path, hold: Callable[..., HeldWorker], undisturbed: dict[str, Any]
) -> None:
    (lab / "hold").touch()
    keys = insert_parallel(postgres_session)
    worker = hold(None, LAB_TRICKS=str(lab))
    ranks = ranks_of(lab)
    worker.send(signal.SIGTERM)
    (lab / "hold").unlink()
    assert worker.end() == 143, worker.said
    assert outcomes() == {"preempted": 1}
    (saved,) = Checkpoint().to_dicts(order_by="checkpoint_epoch DESC, checkpoint_step DESC", limit=1)
    assert (saved["checkpoint_epoch"], saved["checkpoint_step"]) >= (1, 3)
    assert not any(map(psutil.pid_exists, ranks))
    finish(keys)
    assert_settled(postgres_session, keys, undisturbed)


@pytest.mark.slow
def test_ranks_that_do_not_stop_end_with_the_grace(
    postgres_session: Session, lab: Path, hold: Callable[..., HeldWorker]
) -> None:
    (lab / "hold").touch()
    insert_parallel(postgres_session)
    worker = hold(None, LAB_TRICKS=str(lab), TRAINLOOM_GRACE_SECONDS="0.5")
    ranks = ranks_of(lab)
    worker.send(signal.SIGTERM)
    assert worker.end() == 143, worker.said
    assert not any(map(_lives, ranks))
    assert outcomes() == {"preempted": 1}


@pytest.mark.slow
def test_the_ranks_of_a_worker_that_is_killed_end_with_it(
    postgres_session: Session, lab: Path, hold: Callable[..., HeldWorker], undisturbed: dict[str, Any]
) -> None:
    (lab / "hold").touch()
    keys = insert_parallel(postgres_session)
    worker = hold(None, LAB_TRICKS=str(lab))
    ranks = ranks_of(lab)
    worker.kill()
    awaited(lambda: not any(map(_lives, ranks)), lambda: f"of the ranks {ranks} some live on")
    (lab / "hold").unlink()
    finish(keys)
    assert outcomes() == {"lost": 1, "finished": 1}
    assert_settled(postgres_session, keys, undisturbed)


def _lives(pid: int) -> bool:
    """Whether a process computes; one that nobody has buried yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
