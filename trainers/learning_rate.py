"""How the learning rate changes while a model is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.optim import lr_scheduler

from trainers.contract import TrainerError

STEPS = ("epoch", "batch")
TORCH_MODULE = "torch.optim.lr_scheduler"


@dataclass(frozen=True)
class Schedule:
    """The parameters of a trainer that say it.

    Args:
        scheduler_class_name, scheduler_module_name: a class derived from torch's `LRScheduler`. One of another module
            than torch's is found by the pipeline, which hands it to the trainer as `scheduler_class`.
        scheduler_class_params: its parameters, without the optimizer.
        scheduler_steps: whether it goes on after every "epoch" or after every step, "batch". One whose ``step`` needs
            a value, as `ReduceLROnPlateau`, is given the trainer's `selection` after every validation.
        warmup_steps: the first so many steps are taken with a rate that grows linearly to the schedule's.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    scheduler_class_name: str | None = None
    scheduler_class_params: Mapping[str, Any] = field(default_factory=dict)
    scheduler_steps: Literal["epoch", "batch"] = "epoch"
    warmup_steps: int = 0
    scheduler_module_name: str = TORCH_MODULE

    def __post_init__(self) -> None:
        if self.scheduler_steps not in STEPS:
            raise TrainerError(f"scheduler_steps is {self.scheduler_steps!r}; it must be 'epoch' or 'batch'.")
        if not isinstance(self.warmup_steps, int) or isinstance(self.warmup_steps, bool) or self.warmup_steps < 0:
            raise TrainerError(f"warmup_steps is {self.warmup_steps!r}; it must be an integer of at least 0.")
        if not isinstance(self.scheduler_class_params, Mapping):
            raise TrainerError(f"scheduler_class_params is {self.scheduler_class_params!r}; it must be a mapping.")
        if not isinstance(self.scheduler_module_name, str):
            raise TrainerError(f"scheduler_module_name is {self.scheduler_module_name!r}; it must be text.")
        if self.scheduler_class_name is None:
            if self.scheduler_class_params or self.scheduler_module_name != TORCH_MODULE:
                given = "scheduler_class_params are" if self.scheduler_class_params else "scheduler_module_name is"
                raise TrainerError(f"{given} given without a scheduler_class_name; name the class.")
        elif self.scheduler_module_name == TORCH_MODULE:
            self.scheduler(torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9))

    def scheduler(self, optimizer: torch.optim.Optimizer, scheduler_class: type | None = None) -> Any:
        """The scheduler over an optimizer: of this class, else of the named one of torch."""
        found = self._torchs_own() if scheduler_class is None else scheduler_class
        name = found.__name__
        if not issubclass(found, lr_scheduler.LRScheduler):
            raise TrainerError(f"{name} is no scheduler class: it must be a torch.optim.lr_scheduler.LRScheduler.")
        try:
            scheduler = found(optimizer, **self.scheduler_class_params)
        except (TypeError, ValueError, AttributeError) as error:
            given = dict(self.scheduler_class_params)
            raise TrainerError(f"scheduler_class_params {given} do not suit {name}: {error}") from error
        if self.scheduler_steps == "batch" and _wants_score(scheduler):
            raise TrainerError(
                f"{name} goes by the validation score, which does not come with every step; set scheduler_steps to "
                "'epoch'."
            )
        return scheduler

    def _torchs_own(self) -> type:
        name, module = self.scheduler_class_name, self.scheduler_module_name
        if module != TORCH_MODULE:
            raise TrainerError(
                f"scheduler_class_name is {name!r} of {module}; hand the class to the trainer as scheduler_class."
            )
        found = getattr(lr_scheduler, name, None) if isinstance(name, str) else None
        if not (isinstance(found, type) and issubclass(found, lr_scheduler.LRScheduler)):
            raise TrainerError(f"scheduler_class_name is {name!r}; name a scheduler of torch.optim.lr_scheduler.")
        return found


class LearningRate:
    """Changes an optimizer's learning rate after steps and epochs, as a schedule says.

    While it warms up, each step is taken with the rate that the schedule has then times a factor that grows linearly
    from 1 / `warmup_steps` to 1 (Goyal et al. 2017).
    """

    def __init__(
        self, schedule: Schedule, optimizer: torch.optim.Optimizer, scheduler_class: type | None = None
    ) -> None:
        self._optimizer = optimizer
        self._per_batch = schedule.scheduler_steps == "batch"
        self._warmup_steps = schedule.warmup_steps
        self._steps = 0  # taken, of those that warm up
        named = scheduler_class is not None or schedule.scheduler_class_name is not None
        self._scheduler = schedule.scheduler(optimizer, scheduler_class) if named else None
        self._by_score = named and _wants_score(self._scheduler)

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

    def after_epoch(self) -> None:
        """An epoch was trained."""
        if self._scheduler is not None and not self._per_batch and not self._by_score:
            self._scheduler.step()

    def after_validation(self, score: float) -> None:
        """The model was validated; `score` is the value of the trainer's `selection`."""
        if self._scheduler is not None and self._by_score:
            self._scheduler.step(score)

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        scheduler = None if self._scheduler is None else self._scheduler.state_dict()
        return {"steps": self._steps, "scheduler": scheduler}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where another broke off; the optimizer's own rates come with the optimizer's state."""
        self._steps = state["steps"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(state["scheduler"])
            # torch looks whether the optimizer was used before the schedule goes on: it was, in another process, where
            # a training was interrupted between the last batch of an epoch and its end.
            self._optimizer._opt_called = True  # type: ignore[attr-defined]


def _wants_score(scheduler: Any) -> bool:
    """Whether a step needs a value: its first parameter has no default."""
    first = next(iter(inspect.signature(scheduler.step).parameters.values()), None)
    return first is not None and first.default is first.empty and first.kind is not first.VAR_POSITIONAL
