"""Steps of the optimizer against the same steps taken by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainers.contract import TrainerError
from trainers.learning_rate import LearningRate, Schedule
from trainers.update import GradientPolicy, Update

FACTORS = [1.0, 3.0, -2.0, 5.0, 4.0]
"""The gradient of each batch's loss with respect to the only weight."""


def weights(batches: int = len(FACTORS), **policy: Any) -> list[float]:
    """The weight after each batch and at the end of the epoch; it begins at 0 and the learning rate is 1."""
    weight = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    update = Update(optimizer, [weight], GradientPolicy(**policy), None, LearningRate(Schedule(), optimizer))
    seen = []
    for factor in FACTORS[:batches]:
        update(weight * factor)
        seen.append(weight.item())
    update.end_epoch()
    return [*seen, weight.item()]


def test_every_batch_is_a_step() -> None:
    assert weights() == [-1.0, -4.0, -2.0, -7.0, -11.0, -11.0]


@pytest.mark.feature("S3")
def test_accumulated_batches_make_one_step_with_their_mean() -> None:
    assert weights(4, gradient_accumulation=2) == [0.0, -2.0, -2.0, -3.5, -3.5]


def test_what_is_left_over_at_the_end_of_an_epoch_is_a_step_with_its_own_mean() -> None:
    assert weights(gradient_accumulation=2) == [0.0, -2.0, -2.0, -3.5, -3.5, -7.5]
    assert weights(gradient_accumulation=9)[-1] == pytest.approx(-sum(FACTORS) / len(FACTORS))


def test_gradients_are_limited() -> None:
    assert weights(gradient_clip_value=2.0) == [-1.0, -3.0, -1.0, -3.0, -5.0, -5.0]
    assert weights(gradient_clip_norm=2.0) == pytest.approx([-1.0, -3.0, -1.0, -3.0, -5.0, -5.0])


def test_the_norm_is_that_of_all_gradients_together() -> None:
    pair = [nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))]
    optimizer = torch.optim.SGD(pair, lr=1.0)
    policy = GradientPolicy(gradient_clip_norm=5.0)
    Update(optimizer, pair, policy, None, LearningRate(Schedule(), optimizer))(6 * pair[0] + 8 * pair[1])
    assert [weight.item() for weight in pair] == pytest.approx([-3.0, -4.0])


def test_a_step_that_overflows_in_fp16_is_left_out() -> None:
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    update = Update(optimizer, [weight], GradientPolicy(), scaler, LearningRate(Schedule(), optimizer))

    def loss(factor: float) -> Tensor:
        return weight * factor

    update(loss(1e35))  # finite, but not when it is scaled
    assert weight.item() == 1.0
    assert scaler.get_scale() == 2.0**15
    update(loss(0.25))
    assert weight.item() == 0.75


def test_only_steps_that_change_weights_are_told() -> None:
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    told: list[float] = []
    update = Update(
        optimizer,
        [weight],
        GradientPolicy(gradient_accumulation=2),
        scaler,
        LearningRate(Schedule(), optimizer),
        lambda: told.append(weight.item()),
    )
    for factor in (1e35, 1.0, 0.25, 0.25, 0.5):  # the first two overflow when they are scaled
        update(weight * factor)
    assert told == [0.75]
    update.end_epoch()
    assert told == [0.75, 0.25]


def test_a_step_that_was_left_out_is_none_of_the_schedule() -> None:
    weight = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    schedule = Schedule("StepLR", {"step_size": 1, "gamma": 0.5}, "batch", warmup_steps=2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    update = Update(optimizer, [weight], GradientPolicy(), scaler, LearningRate(schedule, optimizer))
    update(weight * 1e35)
    assert optimizer.param_groups[0]["lr"] == 1.0
    update(weight * 0.25)
    assert weight.item() == 1.0 - 0.25 / 2
    assert optimizer.param_groups[0]["lr"] == 0.5
    update(weight * 0.25)
    assert weight.item() == 1.0 - 0.25 / 2 - 0.125


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gradient_accumulation": 0}, "gradient_accumulation is 0"),
        ({"gradient_accumulation": 1.5}, "gradient_accumulation is 1.5"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm is 0.0"),
        ({"gradient_clip_norm": float("inf")}, "gradient_clip_norm is inf"),
        ({"gradient_clip_value": -1}, "gradient_clip_value is -1"),
        ({"gradient_clip_value": True}, "gradient_clip_value is True"),
    ],
)
def test_wrong_parameters_are_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerError, match=message):
        GradientPolicy(**params)
