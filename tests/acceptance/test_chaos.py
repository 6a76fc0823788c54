"""Many workers, many small tasks, and faults at random for a while: every task gets its one right result.

``CHAOS_SECONDS`` and ``CHAOS_SEED`` in the environment say for how long faults come, and which.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pipeline.session import Session
from pipeline.store.interface import parse_address
from schemas.attempt import Attempt
from schemas.checkpoint import Checkpoint
from tests.acceptance.chaos import Chaos, Plan
from tests.integration.small_tasks import DROPOUT, SHUFFLED, insert, outcomes, result, trained_alone
from trainloom import TrainingResult

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", random.SystemRandom().randrange(10**6)))
EPOCHS = (5, 20, 80, 160)
TASKS = 200
COMPARED = 20  # tasks that are trained again undisturbed
PLAN = Plan(seconds=SECONDS)
LIMITS = {
    "HEARTBEAT_SECONDS": 0.5,
    "LEASE_SECONDS": 3,
    "RETRY_SECONDS": 0.2,
    "MAX_ATTEMPTS": 10_000,  # it is not the tasks that kill the workers
}


def insert_all(session: Session) -> list[dict[str, str]]:
    """200 tasks of very different length, in an order that mixes them."""
    trainings = [
        {
            **SHUFFLED,
            "epoch_limit": epochs,
            "trainer_class_params": {"checkpoint_epochs": max(1, epochs // 10), "checkpoints_kept_last": False},
        }
        for epochs in EPOCHS
    ]
    keys = insert(session, range(TASKS // len(EPOCHS)), DROPOUT, trainings)
    return sorted(keys, key=lambda key: key["training_task_md5_hash"])


@pytest.fixture(scope="module")
def undisturbed(server_home: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of some of the same tasks, to which nothing happened."""
    return trained_alone(server_home, tmp_path_factory.mktemp("alone"), insert_all, COMPARED)


@pytest.fixture
def impatient(project_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LIMITS.items():
        monkeypatch.setenv(f"TRAINLOOM_{name}", str(value))


def unexplained(logs: Path) -> list[Any]:
    """Attempts that ended as no fault makes them end, with all attempts at their tasks and what the workers said."""
    unexpected = Attempt() & "attempt_outcome NOT IN ('finished', 'lost', 'preempted')"
    found: list[Any] = []
    for key in sorted({row["attempt_key"] for row in unexpected.to_dicts()}):
        found += (Attempt() & {"attempt_key": key}).to_dicts(order_by="attempt_start")
        found += (TrainingResult().jobs & {"training_task_md5_hash": key}).to_dicts()
        found += (TrainingResult() & {"training_task_md5_hash": key}).proj("utc_insert_time").to_dicts()
        found += [
            f"{log.stem}: {line}"
            for log in sorted(logs.glob("*.log"))
            for line in log.read_text().splitlines()
            if key[:8] in line or "Error" in line
        ]
    return found


@pytest.mark.slow
@pytest.mark.timeout(PLAN.seconds + PLAN.limit + 120)
def test_every_task_of_many_ends_with_its_one_right_result(
    undisturbed: dict[str, Any], impatient: None, session: Session, tmp_path: Path
) -> None:
    keys = insert_all(session)
    assert len(keys) == TASKS
    (tmp_path / "logs").mkdir()
    chaos = Chaos(session, PLAN, tmp_path / "logs", TASKS, SEED)
    print(f"CHAOS_SEED={SEED} CHAOS_SECONDS={SECONDS:.0f}")
    try:
        chaos.run()
    finally:
        print(f"faults {dict(chaos.faults)}, attempts {dict(outcomes())}")
    assert chaos.crashes == []
    assert sum(chaos.faults.values()) > 10
    finished = Counter(row["attempt_key"] for row in (Attempt() & "attempt_outcome = 'finished'").to_dicts())
    assert finished == {key["training_task_md5_hash"]: 1 for key in keys}
    odd = unexplained(tmp_path / "logs")
    print(*odd, sep="\n")
    assert not odd
    assert len(Attempt() & "attempt_end IS NULL") == 0
    assert TrainingResult().jobs.to_dicts() == []
    assert len(TrainingResult()) == len(TrainingResult.Provenance()) == len(TrainingResult.Artifact()) == TASKS
    for address in TrainingResult().to_arrays("model_save_path"):
        assert session.store.get_bytes(parse_address(str(address)))  # verified while it is read
    assert {key: result({"training_task_md5_hash": key}) for key in undisturbed} == undisturbed
    assert len(Checkpoint()) == 0
