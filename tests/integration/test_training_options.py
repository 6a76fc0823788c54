"""What a row may ask of the trainer, from the row to the result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
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


@pytest.mark.feature("S13")
def test_a_row_says_average_frozen_part_and_when_to_validate(session: Session) -> None:
    options = {
        "ema_decay": 0.9,
        "frozen": ["layers.0"],
        "validation_epochs": 10,
        "early_stopping_patience": 30,
        "early_stopping_metric": "accuracy",
        "deterministic": True,
        "tf32": True,
        "metrics": ["accuracy", "balanced_accuracy", "macro_f1"],
    }
    [key] = insert(session, SEEDS[:1], training=training(**options))
    assert TrainingResult().populate(reserve_jobs=True)["error_list"] == []
    epochs, losses = (TrainingResult & key).fetch1("epochs", "validation_epoch_loss_history")
    assert (epochs, len(losses)) == (40, 40)
    assert losses[:9] == losses[:1] * 9  # entries of epochs without a validation repeat the one before
    assert len(set(losses)) == 5
    assert (TrainingResult.Provenance & key).fetch1("choices")["tf32"] == "of no effect on cpu"
    metrics = set((TrainingResult.Metric & key).to_arrays("metric_name"))
    assert metrics == {"loss", "accuracy", "balanced_accuracy", "macro_f1"}


SCHEDULE = """
import torch

class Thirds(torch.optim.lr_scheduler.LRScheduler):
    def __init__(self, optimizer, factor):
        self.factor = factor
        super().__init__(optimizer)

    def get_lr(self):
        return [rate * self.factor for rate in self.base_lrs]
"""


@pytest.mark.feature("S13")
def test_a_row_names_a_schedule_of_ones_own_whose_code_is_recorded(
    open_session: Callable[..., Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab_schedules.py").write_text(SCHEDULE)
    monkeypatch.syspath_prepend(tmp_path)
    session = open_session(allowed_packages=("lab_schedules",), code_dir=tmp_path)
    row = {
        "scheduler_module_name": "lab_schedules",
        "scheduler_class_name": "Thirds",
        "scheduler_class_params": {"factor": 0.0},
    }
    with pytest.raises(InvalidRow, match="lacks factor, which lab_schedules.Thirds requires"):
        insert(session, SEEDS[:1], training=training(**{**row, "scheduler_class_params": {}}))
    [key] = insert(session, SEEDS[:1], training={**training(**row), "epoch_limit": 3})
    assert TrainingResult().populate(reserve_jobs=True)["error_list"] == []
    code, texts = (TrainingResult.Provenance & key).fetch1("code", "code_texts")
    assert code["scheduler"]["module"] == "lab_schedules"
    assert texts[code["scheduler"]["sha256"]] == SCHEDULE
    assert TrainingResult().get_trainer(key).optimizer.param_groups[0]["lr"] == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "fp8"}, "precision is 'fp8'"),
        ({"scheduler_class_name": "Cosine"}, "scheduler_class_name is 'Cosine'"),
        ({"scheduler_class_name": "StepLR", "scheduler_class_params": {"size": 3}}, "do not suit StepLR"),
        ({"gradient_clip_norm": -1}, "gradient_clip_norm is -1"),
        ({"early_stopping_patience": "3"}, "early_stopping_patience is '3'"),
        ({"early_stopping_metric": "accuracies"}, "early_stopping_metric is 'accuracies'"),
        ({"ema_decay": 2}, "ema_decay is 2"),
        ({"swa_from_epoch": 2, "validation_steps": 9}, "swa_from_epoch needs validations at the ends of epochs"),
        ({"frozen": "head"}, "frozen is 'head'"),
        ({"compile": "fast"}, "compile is 'fast'"),
        ({"tf32": "yes"}, "tf32 is 'yes'"),
        ({"validation_epochs": 0}, "validation_epochs is 0"),
        ({"initial_weights_strict": 0}, "initial_weights_strict is 0"),
        ({"gradient_checkpointing": "on"}, "gradient_checkpointing is 'on'"),
        (
            {"scheduler_module_name": "os", "scheduler_class_name": "system"},
            "os.system is outside the allowed packages",
        ),
        ({"scheduler_module_name": "torch.optim", "scheduler_class_name": "SGD"}, "SGD is no scheduler class"),
        (
            {
                "scheduler_module_name": "torch.optim.swa_utils",
                "scheduler_class_name": "SWALR",
                "scheduler_class_params": {"swa_lr": 0.1, "steps": 3},
            },
            "scheduler_class_params has the unknown parameter 'steps'",
        ),
    ],
)
def test_a_wrong_option_is_refused_at_insertion(
    postgres_session: Session, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRow, match=message):
        TrainingConfig().insert_tuples(training(**options))
    assert len(TrainingConfig()) == 0
