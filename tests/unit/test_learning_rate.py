"""Learning rates against values computed by hand, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainers.contract import TrainerError
from trainers.learning_rate import LearningRate, Schedule


def rates(steps: int, scores: list[float] | None = None, **params: Any) -> list[float]:
    """The rates with which steps are taken, 2 steps an epoch; the optimizer's own is 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    changing = LearningRate(Schedule(**params), optimizer)
    seen: list[float] = []

    def step() -> bool:
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        return True

    for number in range(1, steps + 1):
        changing.around_step(step)
        if number % 2 == 0:
            changing.after_epoch(scores.pop(0) if scores else 0.0)
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


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"scheduler_class_name": "Cosine"}, "scheduler_class_name is 'Cosine'; name a scheduler"),
        ({"scheduler_class_name": "Optimizer"}, "scheduler_class_name is 'Optimizer'"),
        ({"scheduler_class_name": 3}, "scheduler_class_name is 3"),
        ({"scheduler_class_name": "StepLR"}, "scheduler_class_params {} do not suit StepLR: .*step_size"),
        ({"scheduler_class_name": "StepLR", "scheduler_class_params": {"stepsize": 1}}, "do not suit StepLR"),
        ({"scheduler_class_params": {"step_size": 1}}, "without a scheduler_class_name"),
        ({"scheduler_steps": "batches"}, "scheduler_steps is 'batches'"),
        ({"scheduler_class_name": "ReduceLROnPlateau", "scheduler_steps": "batch"}, "goes by the validation score"),
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"warmup_steps": True}, "warmup_steps is True"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        Schedule(**params)
