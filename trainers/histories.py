"""What is recorded of every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from trainers.parameter_history import ParameterHistory

LOSS = "loss"


class Histories:
    """Values by epoch, one entry for each time `record` was called. The lists stay the same objects.

    Args:
        metrics: names of the metrics.
        selection: `LOSS` or the metric that chooses the best epoch.
        direction: whether the "max" or "min" of it is best.
        parameters: is recorded too; None leaves it out.

    Attributes:
        training, validation, regularization: losses.
        metrics: name to values on the validation tier.
    """

    def __init__(
        self,
        metrics: Sequence[str],
        selection: str,
        direction: Literal["max", "min"],
        parameters: ParameterHistory | None,
    ) -> None:
        self.training: list[float] = []
        self.validation: list[float] = []
        self.regularization: list[float] = []
        self.metrics: dict[str, list[float]] = {name: [] for name in metrics}
        self._parameters = parameters
        self._selected = self.validation if selection == LOSS else self.metrics[selection]
        self._direction = direction

    def record(self, training: float, regularization: float, validation: Mapping[str, float]) -> None:
        """An epoch was trained and validated; `validation` holds the loss and every metric."""
        self.training.append(training)
        self.regularization.append(regularization)
        self.validation.append(validation[LOSS])
        for name, history in self.metrics.items():
            history.append(validation[name])
        if self._parameters is not None:
            self._parameters.record()

    @property
    def scores(self) -> list[float]:
        """The selection's value of every epoch."""
        return self._selected

    @property
    def score(self) -> float:
        """The last epoch's value of the selection."""
        return self._selected[-1]

    def is_best(self, best_epoch: int | None) -> bool:
        """Whether the last epoch beats the best before: the earlier of equals stays, finite values beat others."""
        if best_epoch is None:
            return True
        best, last = self._selected[best_epoch], self.score
        if not (math.isfinite(best) and math.isfinite(last)):
            return math.isfinite(last) and not math.isfinite(best)
        return last > best if self._direction == "max" else last < best

    def state(self) -> dict[str, Any]:
        """Everything recorded, for `restore`; float64 holds every value exactly."""
        state = {name: torch.tensor(values, dtype=torch.float64) for name, values in self._by_name().items()}
        return state if self._parameters is None else {**state, "parameters": self._parameters.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what was recorded before."""
        for name, values in self._by_name().items():
            values[:] = state[name].tolist()
        if self._parameters is not None:
            self._parameters.restore(state["parameters"])

    def _by_name(self) -> dict[str, list[float]]:
        losses = {"training": self.training, "validation": self.validation, "regularization": self.regularization}
        return {**losses, **{f"metric {name}": values for name, values in self.metrics.items()}}
