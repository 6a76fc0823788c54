"""Learning rates against values computed by hand, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainers.contract import TrainerError
from trainers.learning_rate import LearningRate, Schedule


class Thirds(torch.optim.lr_scheduler.LRScheduler):
    """One's own: a third of the rate, then two thirds, and so on."""

    def __init__(self, optimizer: torch.optim.Optimizer, least: int = 1) -> None:
        self.least = least
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [rate * min(3, self.last_epoch + self.least) / 3 for rate in self.base_lrs]


def rates(
    steps: int, scores: list[float] | None = None, scheduler_class: type | None = None, **params: Any
) -> list[float]:
    """The rates with which steps are taken, 2 steps an epoch; the optimizer's own is 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    changing = LearningRate(Schedule(**params), optimizer, scheduler_class)
    seen: list[float] = []

    def step() -> bool:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        return True

    for number in range(1, steps + 1):
        changing.around_step(step)
        if number % 2 == 0:
            changing.after_validation(scores.pop(0) if scores else 0.0)
            changing.after_epoch()
    return seen


def test_without_a_schedule_the_rate_stays() -> None:
    assert rates(4) == [1.0] * 4


@pytest.mark.feature("S3")
def test_a_schedule_by_epochs() -> None:
    params = {"scheduler_class_name": "StepLR", "scheduler_class_params": {"step_size": 1, "gamma": 0.5}}
    assert rates(6, **params) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]


def test_a_schedule_by_steps() -> None:
    params = {"scheduler_class_name": "ExponentialLR", "scheduler_class_params": {"gamma": 0.5}}
    assert rates(4, scheduler_steps="batch", **params) == [1.0, 0.5, 0.25, 0.125]


def test_a_schedule_by_the_score() -> None:
    params = {
        "scheduler_class_name": "ReduceLROnPlateau",
        "scheduler_class_params": {"patience": 0, "factor": 0.5, "mode": "max"},
    }
    assert rates(8, [0.1, 0.2, 0.2, 0.3], **params) == [1.0] * 6 + [0.5] * 2


def test_warm_up_is_a_factor_of_what_the_schedule_says() -> None:
    assert rates(6, warmup_steps=4) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    params = {"scheduler_class_name": "StepLR", "scheduler_class_params": {"step_size": 1, "gamma": 0.5}}
    assert rates(4, warmup_steps=4, **params) == [0.25, 0.5, 0.375, 0.5]


@pytest.mark.feature("S3")
def test_a_schedule_of_ones_own() -> None:
    named = {"scheduler_module_name": "my_lab.schedules", "scheduler_class_name": "Thirds"}
    params = {"scheduler_class": Thirds, "scheduler_steps": "batch", **named}
    assert rates(4, **params) == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert rates(3, **params, scheduler_class_params={"least": 2}) == pytest.approx([2 / 3, 1, 1])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(TrainerError, match="do not suit Thirds"):
        LearningRate(Schedule(scheduler_class_params={"most": 2}, **named), optimizer, Thirds)
    with pytest.raises(TrainerError, match="'Thirds' of my_lab.schedules; hand the class to the trainer"):
        LearningRate(Schedule(**named), optimizer)
    with pytest.raises(TrainerError, match="SGD is no scheduler class"):
        LearningRate(Schedule(**named), optimizer, torch.optim.SGD)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scheduler_class_name": "Cosine"}, "scheduler_class_name is 'Cosine'; name a scheduler"),
        ({"scheduler_class_name": "Optimizer"}, "scheduler_class_name is 'Optimizer'"),
        ({"scheduler_class_name": 3}, "scheduler_class_name is 3"),
        ({"scheduler_class_name": "StepLR"}, "scheduler_class_params {} do not suit StepLR: .*step_size"),
        ({"scheduler_class_name": "StepLR", "scheduler_class_params": {"stepsize": 1}}, "do not suit StepLR"),
        ({"scheduler_class_params": {"step_size": 1}}, "without a scheduler_class_name"),
        ({"scheduler_module_name": "my_lab"}, "scheduler_module_name is given without a scheduler_class_name"),
        ({"scheduler_module_name": 3}, "scheduler_module_name is 3"),
        ({"scheduler_steps": "batches"}, "scheduler_steps is 'batches'"),
        ({"scheduler_class_name": "ReduceLROnPlateau", "scheduler_steps": "batch"}, "goes by the validation score"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"warmup_steps": True}, "warmup_steps is True"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        Schedule(**params)
