"""What is recorded of a training: values of every validation and of every epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch

from trainers.parameter_history import ParameterHistory

LOSS = "loss"


class Histories:
    """Values by validation and by epoch. The lists stay the same objects.

    An epoch's entry is its best validation by the selection, so that the entry of the best epoch is what the kept
    weights scored. An epoch without a validation repeats the entry before it: no entry is missing, and the first of the
    best entries is that of the best epoch.

    Args:
        directions: for the loss and every metric, whether "max" or "min" is best.
        selection: the one among them that chooses the best weights.
        parameters: is recorded too, at the end of each epoch; None leaves it out.

    Attributes:
        training, validation, regularization: losses by epoch.
        metrics: name to values on the validation tier, by epoch.
        points: loss and every metric by validation.
        steps: how many batches of the training lay behind each validation.
    """

    def __init__(
        self,
        directions: Mapping[str, Literal["max", "min"]],
        selection: str,
        parameters: ParameterHistory | None,
    ) -> None:
        self.training: list[float] = []
        self.validation: list[float] = []
        self.regularization: list[float] = []
        self.metrics: dict[str, list[float]] = {name: [] for name in directions if name != LOSS}
        self.points: dict[str, list[float]] = {name: [] for name in directions}
        self.steps: list[int] = []
        self._epochs: list[int] = []  # in which epoch each validation lay, counted from 0
        self._best: dict[str, int] = {}  # the best validation by each value, counted from 0
        self._directions = directions
        self._selection = selection
        self._parameters = parameters

    def record_validation(self, step: int, validation: Mapping[str, float]) -> bool:
        """The model was validated when `step` batches lay behind; `validation` holds the loss and every metric.
        Returns whether no validation before was as good: the earlier of equals stays, finite values beat others."""
        self.steps.append(step)
        self._epochs.append(len(self.training))
        for name, values in self.points.items():
            values.append(validation[name])
            if self._is_better(name, len(values) - 1, self._best.get(name)):
                self._best[name] = len(values) - 1
        return self._best[self._selection] == len(self.steps) - 1

    def record_epoch(self, training: float, regularization: float) -> dict[str, float]:
        """An epoch was trained; returns the values of its best validation, nothing where it had none."""
        chosen: int | None = None
        for place in range(len(self.steps) - 1, -1, -1):
            if self._epochs[place] != len(self.training):
                break
            if chosen is None or not self._is_better(self._selection, chosen, place):
                chosen = place
        self.training.append(training)
        self.regularization.append(regularization)
        if self._parameters is not None:
            self._parameters.record()
        for name, history in {LOSS: self.validation, **self.metrics}.items():
            history.append(history[-1] if chosen is None else self.points[name][chosen])
        return {} if chosen is None else {name: values[chosen] for name, values in self.points.items()}

    @property
    def score(self) -> float:
        """The last validation's value of the selection."""
        return self.points[self._selection][-1]

    @property
    def last_step(self) -> int:
        """How many batches lay behind the last validation; 0 before the first."""
        return self.steps[-1] if self.steps else 0

    def best(self, name: str) -> int | None:
        """The best validation by the loss or a metric, counted from 0; None before the first."""
        return self._best.get(name)

    @property
    def training_by_point(self) -> Sequence[float]:
        """The training loss of the epoch of each validation; every epoch must have ended."""
        return self.training if len(self.steps) == len(self.training) else [self.training[e] for e in self._epochs]

    def state(self) -> dict[str, Any]:
        """Everything recorded, for `restore`; float64 holds every value exactly."""
        state: dict[str, Any] = {
            name: torch.tensor(values, dtype=torch.float64) for name, values in self._by_name().items()
        }
        state["places"] = torch.tensor([self.steps, self._epochs], dtype=torch.int64)
        state["best"] = dict(self._best)
        return state if self._parameters is None else {**state, "parameters": self._parameters.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what was recorded before."""
        for name, values in self._by_name().items():
            values[:] = state[name].tolist()
        self.steps[:], self._epochs[:] = state["places"].tolist()
        self._best = dict(state["best"])
        if self._parameters is not None:
            self._parameters.restore(state["parameters"])

    def _is_better(self, name: str, place: int, than: int | None) -> bool:
        if than is None:
            return True
        value, best = self.points[name][place], self.points[name][than]
        if not (math.isfinite(best) and math.isfinite(value)):
            return math.isfinite(value) and not math.isfinite(best)
        return value > best if self._directions[name] == "max" else value < best

    def _by_name(self) -> dict[str, list[float]]:
        losses = {"training": self.training, "validation": self.validation, "regularization": self.regularization}
        metrics = {f"metric {name}": values for name, values in self.metrics.items()}
        return {**losses, **metrics, **{f"point {name}": values for name, values in self.points.items()}}
