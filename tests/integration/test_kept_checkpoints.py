"""States of a training that stay with its result."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipeline.model_weights import UnusableModel, WeightsDoNotFit, fit
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


@pytest.mark.feature("B8")
def test_the_model_of_any_kept_epoch_is_loaded(postgres_session: Session) -> None:
    [key] = insert(postgres_session, SEEDS[:1], training=training(checkpoints_kept_every=2))
    finish([key])
    [after_two] = kept_states(postgres_session, key).values()
    loaded = TrainingResult().load_model(key, epoch=2).state_dict()
    assert loaded.keys() == after_two.keys()
    assert all(torch.equal(loaded[name], after_two[name]) for name in loaded)
    with pytest.raises(UnusableModel, match="kept no checkpoint of epoch 1 .it has checkpoint of epoch 2"):
        TrainingResult().load_model(key, epoch=1)


@pytest.mark.feature("B8")
def test_weights_are_loaded_by_prefix(postgres_session: Session) -> None:
    [key] = insert(postgres_session, SEEDS[:1], training=training(checkpoints_kept_every=1))
    finish([key])
    whole = TrainingResult().load_model(key).state_dict()
    first = next(iter(whole)).rpartition(".")[0]
    partly = TrainingResult().load_model(key, prefix=f"{first}.").state_dict()
    same = {name for name in whole if torch.equal(whole[name], partly[name])}
    assert same == {name for name in whole if name.startswith(f"{first}.")} != {*whole}
    with pytest.raises(UnusableModel, match="no weights of both begin with 'head'"):
        TrainingResult().load_model(key, prefix="head")


@pytest.mark.feature("B8")
def test_weights_that_are_not_the_models_own_are_left_out_where_one_is_not_strict() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    given = {"0.weight": torch.ones(2, 2), "0.bias": torch.zeros(2), "9.weight": torch.ones(3)}
    with pytest.raises(WeightsDoNotFit) as refused:
        fit(model, given, "Sequential")
    assert (refused.value.missing, refused.value.unexpected) == (["1.weight", "1.bias"], ["9.weight"])
    fit(model, given, "Sequential", strict=False)
    assert torch.equal(model[0].weight, torch.ones(2, 2))
    with pytest.raises(WeightsDoNotFit, match="size mismatch"):
        fit(model, {"0.weight": torch.ones(3, 3)}, "Sequential", strict=False)
