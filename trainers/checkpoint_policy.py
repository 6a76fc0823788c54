"""How often a training's state is saved and how many of the saved ones stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainers.checkpoint_schedule import CheckpointSchedule
from trainers.contract import Retention, TrainerError


@dataclass(frozen=True)
class CheckpointPolicy:
    """The parameters of a trainer that say it; docs/training.md describes them.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    checkpoint_epochs: int | None = None
    checkpoint_minutes: float = 10.0
    checkpoints_kept: int = 2
    checkpoints_kept_best: int = 0
    checkpoints_kept_every: int = 0
    checkpoints_kept_last: bool | None = None

    def __post_init__(self) -> None:
        at_least = {
            "checkpoint_epochs": 0,
            "checkpoints_kept": 1,
            "checkpoints_kept_best": 0,
            "checkpoints_kept_every": 0,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if value is None and name == "checkpoint_epochs":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TrainerError(f"{name} is {value!r}; it must be an integer of at least {least}.")
        minutes = self.checkpoint_minutes
        if not isinstance(minutes, int | float) or isinstance(minutes, bool) or not 0 <= minutes < math.inf:
            raise TrainerError(f"checkpoint_minutes is {minutes!r}; it must be a number of at least 0.")

        if not isinstance(self.checkpoints_kept_last, bool | None):
            kept = self.checkpoints_kept_last
            raise TrainerError(f"checkpoints_kept_last is {kept!r}; it must be true, false or null.")

    def checkpoint_schedule(self, *, resumed: bool) -> CheckpointSchedule:
        """When to save, counted from now, where a training begins or is resumed."""
        every = self.checkpoints_kept_every
        if self.checkpoints_kept_best and self.checkpoint_epochs is None:
            every = 1  # any epoch may turn out to be one of the best
        return CheckpointSchedule(
            self.checkpoint_epochs, self.checkpoint_minutes, every, final=self.checkpoints_kept_last, resumed=resumed
        )

    def retention(self, direction: Literal["max", "min"]) -> Retention:
        """Which stay, where `direction` is the better score."""
        return Retention(
            self.checkpoints_kept, self.checkpoints_kept_best, self.checkpoints_kept_every, direction=direction
        )
