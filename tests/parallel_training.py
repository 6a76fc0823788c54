"""Trainings on several devices, to be compared with those of one process.

Run by ``torchrun`` as a script it is one rank: ``parallel_training.py FOLDER NAME...`` does those trainings of
`RANKS_DO` and writes what came out to FOLDER/NAME.RANK.json.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from datasets_impl.loaders import BatchLoader
from datasets_impl.samplers import EpochSampler
from tests.resumable_training import Kept, StopAfter, digest
from trainers import numerics, process_group
from trainers.contract import Stopped, TrainerError
from trainers.nn_trainer import NNTrainer

RANKS = int(os.environ.get("WORLD_SIZE", "2"))
BATCH = 4  # of each rank
EXAMPLES = {"train": 43, "validation": 21, "test": 9}
"""With batches of 8 the last one of the training tier has three examples, two of one rank and one of the other; those
of the other tiers have one example, which one rank has and the other has not."""
CLASSES = 7
METRICS = ["accuracy", "balanced_accuracy", "macro_f1", "top5_accuracy"]


class Points:
    """Noisy points of seven classes."""

    draws_randomness = False

    def __init__(self, tier: str, count: int) -> None:
        generator = torch.Generator().manual_seed(len(tier))
        self.targets = torch.randint(CLASSES, (count,), generator=generator)
        centres = torch.randn(CLASSES, 5, generator=torch.Generator().manual_seed(1))
        self.inputs = centres[self.targets] + 0.5 * torch.randn(count, 5, generator=generator)
        self.reads = 0

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return self.inputs[index], self.targets[index]


class Net(nn.Module):
    """Two layers; the regularization is that of the last one."""

    def __init__(self, input_shape: Any, output_shape: Any, dropout: float = 0.0, norm: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(5, 16)
        self.norm = nn.BatchNorm1d(16) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.dropout(torch.relu(self.norm(self.first(x))))
        return self.head(hidden), 1e-3 * self.head.weight.square().sum()


class Disordered(EpochSampler):
    """Gives every process another order."""

    def order(self) -> Tensor:
        return torch.randperm(self.length, generator=torch.Generator().manual_seed(torch.distributed.get_rank()))


def build(
    folder: Path,
    *,
    batch: int,
    examples: Mapping[str, int] = MappingProxyType({}),
    drop_last: bool = False,
    sampler: Any = EpochSampler,
    **params: Any,
) -> NNTrainer:
    """A trainer over loaders of so many examples in a batch; the short last one of the training tier stays unless it is
    dropped."""
    loaders = {
        tier: BatchLoader(
            data,
            batch_size=batch,
            sampler=(sampler if tier == "train" else EpochSampler)(len(data), seed=3, shuffle=tier == "train"),
            drop_last=drop_last and tier == "train",
            seed=3,
        )
        for tier, data in {tier: Points(tier, count) for tier, count in {**EXAMPLES, **examples}.items()}.items()
    }
    given = {
        "device": "cpu",
        "model_class": Net,
        "model_class_params": {"input_shape": (5,), "output_shape": (CLASSES,)},
        "optimizer_class": torch.optim.SGD,
        "optimizer_class_params": {"lr": 0.1, "momentum": 0.9},
        "criterion_class": nn.CrossEntropyLoss,
        "criterion_class_params": {},
        "model_save_path": str(folder / "best.weights"),
        "max_epoch": 4,
        "seed": 11,
        "metrics": METRICS,
        **params,
    }
    return NNTrainer(**{f"{tier}_dataloader": loader for tier, loader in loaders.items()}, **given)


PLAIN: Mapping[str, Any] = {}
EVERYTHING: Mapping[str, Any] = {
    "examples": {"train": 41},  # so that a rank has no share in a step, too
    "optimizer_class": torch.optim.Adam,
    "optimizer_class_params": {"lr": 0.01},
    "gradient_accumulation": 2,
    "gradient_clip_norm": 1.0,
    "ema_decay": 0.9,
    "scheduler_class_name": "CosineAnnealingLR",
    "scheduler_class_params": {"T_max": 20},
    "scheduler_steps": "batch",
    "warmup_steps": 3,
    "validation_steps": 4,
    "selection": "accuracy",
}
OWN_RANDOMNESS: Mapping[str, Any] = {
    "model_class_params": {"input_shape": (5,), "output_shape": (CLASSES,), "dropout": 0.3, "norm": True},
    "swa_from_epoch": 2,
    "drop_last": True,  # a single example cannot be normalised
}


def outcome(trainer: NNTrainer) -> dict[str, Any]:
    """What came out, as JSON holds it."""
    return {
        "training": trainer.training_epoch_loss_history,
        "validation": trainer.validation_points,
        "regularization": trainer.regularization_loss_history,
        "test": trainer.test_metrics,
        "best": trainer.best_epoch,
        "weights": {name: tensor.tolist() for name, tensor in trainer.model.state_dict().items()},
        "digest": digest(trainer),
        "draw": torch.rand(()).item(),
        "reads": trainer.train_dataloader.dataset.reads,
    }


def _trained(folder: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    trainer = build(folder, batch=BATCH, devices=RANKS, **params)
    trainer.train()
    return outcome(trainer)


def _interrupted(folder: Path) -> dict[str, Any]:
    """Stopped at its third look, in the midst of an epoch, with a checkpoint that new trainers go on from."""
    kept = Kept()
    first = build(folder, batch=BATCH, devices=RANKS, checkpoints=kept, stop=StopAfter(3), **OWN_RANDOMNESS)
    try:
        first.train()
    except Stopped:
        second = build(folder, batch=BATCH, devices=RANKS, checkpoints=kept, **OWN_RANDOMNESS)
        done = second.epochs_done
        second.train()
        return {**outcome(second), "saved": kept.positions, "taken_up_at": done}
    raise AssertionError("the training was not stopped")


def _disordered(folder: Path) -> dict[str, Any]:
    try:
        build(folder, batch=BATCH, devices=RANKS, sampler=Disordered).train()
    except TrainerError as error:
        return {"error": str(error)}
    raise AssertionError("ranks with other data went on")


def _of_another_number(folder: Path) -> dict[str, Any]:
    """The checkpoint of one process, given to two."""
    kept = Kept()
    build(folder, batch=BATCH, checkpoints=kept, checkpoint_epochs=1, max_epoch=1).train()
    errors = []
    for devices in (RANKS, RANKS + 1):
        try:
            build(folder, batch=BATCH, devices=devices, checkpoints=kept)
        except TrainerError as error:
            errors.append(str(error))
    return {"errors": errors}


RANKS_DO: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    "plain": lambda folder: _trained(folder, PLAIN),
    "everything": lambda folder: _trained(folder, EVERYTHING),
    "own_randomness": lambda folder: _trained(folder, OWN_RANDOMNESS),
    "interrupted": _interrupted,
    "disordered": _disordered,
    "another_number": _of_another_number,
}


def main(folder: Path, *names: str) -> None:
    numerics.settle(threads=1)
    rank = process_group.join(RANKS, "cpu").rank
    for name in names:
        (folder / name / str(rank)).mkdir(parents=True)
        (folder / f"{name}.{rank}.json").write_text(json.dumps(RANKS_DO[name](folder / name / str(rank))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
