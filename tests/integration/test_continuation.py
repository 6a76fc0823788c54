"""Going on with a finished training for more epochs, as a task of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pipeline import task_queue
from pipeline.cli.main import main
from pipeline.collector import Collector
from pipeline.job_table import enqueue
from pipeline.session import Session
from pipeline.trace import render, trace
from schemas.attempt import Attempt
from schemas.errors import InvalidRow
from schemas.hashing import content_md5
from schemas.training_task import HASHES, task_key
from schemas.warm_start import WarmStart
from tests.integration.small_tasks import DROPOUT, EPOCHS, SEEDS, SHUFFLED, insert
from trainloom import ModelConfig, TrainingConfig, TrainingResult, TrainingTask

pytestmark = [pytest.mark.feature("S4", "S13"), pytest.mark.usefixtures("impatience")]

KEY = "training_task_md5_hash"
OPTIONS = {
    "metrics": ["accuracy"],
    "scheduler_class_name": "ExponentialLR",
    "scheduler_class_params": {"gamma": 0.9},
    "ema_decay": 0.9,
    "checkpoints_kept_last": True,
}


def training(epochs: int = EPOCHS, **options: Any) -> dict[str, Any]:
    return {**SHUFFLED, "epoch_limit": epochs, "trainer_class_params": {**OPTIONS, **options}}


def populate() -> None:
    assert TrainingResult().populate(reserve_jobs=True)["error_list"] == []


def shown(key: dict[str, str]) -> dict[str, Any]:
    """What a training ends with."""
    columns = ("training_epoch_loss_history", "validation_epoch_loss_history", "test_score", "epochs")
    row = (TrainingResult() & key).proj(*columns, "model_save_path", "model_class_params_history").fetch1()
    del row[KEY]
    return row


def test_going_on_ends_with_the_bits_of_one_training(session: Session) -> None:
    (source,) = insert(session, SEEDS[:1], training=training())
    (longer,) = TrainingTask().insert_continuation(source, 2 * EPOCHS)
    assert TrainingTask().insert_continuation(source[KEY], 2 * EPOCHS).new == []
    populate()  # both, the source first
    (at_once,) = insert(session, SEEDS[:1], training=training(2 * EPOCHS))
    assert at_once != longer
    populate()
    assert shown(longer) == shown(at_once)
    again = TrainingTask().insert_continuation(longer, 3 * EPOCHS)
    assert Collector(session).collect(timedelta(0), delete=True).missing == ()
    populate()
    assert len(shown(again[0])["training_epoch_loss_history"]) == 3 * EPOCHS
    TrainingResult().load_model(source, epoch=EPOCHS)
    told = trace(longer)
    assert (told["task"]["warm_start"], told["task"]["warm_start_kind"]) == (source[KEY], "state")
    assert f"goes on from the last state of task {source[KEY]}" in render(told)


def test_kinds_of_starts_have_keys_of_their_own(postgres_session: Session) -> None:
    (source,) = insert(postgres_session, SEEDS[:1], training=training())
    hashes = (TrainingTask() & source).proj(*HASHES).fetch1()
    del hashes[KEY]
    row = {**hashes, "seed": 3, "code_version": "", "warm_start": source[KEY], "warm_start_kind": "weights"}
    before = {"table": "training_task", "fields": {**hashes, "seed": 3, "warm_start": source[KEY]}}
    assert task_key(row) == content_md5(before)  # as before there were kinds
    (warm,) = TrainingTask().insert_tuples({**row, "priority": 2})
    assert warm[KEY] == task_key(row) != task_key({**row, "warm_start_kind": "state"})
    assert len(WarmStart()) == 1
    assert len(WarmStart.State()) == 0


def test_a_row_that_cannot_go_on_is_refused(postgres_session: Session) -> None:
    (source,) = insert(postgres_session, SEEDS[:1], training=training())
    task = (TrainingTask() & source).proj(*HASHES, "seed", "code_version").fetch1()
    del task[KEY]
    going_on = {**task, "warm_start": source[KEY], "warm_start_kind": "state"}

    def refused(message: str, **changes: Any) -> None:
        with pytest.raises(InvalidRow, match=message):
            TrainingTask().insert_tuples({**going_on, **changes})

    def config(**changes: Any) -> str:
        row = {**training(2 * EPOCHS), **changes}
        return str(TrainingConfig().insert_tuples(row)[0]["training_config_md5_hash"])

    (model,) = ModelConfig().insert_tuples({**DROPOUT, "model_class_params": {"hidden_size": 9}})
    refused("epoch_limit 3 is that of all epochs together, and .* has 3; give more")
    refused("goes on with the ModelConfig that the other began with", **model)
    refused(
        r"and lr of its optimizer_class_params is [\d.]+, not 9.0; only",
        training_config_md5_hash=config(optimizer_class_params={"lr": 9.0}),
    )
    refused("its batch_size is 10, not 5", training_config_md5_hash=config(batch_size=5))
    refused(
        "ema_decay of its trainer_class_params is 0.9, not 0.5",
        training_config_md5_hash=config(**{"trainer_class_params": {**OPTIONS, "ema_decay": 0.5}}),
    )
    refused("warm_start_kind must be 'weights' or 'state', not 'both'", warm_start_kind="both")
    refused("warm_start_kind is given without warm_start", warm_start="")
    patient = config(**{"trainer_class_params": {**OPTIONS, "early_stopping_patience": 5, "checkpoint_epochs": 1}})
    assert TrainingTask().insert_tuples({**going_on, "training_config_md5_hash": patient}).new
    with pytest.raises(InvalidRow, match="there is no task '0{32}' to go on from"):
        TrainingTask().insert_continuation("0" * 32, 9)


def test_without_a_last_state_the_cure_is_told_and_helps(open_session: Callable[..., Session]) -> None:
    session = open_session()
    (source,) = insert(session, SEEDS[:1], training=training(checkpoints_kept_last=None))
    (early,) = TrainingTask().insert_continuation(source, 2 * EPOCHS)
    done = TrainingResult().populate(reserve_jobs=True, suppress_errors=True)
    assert done["success_count"] == 1  # the source, too short for its state to stay
    cure = f"kept no last state to go on from; train it again with `trainloom task retrain {source[KEY][:8]}`"
    assert cure in (Attempt() & {"attempt_key": early[KEY]}).to_dicts()[0]["attempt_error"]
    with pytest.raises(InvalidRow, match="kept no last state"):
        TrainingTask().insert_continuation(source, 3 * EPOCHS)
    assert main(["task", "retrain", "--yes", source[KEY]]) == 0
    assert main(["task", "retry", early[KEY]]) == 0
    open_session(keep_last_state=True)
    populate()
    assert len(shown(early)["training_epoch_loss_history"]) == 2 * EPOCHS


def test_a_task_whose_source_is_trained_again_waits_for_it(postgres_session: Session) -> None:
    (source,) = insert(postgres_session, SEEDS[:1], training=training())
    populate()
    (longer,) = TrainingTask().insert_continuation(source, 2 * EPOCHS, priority=1)
    enqueue(TrainingResult())
    task_queue.retrain([source[KEY]])
    populate()  # the longer one is taken first, since its job is there already
    assert shown(longer)["epochs"] == 2 * EPOCHS
    attempts = (Attempt() & {"attempt_key": longer[KEY]}).to_dicts(order_by="attempt_start")
    assert [(row["attempt_outcome"], row["attempt_blame"]) for row in attempts] == [("cancelled", ""), ("finished", "")]


def test_a_continuation_that_is_refused_leaves_no_configuration(postgres_session: Session) -> None:
    (source,) = insert(postgres_session, SEEDS[:1], training=training())
    with pytest.raises(InvalidRow, match="seed must be a whole number"):
        TrainingTask().insert_continuation(source, 2 * EPOCHS, seed=-1)
    assert len(TrainingConfig()) == 1


def test_the_command_line_adds_one(open_session: Callable[..., Session], capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = insert(open_session(), SEEDS[:1], training=training())
    command = ["task", "add", "--continue", source[KEY][:8], "--epochs", str(2 * EPOCHS)]
    assert main([*command, "--json"]) == 0
    (added,) = json.loads(capsys.readouterr().out)
    assert added["new"]
    assert main(["task", "add", "--continue", source[KEY][:8]]) == 1
    assert main(["task", "add", "--epochs", "9"]) == 1
    said = capsys.readouterr().err
    open_session()
    assert TrainingTask().insert_continuation(source, 2 * EPOCHS)[0][KEY] == added["task"]
    assert "--continue takes --epochs" in said
    assert "give --dataset, --model and --training, or --continue and --epochs" in said


@pytest.mark.slow
@pytest.mark.feature("B9")
def test_a_training_on_two_devices_goes_on(postgres_session: Session) -> None:
    options = {**OPTIONS, "devices": 2}
    (source,) = insert(postgres_session, SEEDS[:1], training=training(**options))
    (longer,) = TrainingTask().insert_continuation(source, 2 * EPOCHS)
    (at_once,) = insert(postgres_session, SEEDS[:1], training=training(2 * EPOCHS, **options))
    populate()
    assert shown(longer) == shown(at_once)
