"""States of a training that stay with its result."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.session import Session
from schemas.checkpoint import Checkpoint
from tests.integration.held_worker import HeldWorker
from tests.integration.small_tasks import EPOCHS, SEEDS, SHUFFLED, finish, insert
from trainers.checkpoint import unpack
from trainloom import TrainingResult

pytestmark = pytest.mark.usefixtures("impatience")


def kept_states(session: Session, key: dict[str, str]) -> dict[str, Any]:
    """The parameters of the kept states by the name of their artifact."""
    found = TrainingResult.Artifact() & key & {"artifact_kind": "checkpoint"}
    return {
        row["artifact_name"]: unpack(session.store.get_bytes(row["artifact_sha256"]))[1]["model"]
        for row in found.to_dicts(order_by="artifact_name")
    }


def training(**kept: int) -> dict[str, Any]:
    return {**SHUFFLED, "trainer_class_params": {**SHUFFLED["trainer_class_params"], **kept}}


@pytest.mark.feature("T6", "B8")
def test_the_parameters_of_every_epoch_stay_with_the_result(session: Session) -> None:
    [key] = insert(session, SEEDS[:1], training=training(checkpoints_kept_every=1))
    finish([key])
    states = kept_states(session, key)
    assert [*states] == [f"checkpoint of epoch {epoch}" for epoch in range(1, EPOCHS + 1)]
    means = (TrainingResult & key).fetch1("model_class_params_history")
    for name, history in means.items():
        recorded = [float(state[name].mean()) for state in states.values()]
        assert recorded == pytest.approx(history["mean"], rel=1e-4, abs=1e-6)
    assert len(Checkpoint()) == 0
    assert not [*session.folders.model_save_dir.rglob("*.checkpoint")]


@pytest.mark.feature("T6")
def test_a_training_that_was_interrupted_keeps_the_same_states(
    postgres_session: Session, hold: Callable[..., HeldWorker]
) -> None:
    keys = insert(postgres_session, SEEDS[:1], training=training(checkpoints_kept_every=1))
    worker = hold("epoch")
    worker.send(signal.SIGTERM)
    worker.release()
    assert worker.end() == 143, worker.said
    finish(keys)
    interrupted = kept_states(postgres_session, keys[0])
    TrainingResult().delete(prompt=False)
    finish(keys)
    whole = kept_states(postgres_session, keys[0])
    assert [*interrupted] == [*whole]
    for name, state in whole.items():
        assert all(torch.equal(state[part], interrupted[name][part]) for part in state)
