"""What a trainer of a task is built from, in the worker's own process or in a rank."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from datasets_impl.loaders import BatchLoader, build_loader
from schemas.dataset_config import TIERS

from .training_spec import TrainingSpec


def loaders_of(
    training: TrainingSpec, directory: Path, num_workers: int, resources: ExitStack
) -> dict[str, BatchLoader]:
    """The loader of each tier; `resources` closes them."""
    loaders = {}
    for tier in TIERS:
        dataset = training.dataset.cls(dict(training.dataset_row), str(directory), tier, **training.dataset.params)
        sampler = training.samplers.get(tier)
        loaders[tier] = build_loader(
            dataset,
            tier=tier,
            batch_size=training.batch_size,
            sampler=sampler.cls(dataset, **sampler.params) if sampler else None,
            num_workers=num_workers,
            seed=training.seed,
        )
        resources.callback(loaders[tier].close)
    return loaders


def arguments_of(
    training: TrainingSpec, loaders: Mapping[str, BatchLoader], device: Any, model_save_path: Path
) -> dict[str, Any]:
    """What every trainer is given, by name."""
    return {
        **{f"{tier}_dataloader": loader for tier, loader in loaders.items()},
        "device": device,
        "model_class": training.model,
        "model_class_params": training.model_params,
        "optimizer_class": training.optimizer.cls,
        "optimizer_class_params": training.optimizer.params,
        "criterion_class": training.criterion.cls,
        "criterion_class_params": training.criterion.params,
        "model_save_path": str(model_save_path),
        "max_epoch": training.epoch_limit,
    }


def named_by(training: TrainingSpec) -> frozenset[str]:
    """The parameters that the trainer's constructor names."""
    return frozenset(inspect.signature(training.trainer.cls).parameters)
