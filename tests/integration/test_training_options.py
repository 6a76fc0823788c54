"""What a row may ask of the trainer, from the row to the result."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.session import Session
from schemas.errors import InvalidRow
from tests.integration.small_tasks import SEEDS, SHUFFLED, insert
from trainloom import TrainingConfig, TrainingResult


def training(**options: Any) -> dict[str, Any]:
    return {**SHUFFLED, "epoch_limit": 40, "trainer_class_params": {"metrics": ["accuracy"], **options}}


@pytest.mark.feature("S3", "S13")
def test_a_row_says_precision_schedule_and_when_to_stop(session: Session) -> None:
    options = {
        "precision": "bf16",
        "gradient_accumulation": 2,
        "gradient_clip_norm": 1.0,
        "scheduler_class_name": "CosineAnnealingLR",
        "scheduler_class_params": {"T_max": 40},
        "warmup_steps": 3,
        "early_stopping_patience": 2,
    }
    [key] = insert(session, SEEDS[:1], training=training(**options))
    assert TrainingResult().populate(reserve_jobs=True)["success_count"] == 1
    epochs, losses = (TrainingResult & key).fetch1("epochs", "validation_epoch_loss_history")
    assert epochs == len(losses) < 40
    assert losses.index(min(losses)) == epochs - 3
    assert (TrainingResult.Provenance & key).fetch1("choices")["early_stop"] == (
        f"after epoch {epochs}: no epoch was better than number {epochs - 2} within 2 epochs"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"scheduler_class_name": "Cosine"}, "scheduler_class_name is 'Cosine'"),
        ({"scheduler_class_name": "StepLR", "scheduler_class_params": {"size": 3}}, "do not suit StepLR"),
        ({"gradient_clip_norm": -1}, "gradient_clip_norm is -1"),
        ({"early_stopping_patience": "3"}, "early_stopping_patience is '3'"),
    ],
)
def test_a_wrong_option_is_refused_at_insertion(
    postgres_session: Session, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRow, match=message):
        TrainingConfig().insert_tuples(training(**options))
    assert len(TrainingConfig()) == 0
