"""What the lease of a task and its checkpoints cost: the same training as an attempt of a worker, and without one."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.comparison import Bar, Comparison, Program, interleave
from benchmarks.scratch_project import scratch_project
from trainloom import DatasetConfig, ModelConfig, TrainingConfig, TrainingResult, TrainingTask

EXAMPLES = {"train": 80_000, "validation": 128, "test": 128}
FEATURES, HIDDEN, CLASSES = 256, 1024, 10
BATCH, EPOCHS = 128, 2
FILE_NAME = "examples.h5"
HEARTBEAT_SECONDS = 0.5
"""Oftener than the default of 15 s, so that every epoch has beats."""


def measure(pairs: int) -> list[Comparison]:
    """Compare what a training takes, from the opening of its data to the upload of its weights."""
    with tempfile.TemporaryDirectory() as folder:
        _write_examples(Path(folder, FILE_NAME))
        with scratch_project(dataset_dir=folder, heartbeat_seconds=HEARTBEAT_SECONDS):
            keys = _insert_configurations()
            programs: dict[str, Program] = {
                "attempt": lambda number: _seconds(keys, 2 * number, attempt=True),
                "bare": lambda number: _seconds(keys, 2 * number + 1, attempt=False),
            }
            seconds = interleave(programs, pairs)
    name = (
        f"{EPOCHS} epochs (MLP {FEATURES}-{HIDDEN}-{CLASSES}, {EXAMPLES['train']:,} examples) with a beat every "
        f"{HEARTBEAT_SECONDS} s and a checkpoint after each / without"
    )
    return [Comparison(name, seconds["attempt"], seconds["bare"], "s", Bar(1.02, at_most=True))]


def _write_examples(path: Path) -> None:
    chance = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for tier, count in EXAMPLES.items():
            file[f"{tier}/inputs"] = chance.normal(size=(count, FEATURES)).astype(np.float32)
            file[f"{tier}/targets"] = chance.integers(CLASSES, size=count)


def _insert_configurations() -> dict[str, str]:
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
            "model_class_params": {"hidden_size": HIDDEN},
        }
    )
    training = TrainingConfig().insert_tuples(
        {
            "batch_size": BATCH,
            "epoch_limit": EPOCHS,
            "trainer_class_params": {"checkpoint_epochs": 1},
            "optimizer_class_module_name": "torch.optim",
            "optimizer_class_name": "Adam",
            "criterion_class_module_name": "torch.nn",
            "criterion_class_name": "CrossEntropyLoss",
        }
    )
    return {**dataset[0], **model[0], **training[0]}


def _seconds(keys: dict[str, str], seed: int, *, attempt: bool) -> float:
    """Train a new task; without reservation there is no lease, no checkpoint, and nobody to report to."""
    task: dict[str, Any] = TrainingTask().insert_tuples({**keys, "seed": seed})[0]
    done = TrainingResult().populate(task, reserve_jobs=attempt)
    if done != {"success_count": 1, "error_list": []}:
        raise RuntimeError(f"populate was to train one task: {done}")
    return float((TrainingResult & task).fetch1("duration"))
