"""A small trained project: the handwritten digits, tiny models, one epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets_impl.digits import build_digits
from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask


def training(**changes: Any) -> dict[str, Any]:
    """A training configuration of one epoch."""
    return {
        "trainer_class_params": {"metrics": ["accuracy"], "parameter_history": False},
        "batch_size": 128,
        "epoch_limit": 1,
        "optimizer_class_module_name": "torch.optim",
        "optimizer_class_name": "Adam",
        "optimizer_class_params": {"lr": 0.01},
        "criterion_class_module_name": "torch.nn",
        "criterion_class_name": "CrossEntropyLoss",
        **changes,
    }


def insert_tasks(
    session: Any, *trainings: dict[str, Any], model: dict[str, Any] | None = None, seeds: Any = (0,)
) -> Any:
    """Tasks that train one model on the digits: one for each training configuration and seed; returns their keys."""
    build_digits(Path(session.folders.dataset_dir) / "digits.h5")
    datasets = DatasetConfig().insert_tuple(
        {
            "dataset_file_name": "digits.h5",
            "dataset_class_module_name": "datasets_impl.digits",
            "dataset_class_name": "DigitsDataset",
        }
    )
    models = ModelConfig().insert_tuple(
        model
        or {
            "model_class_module_name": "models_impl.simple_mlp",
            "model_class_name": "SimpleMLP",
            "model_class_params": {"hidden_size": 16},
        }
    )
    return TrainingTask().insert_grid(datasets, models, TrainingConfig().insert_tuples(list(trainings)), seeds=seeds)


def train(*restrictions: Any) -> None:
    """Train what is missing."""
    done = TrainingResult().populate(*restrictions, reserve_jobs=True)
    assert done["error_list"] == []
