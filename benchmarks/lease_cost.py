"""What the lease of a task and its checkpoints cost: the same training as an attempt of a worker, and without one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from benchmarks.comparison import Bar, Comparison, Program, interleave
from benchmarks.mlp_task import CLASSES, FILE_NAME, insert_configurations
from benchmarks.scratch_project import scratch_project
from trainloom import TrainingResult, TrainingTask

EXAMPLES = {"train": 80_000, "validation": 128, "test": 128}
FEATURES, HIDDEN = 256, 1024
EPOCHS = 2
HEARTBEAT_SECONDS = 0.5
"""Oftener than the default of 15 s, so that every epoch has beats."""


def measure(pairs: int) -> list[Comparison]:
    """Compare what a training takes, from the opening of its data to the upload of its weights."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder), EXAMPLES)
        with scratch_project(dataset_dir=folder, heartbeat_seconds=HEARTBEAT_SECONDS):
            keys = insert_configurations(HIDDEN, EPOCHS, {"checkpoint_epochs": 1})
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


def write_examples(folder: Path, examples: Mapping[str, int]) -> None:
    """Write so many examples of each tier, for trainings of which only the time counts."""
    chance = np.random.default_rng(0)
    with h5py.File(folder / FILE_NAME, "w") as file:
        for tier, count in examples.items():
            file[f"{tier}/inputs"] = chance.normal(size=(count, FEATURES)).astype(np.float32)
            file[f"{tier}/targets"] = chance.integers(CLASSES, size=count)


def _seconds(keys: dict[str, str], seed: int, *, attempt: bool) -> float:
    """Train a new task; without reservation there is no lease, no checkpoint, and nobody to report to."""
    task: dict[str, Any] = TrainingTask().insert_tuples({**keys, "seed": seed})[0]
    done = TrainingResult().populate(task, reserve_jobs=attempt)
    if done != {"success_count": 1, "error_list": []}:
        raise RuntimeError(f"populate was to train one task: {done}")
    return float((TrainingResult & task).fetch1("duration"))
