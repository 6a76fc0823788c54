"""Trainings so small that every number can be had by hand."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers.nn_trainer import NNTrainer


class Batches:
    """A loader over batches in memory, which remembers the epochs it was told of."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches
        self.epochs: list[int] = []

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


class Scale(nn.Module):
    """output = factor * x; the regularization loss is factor ** 2, or none at all."""

    def __init__(self, input_shape: tuple, output_shape: tuple, factor: float = 1.0, regularized: bool = False) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.regularized = regularized

    def forward(self, x: Tensor) -> Any:
        output = self.factor * x
        return (output, self.factor**2) if self.regularized else output


def column(*values: float) -> Tensor:
    return torch.tensor(values).unsqueeze(1)


def scale_trainer(tmp_path: Path, **changes: Any) -> NNTrainer:
    """Plain gradient descent on a single factor, on data by which every number can be had by hand."""
    params = {
        "train_dataloader": Batches((column(1.0), column(3.0))),
        "validation_dataloader": Batches((column(1.0, 2.0), column(2.0, 4.0)), (column(3.0), column(6.0))),
        "test_dataloader": Batches((column(1.0), column(0.0))),
        "device": "cpu",
        "model_class": Scale,
        "model_class_params": {"input_shape": (1,), "output_shape": (1,)},
        "optimizer_class": torch.optim.SGD,
        "optimizer_class_params": {"lr": 0.25},
        "criterion_class": nn.MSELoss,
        "criterion_class_params": {},
        "model_save_path": str(tmp_path / "models" / "best.safetensors"),
        "max_epoch": 2,
    }
    return NNTrainer(**(params | changes))
