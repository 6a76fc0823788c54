"""How the learning rate changes while a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import lr_scheduler

from trainers.contract import TrainerError

STEPS = ("epoch", "batch")


@dataclass(frozen=True)
class Schedule:
    """The parameters of a trainer that say it; see `NNTrainer`.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    scheduler_class_name: str | None = None
    scheduler_class_params: Mapping[str, Any] = field(default_factory=dict)
    scheduler_steps: Literal["epoch", "batch"] = "epoch"
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        if self.scheduler_steps not in STEPS:
            raise TrainerError(f"scheduler_steps is {self.scheduler_steps!r}; it must be 'epoch' or 'batch'.")
        if not isinstance(self.warmup_steps, int) or isinstance(self.warmup_steps, bool) or self.warmup_steps < 0:
            raise TrainerError(f"warmup_steps is {self.warmup_steps!r}; it must be an integer of at least 0.")
        if not isinstance(self.scheduler_class_params, Mapping):
            raise TrainerError(f"scheduler_class_params is {self.scheduler_class_params!r}; it must be a mapping.")
        if self.scheduler_class_name is None:
            if self.scheduler_class_params:
                raise TrainerError("scheduler_class_params are given without a scheduler_class_name; name the class.")
            return
        scheduler = self.scheduler(torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9))
        if self.scheduler_steps == "batch" and _wants_score(scheduler):
            raise TrainerError(
                f"{self.scheduler_class_name} goes by the validation score, which comes once an epoch; "
                "set scheduler_steps to 'epoch'."
            )

    def scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """torch's scheduler over an optimizer."""
        name = self.scheduler_class_name
        found = getattr(lr_scheduler, name, None) if isinstance(name, str) else None
        if not (isinstance(found, type) and issubclass(found, lr_scheduler.LRScheduler)):
            raise TrainerError(f"scheduler_class_name is {name!r}; name a scheduler of torch.optim.lr_scheduler.")
        try:
            return found(optimizer, **self.scheduler_class_params)
        except (TypeError, ValueError, AttributeError) as error:
            given = dict(self.scheduler_class_params)
            raise TrainerError(f"scheduler_class_params {given} do not suit {name}: {error}") from error


class LearningRate:
    """Changes an optimizer's learning rate after steps and epochs, as a schedule says.

    While it warms up, each step is taken with the rate that the schedule has then times a factor that grows linearly
    from 1 / `warmup_steps` to 1 (Goyal et al. 2017).
    """

    def __init__(self, schedule: Schedule, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._per_batch = schedule.scheduler_steps == "batch"
        self._warmup_steps = schedule.warmup_steps
        self._steps = 0  # taken, of those that warm up
        self._scheduler = None if schedule.scheduler_class_name is None else schedule.scheduler(optimizer)

    @property
    def changes_after_steps(self) -> bool:
        """Whether a step has to be told at all."""
        return self._warmup_steps > 0 or (self._scheduler is not None and self._per_batch)

    def around_step(self, step: Callable[[], bool]) -> None:
        """Take a step of the optimizer by calling `step`, with the rate that is due; one that returns False was left
        out and does not count."""
        rates = [group["lr"] for group in self._optimizer.param_groups]
        warming = self._steps < self._warmup_steps
        if warming:
            for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * (self._steps + 1) / self._warmup_steps
        try:
            taken = step()
        finally:
            if warming:
                for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
        if not taken:
            return
        self._steps += warming
        if self._scheduler is not None and self._per_batch:
            self._scheduler.step()

    def after_epoch(self, score: float) -> None:
        """An epoch was trained and validated; `score` is the validation's value of the trainer's `selection`."""
        if self._scheduler is None or self._per_batch:
            return
        if _wants_score(self._scheduler):
            self._scheduler.step(score)
        else:
            self._scheduler.step()

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        scheduler = None if self._scheduler is None else self._scheduler.state_dict()
        return {"steps": self._steps, "scheduler": scheduler}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another broke off; the optimizer's own rates come with the optimizer's state."""
        self._steps = state["steps"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])


def _wants_score(scheduler: Any) -> bool:
    return isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
