"""The average of the weights that a training went through, in place of the last ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainers.contract import TrainerError

_Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class AveragingPolicy:
    """The parameters of a trainer that say which weights are averaged. What is averaged is what is validated, kept as
    the best, saved and scored on the test tier; it is the model as it was before the average begins.

    Args:
        ema_decay: above 0 and below 1. After each step of the optimizer the average becomes so many parts of itself and
            the rest of the new weights; it begins with those after the first step. Buffers (the statistics of batch
            normalisation) are the model's. None for no such average.
        swa_from_epoch: the mean of the weights at the end of every epoch from this one on, counted from 1 (stochastic
            weight averaging, Izmailov et al. 2018). Buffers are averaged too; at the end of the training the statistics
            of batch normalisation are computed anew from the training tier. 0 for no such average.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    ema_decay: float | None = None
    swa_from_epoch: int = 0

    def __post_init__(self) -> None:
        decay, first = self.ema_decay, self.swa_from_epoch
        if decay is not None and (not isinstance(decay, float) or not 0 < decay < 1):
            raise TrainerError(f"ema_decay is {decay!r}; it must be a number above 0 and below 1, or null for none.")
        if not isinstance(first, int) or isinstance(first, bool) or first < 0:
            raise TrainerError(f"swa_from_epoch is {first!r}; it must be an integer of at least 0.")
        if decay is not None and first:
            raise TrainerError("ema_decay and swa_from_epoch are two averages of the same weights; set one of them.")

    def check_reached(self, max_epoch: int) -> None:
        """Refuse an average that would never begin."""
        if self.swa_from_epoch > max_epoch:
            raise TrainerError(f"swa_from_epoch is {self.swa_from_epoch}, but there are {max_epoch} epochs only.")


class Averaging:
    """Keeps the average of a model; without a policy that asks for one it does nothing.

    Attributes:
        of_steps: whether it wants to be told of every step.
    """

    def __init__(self, policy: AveragingPolicy, model: nn.Module) -> None:
        self.of_steps = policy.ema_decay is not None
        self._model = model
        self._from_epoch = policy.swa_from_epoch
        self._epochs = 0  # epochs of the training by the last time that one of them was taken in
        self._averaged: AveragedModel | None = None
        if policy.ema_decay is not None:
            self._averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(policy.ema_decay))
        elif policy.swa_from_epoch:
            self._averaged = AveragedModel(model, multi_avg_fn=_take_into_mean, use_buffers=True)
        self._begun = False
        self._settled = False

    def after_step(self) -> None:
        """The optimizer has taken a step."""
        if self._averaged is not None:
            self._averaged.update_parameters(self._model)
            self._begun = True

    def after_epoch(self, epoch: int) -> None:
        """Epoch number `epoch`, counted from 1, was trained; to be told of it twice is the same as once."""
        if self._averaged is None or self.of_steps or epoch < self._from_epoch or epoch <= self._epochs:
            return
        self._averaged.update_parameters(self._model)
        self._epochs = epoch
        self._begun = True

    @property
    def result(self) -> nn.Module:
        """What the training would end with now: the average, or the model itself where there is none yet."""
        return self._averaged.module if self._averaged is not None and self._begun else self._model

    def mixes_statistics(self, best_epoch: int | None) -> bool:
        """Whether the weights kept in this epoch, counted from 0, are a mean over epochs, whose batch normalisation
        has no statistics of its own."""
        return not self._settled and best_epoch is not None and 0 < self._from_epoch <= best_epoch + 1

    def settle(self) -> None:
        """The kept weights have statistics of their own now."""
        self._settled = True

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        averaged = None if self._averaged is None else self._averaged.state_dict()
        return {"epochs": self._epochs, "begun": self._begun, "averaged": averaged}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another broke off."""
        self._epochs, self._begun = state["epochs"], state["begun"]
        if self._averaged is not None:
            self._averaged.load_state_dict(state["averaged"])


@torch.no_grad()
def _take_into_mean(means: _Tensors, values: _Tensors, count: Tensor | int) -> None:
    """Take values into the means of `count` ones before, all of one type. Counters, which have no mean, become the
    newest: torch's own function for this fails with them."""
    if means[0].is_floating_point() or means[0].is_complex():
        torch._foreach_lerp_(means, values, 1 / (int(count) + 1))
    else:
        torch._foreach_copy_(means, values)
