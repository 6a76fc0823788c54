"""What the rows of a result are made of: what a trainer that has finished tells about itself."""

from __future__ import annotations

import math
from typing import Any

import torch

from .checkpoint_record import Recorded
from .trainer_parts import named_by
from .training_spec import TrainingSpec

CHECKPOINT = "checkpoint"  # the kind of artifacts that are states of a training


def scored(trainer: Any) -> tuple[float | None, list[dict[str, Any]]]:
    """The test score, NULL if not finite, and the rows of metrics; a trainer that scored nothing is asked to
    evaluate."""
    score = getattr(trainer, "test_score", None)
    if score is None:
        trainer.load_best_performing_model()
        score = trainer.evaluate()
    values = dict(getattr(trainer, "test_metrics", {}))
    directions = getattr(trainer, "metric_directions", {})
    rows = [
        {
            "metric_name": name,
            "metric_value": _finite(value),
            "metric_direction": directions.get(name, "min"),
            "metric_note": "" if math.isfinite(value) else f"not finite: {value}",
        }
        for name, value in values.items()
    ]
    return _finite(float(score)), rows


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def parameter_count(trainer: Any) -> int:
    """Parameters of the trainer's model; 0 where a trainer keeps it under another name than `model`."""
    count = getattr(trainer, "parameter_count", None)
    if count is not None:
        return int(count)
    model = getattr(trainer, "model", None)
    return sum(parameter.numel() for parameter in model.parameters()) if isinstance(model, torch.nn.Module) else 0


def checkpoint_name(epoch: int) -> str:
    """What the artifact is called that holds a training's state after an epoch, counted from 1."""
    return f"checkpoint of epoch {epoch}"


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
