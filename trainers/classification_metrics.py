"""Metrics of classifications: outputs are (N, classes, ...), of which the largest is the predicted class; targets are
class indices (N, ...), or one-hot in the outputs' shape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from trainers.contract import TrainerError


class Accuracy:
    """Share of examples whose largest output is at the target's class."""

    direction: ClassVar[Literal["max", "min"]] = "max"

    def __init__(self) -> None:
        self._correct: Tensor | float = 0.0
        self._count = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        target = _indices("accuracy", output, target)
        self._correct = self._correct + (output.argmax(dim=1) == target).sum()
        self._count += target.numel()

    def compute(self) -> float:
        return float(self._correct) / self._count if self._count else math.nan

    def state(self) -> dict[str, Any]:
        return {"correct": self._correct, "count": self._count}

    def merge(self, state: Mapping[str, Any]) -> None:
        self._correct = self._correct + state["correct"]
        self._count += state["count"]


class Top5Accuracy(Accuracy):
    """Share of examples whose target's class is among the five of the largest outputs; needs more than 5 classes."""

    def update(self, output: Tensor, target: Tensor) -> None:
        target = _indices("top5_accuracy", output, target, at_least=6)
        likeliest = output.topk(5, dim=1).indices
        self._correct = self._correct + (likeliest == target.unsqueeze(1)).sum()
        self._count += target.numel()


class _ByClass:
    """Counts by class, kept where the batches lie."""

    direction: ClassVar[Literal["max", "min"]] = "max"
    name: ClassVar[str]

    def __init__(self) -> None:
        self._targets: Tensor | int = 0
        self._predicted: Tensor | int = 0
        self._correct: Tensor | int = 0

    def update(self, output: Tensor, target: Tensor) -> None:
        target = _indices(self.name, output, target).reshape(-1)
        predicted = output.argmax(dim=1).reshape(-1)
        # Compared instead of counted by index: that would wait for the device, and varies from run to run on some.
        classes = torch.arange(output.shape[1], device=output.device)
        is_target, is_predicted = target.unsqueeze(1) == classes, predicted.unsqueeze(1) == classes
        self._targets = self._targets + is_target.sum(dim=0)
        self._predicted = self._predicted + is_predicted.sum(dim=0)
        self._correct = self._correct + (is_target & is_predicted).sum(dim=0)

    def state(self) -> dict[str, Any]:
        return {"targets": self._targets, "predicted": self._predicted, "correct": self._correct}

    def merge(self, state: Mapping[str, Any]) -> None:
        self._targets = self._targets + state["targets"]
        self._predicted = self._predicted + state["predicted"]
        self._correct = self._correct + state["correct"]

    def _counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """By class: how many are of it, are predicted, and are both; float64."""
        counts = (self._targets, self._predicted, self._correct)
        return tuple(torch.as_tensor(count).double().cpu() for count in counts)  # type: ignore[return-value]


class BalancedAccuracy(_ByClass):
    """The accuracy within each class, averaged over the classes that targets have; as scikit-learn's
    `balanced_accuracy_score`."""

    name = "balanced_accuracy"

    def compute(self) -> float:
        targets, _, correct = self._counts()
        there = targets > 0
        return (correct[there] / targets[there]).mean().item() if there.any() else math.nan


class MacroF1(_ByClass):
    """2 x correct / (targets + predicted) of each class, averaged over the classes that are a target or predicted; as
    scikit-learn's `f1_score` with average="macro"."""

    name = "macro_f1"

    def compute(self) -> float:
        targets, predicted, correct = self._counts()
        there = targets + predicted > 0
        return (2 * correct[there] / (targets + predicted)[there]).mean().item() if there.any() else math.nan


def _indices(metric: str, output: Tensor, target: Tensor, at_least: int = 2) -> Tensor:
    """The class indices of the targets.

    Raises:
        TrainerError: output and target are not those of so many classes.
    """
    if output.dim() < 2 or output.shape[1] < at_least:
        raise TrainerError(
            f"{metric} needs outputs of shape (N, classes) with at least {at_least} classes, not {tuple(output.shape)}."
        )
    if target.shape == output.shape:
        return target.argmax(dim=1)
    if target.shape != (output.shape[0], *output.shape[2:]):
        raise TrainerError(
            f"{metric} cannot compare outputs of shape {tuple(output.shape)} with targets of shape "
            f"{tuple(target.shape)}; give class indices or one-hot targets."
        )
    return target
