"""A training that goes on from the last state of another ends with the bits of one that was that long at once."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.resumable_training import Kept, StopAfter, build, digest
from tests.unit.test_resume import OPTIONS
from trainers.checkpoint_schedule import CheckpointSchedule
from trainers.contract import Retention, Stopped, TrainerError
from trainers.learned_state import ForeignCheckpoint
from trainers.nn_trainer import NNTrainer

pytestmark = pytest.mark.feature("S13")

FIRST, WHOLE = 2, 4  # epochs
STAYS = {"checkpoints_kept_last": True, "checkpoint_epochs": 0}
ENDLESS = {  # of which nothing depends on the number of epochs
    **{name: params for name, params in OPTIONS.items() if not {"max_epoch", "validation_steps"} & params.keys()},
    "a schedule by steps": {
        "scheduler_class_name": "OneCycleLR",
        "scheduler_class_params": {"max_lr": 0.02, "total_steps": 40},
        "scheduler_steps": "batch",
    },
    "validations within epochs": {"validation_steps": 5, "selection": "accuracy"},
    "shuffling and dropout alone": {},
    "a sampler with a state of its own": {"sampler": "own generator"},
    "a mean of epochs that begins later": {"swa_from_epoch": 2},
    "every second epoch validated": {"validation_epochs": 2},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(folder: Path, **params: Any) -> NNTrainer:
    with ExitStack() as resources:
        trainer = build(folder, resources, **params)
        trainer.train()
    return trainer


def last_state(folder: Path, **params: Any) -> Path:
    """The file of the last state of a short training."""
    kept = Kept()
    trained(folder, checkpoints=kept, **STAYS, **{"max_epoch": FIRST, **params})
    file = folder / "state"
    file.write_bytes(kept.contents[-1])
    for seed in (random.seed, np.random.seed, torch.manual_seed):  # what another process drew must not matter
        seed(99)
    return file


@pytest.mark.parametrize("params", ENDLESS.values(), ids=ENDLESS)
def test_going_on_equals_training_that_long_at_once(tmp_path: Path, params: dict[str, Any]) -> None:
    expected = digest(trained(tmp_path, **params, max_epoch=WHOLE))
    state = last_state(tmp_path, **params)
    assert digest(trained(tmp_path, **params, max_epoch=WHOLE, initial_state=state)) == expected


def test_it_can_be_interrupted_and_gone_on_from_itself(tmp_path: Path) -> None:
    expected = digest(trained(tmp_path, max_epoch=WHOLE + 1, ema_decay=0.8))
    state, kept = last_state(tmp_path, ema_decay=0.8), Kept()
    with pytest.raises(Stopped):
        trained(
            tmp_path, max_epoch=WHOLE, ema_decay=0.8, initial_state=state, checkpoints=kept, stop=StopAfter(7), **STAYS
        )
    assert kept.positions == [(FIRST, 8)]
    trained(tmp_path, max_epoch=WHOLE, ema_decay=0.8, initial_state=state, checkpoints=kept, **STAYS)
    state.write_bytes(kept.contents[-1])
    assert digest(trained(tmp_path, max_epoch=WHOLE + 1, ema_decay=0.8, initial_state=state)) == expected


def test_the_last_state_is_that_before_the_best_weights_are_loaded(tmp_path: Path) -> None:
    kept = Kept()
    trained(tmp_path, checkpoints=kept, max_epoch=FIRST, **STAYS)
    assert kept.positions == [(FIRST, 0)]
    assert kept.retention == Retention(final=True)


def test_more_patience_goes_on_where_less_ended(tmp_path: Path) -> None:
    params = {"optimizer": "SGD", "optimizer_params": {"lr": 3.0}}
    kept = Kept()
    first = trained(tmp_path, **params, checkpoints=kept, early_stopping_patience=1, max_epoch=9, **STAYS)
    assert first.epochs_done < 9
    state = tmp_path / "state"
    state.write_bytes(kept.contents[-1])
    patient = {**params, "early_stopping_patience": 8, "max_epoch": 9}
    gone_on = trained(tmp_path, **patient, initial_state=state)
    assert digest(gone_on) == digest(trained(tmp_path, **patient))
    with pytest.raises(TrainerError, match=r"goes on from ended after epoch \d: no epoch was better .* at once; let"):
        trained(tmp_path, **params, early_stopping_patience=1, max_epoch=9, initial_state=state)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    state = last_state(tmp_path)
    with pytest.raises(TrainerError, match="is that after 2 epochs, and max_epoch is 2; set it to more"):
        trained(tmp_path, max_epoch=FIRST, initial_state=state)
    with pytest.raises(ForeignCheckpoint, match="cannot go on from the state that it is given: its optimizer is Adam"):
        trained(tmp_path, max_epoch=WHOLE, initial_state=state, optimizer="SGD")


@pytest.mark.parametrize(
    ("epochs", "final", "resumed", "pauses", "stays"),
    [
        (0, True, False, (0.0, 0.0), True),
        (None, False, True, (1000.0, 0.1), False),
        (None, None, False, (1000.0, 0.0), False),  # nothing was saved on the way
        (None, None, False, (1000.0, 0.1), True),
        (0, None, False, (1000.0, 0.1), False),  # and nothing is to be saved
        (7, None, False, (5.0, 0.1), False),  # saving takes more than a hundredth of the time
        (7, None, True, (5.0, 0.0), True),
    ],
)
def test_the_last_state_stays_where_it_costs_little(
    monkeypatch: pytest.MonkeyPatch,
    epochs: int | None,
    final: bool | None,
    resumed: bool,
    pauses: tuple[float, float],
    stays: bool,
) -> None:
    now = [0.0]
    monkeypatch.setattr("trainers.checkpoint_schedule.time.monotonic", lambda: now[0])
    schedule = CheckpointSchedule(epochs, 0.0, final=final, resumed=resumed)
    training, saving = pauses
    now[0] = training
    if saving:
        now[0] += saving
        schedule.saved(training)
    assert schedule.final_stays() is stays
