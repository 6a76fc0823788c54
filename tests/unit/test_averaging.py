"""Averages of weights against values computed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.small_training import Batches, column, scale_trainer
from trainers.averaging import AveragingPolicy
from trainers.contract import TrainerError
from trainers.nn_trainer import NNTrainer

LAST_IS_BEST = Batches((column(1.0), column(3.0)))
"""The factor goes 2, 2.5, 2.75, 2.875 to 3, which is best here."""


def averaged(tmp_path: Path, **options: Any) -> NNTrainer:
    trainer = scale_trainer(tmp_path, max_epoch=4, validation_dataloader=LAST_IS_BEST, **options)
    trainer.train()
    return trainer


@pytest.mark.feature("S13")
def test_the_moving_average_is_validated_kept_saved_and_tested(tmp_path: Path) -> None:
    trainer = averaged(tmp_path, ema_decay=0.75)
    factors = [2.0]
    for factor in (2.5, 2.75, 2.875):
        factors.append(0.75 * factors[-1] + 0.25 * factor)
    assert trainer.validation_epoch_loss_history == pytest.approx([(3 - factor) ** 2 for factor in factors])
    assert trainer.training_epoch_loss_history == [4.0, 1.0, 0.25, 0.0625]  # as without
    assert trainer.model.factor.item() == pytest.approx(factors[-1])
    assert trainer.test_score == pytest.approx(factors[-1] ** 2)
    assert safetensors.torch.load_file(trainer.model_save_path)["factor"].item() == pytest.approx(factors[-1])


def test_a_moving_average_counts_steps_and_not_batches(tmp_path: Path) -> None:
    batch = (column(1.0), column(3.0))
    trainer = averaged(tmp_path, ema_decay=0.5, gradient_accumulation=2, train_dataloader=Batches(batch, batch))
    assert trainer.validation_epoch_loss_history[:2] == [1.0, 0.75**2]


@pytest.mark.feature("S13")
def test_the_mean_of_epochs_begins_where_the_row_says(tmp_path: Path) -> None:
    trainer = averaged(tmp_path, swa_from_epoch=3)
    mean = (2.75 + 2.875) / 2
    assert trainer.validation_epoch_loss_history == [1.0, 0.25, 0.0625, (3 - mean) ** 2]
    assert trainer.best_epoch == 3
    assert trainer.model.factor.item() == mean
    assert trainer.test_score == mean**2


def test_weights_from_before_the_average_may_be_the_best(tmp_path: Path) -> None:
    best_first = Batches((column(1.0), column(2.0)))
    trainer = scale_trainer(tmp_path, max_epoch=4, validation_dataloader=best_first, swa_from_epoch=3)
    trainer.train()
    assert (trainer.best_epoch, trainer.model.factor.item()) == (0, 2.0)


class Normed(nn.Module):
    def __init__(self, input_shape: Any = (), output_shape: Any = ()) -> None:
        super().__init__()
        self.first = nn.Linear(1, 1)
        self.norm = nn.BatchNorm1d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.first(x))


@pytest.mark.feature("S13")
def test_batch_normalisation_of_a_mean_has_the_statistics_of_the_training_tier(tmp_path: Path) -> None:
    data = Batches((column(1.0, 2.0, 4.0), column(0.0, 1.0, 0.0)), (column(3.0, 5.0, 9.0), column(1.0, 1.0, 0.0)))
    trainer = scale_trainer(
        tmp_path, model_class=Normed, train_dataloader=data, validation_dataloader=data, swa_from_epoch=1
    )
    trainer.train()
    assert trainer.best_epoch == 1
    with torch.no_grad():
        batches = [trainer.model.first(inputs) for inputs, _ in data]
    expected = torch.stack([batch.mean() for batch in batches]).mean()
    assert trainer.model.norm.running_mean.item() == pytest.approx(expected.item(), rel=1e-6)
    expected = torch.stack([batch.var() for batch in batches]).mean()
    assert trainer.model.norm.running_var.item() == pytest.approx(expected.item(), rel=1e-6)
    assert trainer.model.norm.momentum == 0.1
    saved = safetensors.torch.load_file(trainer.model_save_path)
    assert all(saved[name].equal(tensor) for name, tensor in trainer.model.state_dict().items())
    before, score = trainer.model.norm.running_mean.item(), trainer.test_score
    data.batches = data.batches[:1]  # as a tier that is augmented, or drawn from, gives others each time
    trainer.train()
    assert (trainer.model.norm.running_mean.item(), trainer.test_score) == (before, score)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"ema_decay": 1.0}, "ema_decay is 1.0; it must be a number above 0 and below 1"),
        ({"ema_decay": 0}, "ema_decay is 0"),
        ({"swa_from_epoch": -1}, "swa_from_epoch is -1"),
        ({"swa_from_epoch": True}, "swa_from_epoch is True"),
        ({"ema_decay": 0.9, "swa_from_epoch": 2}, "two averages of the same weights"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        AveragingPolicy(**params)


def test_an_average_that_would_never_begin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="swa_from_epoch is 3, but there are 2 epochs only"):
        scale_trainer(tmp_path, swa_from_epoch=3)


def test_a_mean_of_epochs_needs_validations_at_their_ends(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="swa_from_epoch needs validations at the ends of epochs"):
        scale_trainer(tmp_path, swa_from_epoch=1, validation_steps=3)
