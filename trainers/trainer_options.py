"""What a row may set on `NNTrainer`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from trainers import metrics as metric_registry
from trainers import precision as precisions
from trainers.checkpoint_policy import CheckpointPolicy
from trainers.contract import TrainerError
from trainers.early_stopping import EarlyStopping
from trainers.histories import LOSS
from trainers.learning_rate import Schedule
from trainers.update import GradientPolicy


@dataclass(frozen=True)
class TrainerOptions(CheckpointPolicy, EarlyStopping, GradientPolicy, Schedule):
    """All parameters of `NNTrainer` that a row may set, checked; it says what each means.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    metrics: Sequence[str] = ()
    selection: str = LOSS
    parameter_history: bool = True
    precision: str = "fp32"

    def __post_init__(self) -> None:
        metrics = self.metrics
        if isinstance(metrics, str) or not isinstance(metrics, Sequence):
            raise TrainerError(f'metrics is {metrics!r}; it must be a list of names such as ["accuracy"].')
        for name in metrics:
            metric_registry.find(name)
        if len(set(metrics)) < len(metrics):
            raise TrainerError(f"metrics is {list(metrics)}; name each metric once.")
        if self.selection not in (LOSS, *metrics):
            listed = list(metrics)
            raise TrainerError(f'selection is {self.selection!r}; it must be "{LOSS}" or one of metrics ({listed}).')
        if not isinstance(self.parameter_history, bool):
            raise TrainerError(f"parameter_history is {self.parameter_history!r}; it must be true or false.")
        precisions.check_name(self.precision)
        for policy in (CheckpointPolicy, EarlyStopping, GradientPolicy, Schedule):
            policy.__post_init__(self)

    @classmethod
    def of(cls, arguments: dict[str, Any]) -> TrainerOptions:
        """Those among the arguments of a constructor."""
        return cls(**{field.name: arguments[field.name] for field in fields(cls)})
