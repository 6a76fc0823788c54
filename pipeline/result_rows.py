"""What the rows of a result are made of: what a trainer that has finished tells about itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from schemas.continuation import CHECKPOINT, checkpoint_name

from .checkpoint_record import Recorded
from .trainer_parts import named_by
from .training_spec import TrainingSpec


def scored(trainer: Any) -> tuple[float | None, list[dict[str, Any]]]:
    """The test score, NULL if not finite, and the rows of metrics; a trainer that scored nothing is asked to
    evaluate."""
    score = getattr(trainer, "test_score", None)
    if score is None:
        trainer.load_best_performing_model()
        score = trainer.evaluate()
    values = dict(getattr(trainer, "test_metrics", {}))
    directions = getattr(trainer, "metric_directions", {})
    return finite(float(score)), metric_rows(values, directions)


def metric_rows(values: Mapping[str, float], directions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of metrics without their key, by values and directions (``"min"`` where none is known); NULL if not
    finite."""
    return [
        {
            "metric_name": name,
            "metric_value": finite(value),
            "metric_direction": directions.get(name, "min"),
            "metric_note": "" if math.isfinite(value) else f"not finite: {value}",
        }
        for name, value in values.items()
    ]


def finite(value: float) -> float | None:
    """The value as a database holds it."""
    return float(value) if math.isfinite(value) else None


def parameter_count(trainer: Any) -> int:
    """Parameters of the trainer's model; 0 where a trainer keeps it under another name than `model`."""
    count = getattr(trainer, "parameter_count", None)
    if count is not None:
        return int(count)
    model = getattr(trainer, "model", None)
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, torch.nn.Module) else 0


def checkpoint_artifact(kept: Recorded) -> dict[str, Any]:
    """The row of a state that stays with the result."""
    return {
        "artifact_name": checkpoint_name(kept.epoch),
        "artifact_sha256": kept.sha256,
        "artifact_size": kept.size,
        "artifact_kind": CHECKPOINT,
    }


def notes_of(training: TrainingSpec, weights: list[dict[str, Any]]) -> list[str]:
    """What is to be known about a result; `weights` are the rows of artifacts that hold them."""
    notes = list(training.notes)
    if not weights:
        notes.append("the trainer saved no file at model_save_path: there are no weights in the store")
    if "checkpoints" not in named_by(training):
        notes.append("the trainer takes no checkpoints: an interrupted training starts anew")
    return notes
