"""What is trained, in a line for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .training_state import Training

if TYPE_CHECKING:
    from pipeline.training_spec import TrainingSpec

SHOWN = 8  # characters of a key


def title(key: str, model: str, data: str, optimizer: str, seed: int) -> str:
    """Such as ``3f2c9a1b  SmallCNN, digits.h5, Adam, seed 0``."""
    return f"{key[:SHOWN]}  {model}, {data}, {optimizer}, seed {seed}"


def described(spec: TrainingSpec) -> Training:
    """A task as its views name it."""
    data = str(spec.dataset_row["dataset_file_name"])
    return Training(
        spec.key,
        title(spec.key, spec.model.__name__, data, spec.optimizer.cls.__name__, spec.seed),
        spec.batch_size,
    )
