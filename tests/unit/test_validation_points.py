"""When a training is validated, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.small_training import Batches, column, scale_trainer
from trainers.contract import Retention, TrainerError
from trainers.nn_trainer import NNTrainer
from trainers.validation import ValidationPolicy

BATCH = (column(1.0), column(3.0))
FACTORS = [2.0, 2.5, 2.75, 2.875, 2.9375, 2.96875]
"""After each batch; the validation tier below wants a factor of 2.75."""


class Heard:
    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def started(self, epochs_done: int, max_epoch: int) -> None: ...

    def epoch_finished(self, epoch: int, values: Any) -> None:
        self.values.append(dict(values))


class Scores:
    """Keeps the scores of checkpoints."""

    def __init__(self) -> None:
        self.scores: list[float | None] = []

    def retain(self, retention: Retention) -> None: ...

    def load(self) -> bytes | None:
        return None

    def save(self, content: bytes, *, epoch: int, step: int, score: float | None = None) -> None:
        self.scores.append(score)

    def poll(self) -> None: ...


def trained(tmp_path: Path, batches: int = 1, **options: Any) -> NNTrainer:
    trainer = scale_trainer(
        tmp_path,
        **{
            "train_dataloader": Batches(*[BATCH] * batches),
            "validation_dataloader": Batches((column(1.0), column(2.75))),
            "metrics": ["mae"],
            **options,
        },
    )
    trainer.train()
    return trainer


def losses(*numbers: int) -> list[float]:
    """The validation losses after so many batches."""
    return [(FACTORS[number - 1] - 2.75) ** 2 for number in numbers]


@pytest.mark.feature("S13")
def test_every_third_epoch_the_first_and_the_last(tmp_path: Path) -> None:
    heard, kept = Heard(), Scores()
    trainer = trained(tmp_path, max_epoch=5, validation_epochs=3, reporter=heard, checkpoints=kept, checkpoint_epochs=1)
    assert trainer.validated_steps == [1, 3, 5]
    assert trainer.validation_points["loss"] == losses(1, 3, 5)
    # An epoch without a validation repeats the one before.
    assert trainer.validation_epoch_loss_history == losses(1, 1, 3, 3, 5)
    assert trainer.validation_metric_history["mae"] == [abs(loss) ** 0.5 for loss in losses(1, 1, 3, 3, 5)]
    assert len(trainer.training_epoch_loss_history) == 5
    assert trainer.best_epoch == 2
    assert trainer.model.factor.item() == 2.75
    assert ["validation_loss" in values for values in heard.values] == [True, False, True, False, True]
    assert kept.scores == [losses(1)[0], None, losses(3)[0], None, losses(5)[0]]


@pytest.mark.feature("S13")
def test_after_every_second_batch_and_at_the_ends_of_the_first_and_last_epoch(tmp_path: Path) -> None:
    trainer = trained(tmp_path, batches=3, max_epoch=2, validation_steps=2)
    assert trainer.validated_steps == [2, 3, 4, 6]
    assert trainer.validation_points["loss"] == losses(2, 3, 4, 6)
    # The entry of an epoch is its best validation.
    assert trainer.validation_epoch_loss_history == losses(3, 4)
    assert (trainer.best_epoch, trainer.model.factor.item()) == (0, 2.75)
    assert trainer.training_epoch_loss_history == pytest.approx([(4 + 1 + 0.25) / 3, (4 + 1 + 0.25) / 3 / 64])


def test_weights_from_within_an_epoch_may_be_the_best(tmp_path: Path) -> None:
    trainer = trained(tmp_path, batches=4, max_epoch=1, validation_steps=3)
    assert trainer.validated_steps == [3, 4]
    assert trainer.validation_epoch_loss_history == [0.0]
    assert (trainer.best_epoch, trainer.model.factor.item(), trainer.test_score) == (0, 2.75, 2.75**2)


def test_patience_counts_validations(tmp_path: Path) -> None:
    trainer = trained(tmp_path, max_epoch=60, validation_epochs=3, early_stopping_patience=2)
    assert trainer.validated_steps == [1, 3, 6, 9]
    assert trainer.choices["early_stop"] == "after epoch 9: no validation was better than number 2 within 2 validations"


def test_patience_may_go_by_another_value_than_the_selection(tmp_path: Path) -> None:
    # The correlation of outputs and targets is the same for every factor, so that no epoch beats the first.
    tier = Batches((column(1.0, 2.0), column(9.0, 9.5)))
    options = {"metrics": ["correlation"], "validation_dataloader": tier, "max_epoch": 9, "early_stopping_patience": 2}
    assert trained(tmp_path, **options).epochs_done == 9
    trainer = trained(tmp_path, **options, early_stopping_metric="correlation")
    assert (trainer.epochs_done, trainer.best_epoch) == (3, 2)
    assert trainer.choices["early_stop"] == "after epoch 3: no epoch was better than number 1 within 2 epochs"


def test_a_schedule_by_the_score_hears_of_validations_only(tmp_path: Path) -> None:
    options = {
        "scheduler_class_name": "ReduceLROnPlateau",
        "scheduler_class_params": {"patience": 0, "threshold": 0.0, "factor": 0.5},
        "max_epoch": 6,
        "validation_epochs": 2,
    }
    trainer = trained(tmp_path, **options)
    assert trainer.validated_steps == [1, 2, 4, 6]
    # Worse after the sixth epoch only; the third and fifth, which repeat an entry, are no validations.
    assert trainer.optimizer.param_groups[0]["lr"] == 0.25 / 2


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"validation_epochs": 0}, "validation_epochs is 0; it must be an integer of at least 1"),
        ({"validation_steps": -1}, "validation_steps is -1"),
        ({"validation_steps": True}, "validation_steps is True"),
        ({"validation_steps": 5, "validation_epochs": 2}, "both say when to validate"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        ValidationPolicy(**params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"early_stopping_metric": "accuracy"}, "early_stopping_metric is 'accuracy'; it must be \"loss\" or one of"),
        ({"validation_steps": 3, "early_stopping_quotient": 0.5}, "early_stopping_quotient needs validations at the"),
    ],
)
def test_what_does_not_go_together_is_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        scale_trainer(tmp_path, **options)
