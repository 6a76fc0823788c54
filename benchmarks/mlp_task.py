"""The configurations of a small perceptron's training on examples in a file."""

from __future__ import annotations

from typing import Any

from trainloom import DatasetConfig, ModelConfig, TrainingConfig

FILE_NAME = "examples.h5"
CLASSES, BATCH = 10, 128


def insert_configurations(hidden: int, epochs: int, trainer_params: dict[str, Any] | None = None) -> dict[str, str]:
    """Insert one of each kind, with Adam and cross entropy; returns the three keys of a task."""
    dataset = DatasetConfig().insert_tuples(
        {
            "dataset_file_name": FILE_NAME,
            "dataset_class_module_name": "datasets_impl.hdf5",
            "dataset_class_name": "HDF5Dataset",
            "dataset_class_params": {"classes": CLASSES},
        }
    )
    model = ModelConfig().insert_tuples(
        {
            "model_class_module_name": "models_impl.simple_mlp",
            "model_class_name": "SimpleMLP",
            "model_class_params": {"hidden_size": hidden},
        }
    )
    training = TrainingConfig().insert_tuples(
        {
            "batch_size": BATCH,
            "epoch_limit": epochs,
            "trainer_class_params": trainer_params or {},
            "optimizer_class_module_name": "torch.optim",
            "optimizer_class_name": "Adam",
            "criterion_class_module_name": "torch.nn",
            "criterion_class_name": "CrossEntropyLoss",
        }
    )
    return {**dataset[0], **model[0], **training[0]}
