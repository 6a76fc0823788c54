"""What a row may set on `NNTrainer`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any, TypeVar

from trainers import metrics as metric_registry
from trainers.averaging import AveragingPolicy
from trainers.checkpoint_policy import CheckpointPolicy
from trainers.computation import ComputationPolicy
from trainers.contract import TrainerError
from trainers.devices import DevicesPolicy
from trainers.early_stopping import EarlyStopping
from trainers.freezing import FreezingPolicy
from trainers.histories import LOSS
from trainers.initial_weights import WarmStartPolicy
from trainers.learning_rate import Schedule
from trainers.resources import ResourcePolicy
from trainers.update import GradientPolicy
from trainers.validation import ValidationPolicy

T = TypeVar("T", bound=Callable[..., Any])


@dataclass(frozen=True)
class TrainerOptions(
    AveragingPolicy,
    CheckpointPolicy,
    ComputationPolicy,
    DevicesPolicy,
    EarlyStopping,
    FreezingPolicy,
    GradientPolicy,
    ResourcePolicy,
    Schedule,
    ValidationPolicy,
    WarmStartPolicy,
):
    """All parameters of `NNTrainer` that a row may set, checked: those of its bases, each described there, and these.

    Args:
        metrics: names from `trainers.metrics.METRICS`, computed on the validation tier and on the test tier.
        selection: what chooses the best weights and is the test score: "loss" or one of `metrics`.
        parameter_history: record mean and variance of every parameter after each epoch.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    metrics: Sequence[str] = ()
    selection: str = LOSS
    parameter_history: bool = True

    def __post_init__(self) -> None:
        metrics = self.metrics
        if isinstance(metrics, str) or not isinstance(metrics, Sequence):
            raise TrainerError(f'metrics is {metrics!r}; it must be a list of names such as ["accuracy"].')
        for name in metrics:
            metric_registry.find(name)
        if len(set(metrics)) < len(metrics):
            raise TrainerError(f"metrics is {list(metrics)}; name each metric once.")
        for name in ("selection", "early_stopping_metric"):
            value = getattr(self, name)
            if value not in (LOSS, *metrics) and (value is not None or name == "selection"):
                raise TrainerError(f'{name} is {value!r}; it must be "{LOSS}" or one of metrics ({list(metrics)}).')
        if not isinstance(self.parameter_history, bool):
            raise TrainerError(f"parameter_history is {self.parameter_history!r}; it must be true or false.")
        for policy in TrainerOptions.__bases__:
            policy.__post_init__(self)  # type: ignore[attr-defined]
        self._check_together()

    def _check_together(self) -> None:
        """Refuse what each policy allows, but not with another."""
        if not self.validation_steps:
            return
        for name in ("early_stopping_quotient", "swa_from_epoch"):
            if getattr(self, name):
                raise TrainerError(
                    f"{name} needs validations at the ends of epochs; set validation_epochs instead of "
                    "validation_steps, or leave it out."
                )

    @property
    def stopping_metric(self) -> str:
        """By which value early stopping goes."""
        return self.selection if self.early_stopping_metric is None else self.early_stopping_metric


def takes_options(function: T) -> T:
    """Let the signature of a function name every option where it has ``**options``: rows are checked by it."""
    signature = inspect.signature(function)
    own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
    options = [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=_default(field), annotation=field.type)
        for field in fields(TrainerOptions)
    ]
    function.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    return function


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()
