"""The demonstration: real handwritten digits, two models, two trainings and two seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datasets_impl.digits import build_digits
from schemas.dataset_config import DatasetConfig
from schemas.keys import Keys
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_task import TrainingTask

if TYPE_CHECKING:
    from .session import Session

DATA_FILE = "digits.h5"
PROCESSES = 2
SEEDS = (0, 1)
METRIC = "accuracy"

DATASET = {
    "dataset_file_name": DATA_FILE,
    "dataset_type": "images",
    "dataset_class_module_name": "datasets_impl.digits",
    "dataset_class_name": "DigitsDataset",
}
MODELS = (
    {
        "model_class_module_name": "models_impl.simple_mlp",
        "model_class_name": "SimpleMLP",
        "model_class_params": {"num_hidden_layers": 2, "hidden_size": 128, "dropout": 0.2},
    },
    {
        "model_class_module_name": "models_impl.small_cnn",
        "model_class_name": "SmallCNN",
        "model_class_params": {"channels": [32, 64], "hidden_size": 128, "dropout": 0.2},
    },
)
COMMON = {
    "trainer_class_module_name": "trainers.nn_trainer",
    "trainer_class_name": "NNTrainer",
    "trainer_class_params": {"metrics": [METRIC], "selection": METRIC},
    "epoch_limit": 20,
    "optimizer_class_module_name": "torch.optim",
    "criterion_class_module_name": "torch.nn",
    "criterion_class_name": "CrossEntropyLoss",
}
TRAININGS = (
    {**COMMON, "batch_size": 32, "optimizer_class_name": "Adam", "optimizer_class_params": {"lr": 1e-3}},
    {
        **COMMON,
        "batch_size": 64,
        "optimizer_class_name": "SGD",
        "optimizer_class_params": {"lr": 0.05, "momentum": 0.9, "nesterov": True},
    },
)


def pack(session: Session) -> Path:
    """The data file in the session's folder; it is written where it is missing."""
    path = session.folders.dataset_dir / DATA_FILE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        build_digits(path)
    return path


def insert() -> Keys:
    """Insert the configurations and their tasks; what is there already stays. The data file must have been packed."""
    datasets = DatasetConfig().insert_tuples([DATASET])
    models = ModelConfig().insert_tuples(list(MODELS))
    trainings = TrainingConfig().insert_tuples(list(TRAININGS))
    return TrainingTask().insert_grid(datasets, models, trainings, seeds=SEEDS)
