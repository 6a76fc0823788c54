"""Frozen parts of a model stay as they are; the rest is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.small_training import Batches, scale_trainer
from trainers.contract import TrainerError
from trainers.freezing import FreezingPolicy, Frozen


class Parts(nn.Module):
    def __init__(self, input_shape: Any = (), output_shape: Any = ()) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.part2 = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.part2(self.part(x)))


def trained(tmp_path: Path, **options: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights before and after a training of two epochs with weight decay."""
    inputs = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    data = Batches(*zip(inputs.split(6), inputs[:, :1].split(6), strict=True))
    loaders = {f"{tier}_dataloader": data for tier in ("train", "validation", "test")}
    params = {"optimizer_class": torch.optim.AdamW, "optimizer_class_params": {"weight_decay": 0.1, "lr": 0.01}}
    trainer = scale_trainer(tmp_path, model_class=Parts, **loaders, **params, **options)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    return before, trainer.model.state_dict()


@pytest.mark.feature("S13")
@pytest.mark.parametrize("options", [{}, {"swa_from_epoch": 1}], ids=["alone", "with a mean of epochs"])
def test_a_frozen_part_stays_with_its_statistics_and_the_rest_moves(tmp_path: Path, options: dict[str, Any]) -> None:
    before, after = trained(tmp_path, frozen=["part"], **options)
    stayed = {name for name in before if before[name].equal(after[name])}
    assert stayed == {name for name in before if name.startswith("part.")}


def test_a_single_parameter_can_be_frozen(tmp_path: Path) -> None:
    before, after = trained(tmp_path, frozen=["head.weight", "part2.0."])
    stayed = {name for name in before if before[name].equal(after[name])}
    assert stayed == {"head.weight", "part2.0.weight", "part2.0.bias"}


def test_names_that_freeze_nothing_or_everything_are_refused() -> None:
    with pytest.raises(
        TrainerError, match="frozen has 'par', which begins no parameter's name; they are part.0.weight"
    ):
        Frozen(FreezingPolicy(["head", "par"]), Parts())
    with pytest.raises(TrainerError, match="nothing is left to be trained"):
        Frozen(FreezingPolicy(["head", "part", "part2"]), Parts())


@pytest.mark.parametrize("frozen", ["head", 3, [""], [3]])
def test_wrong_parameters_are_named(frozen: Any) -> None:
    with pytest.raises(TrainerError, match="frozen (is|has) "):
        FreezingPolicy(frozen)
