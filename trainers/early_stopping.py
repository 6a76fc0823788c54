"""When a training that gets no better ends before its limit of epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from trainers.contract import TrainerError


@dataclass(frozen=True)
class EarlyStopping:
    """The parameters of a trainer that say it. All of it follows from what was recorded, so that a resumed training
    stops where it would have stopped. It is looked at at the ends of epochs. Where not every epoch ends with a
    validation, or validations come within epochs, "epochs" below are validations.

    Strips are the epochs 1 to k, k + 1 to 2 k, …, where k is `training_strip_length` (Prechelt 1998, "Early stopping -
    but when?"). Differences are taken relative to the size of what they differ from, so that losses may be negative:
    for positive losses the values are Prechelt's.

    Args:
        early_stopping_patience: end when so many epochs brought nothing better; 0 for never.
        early_stopping_metric: by which value of the validation tier, "loss" or one of `metrics`; None for the trainer's
            `selection`. The metric says whether more or less is better.
        training_strip_length: epochs in a strip, for the next two.
        successive_validation_score_decline_tolerance: end when the validation score, looked at at the end of each
            strip, has declined so many times in a row; 0 for never.
        early_stopping_quotient: end when the generalization loss, in percent, by the training progress of the strip, in
            per mille, is more; None for never.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    early_stopping_patience: int = 0
    training_strip_length: int = 5
    successive_validation_score_decline_tolerance: int = 0
    early_stopping_quotient: float | None = None
    early_stopping_metric: str | None = None

    def __post_init__(self) -> None:
        at_least = {
            "early_stopping_patience": 0,
            "training_strip_length": 1,
            "successive_validation_score_decline_tolerance": 0,
        }
        for name, least in at_least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise TrainerError(f"{name} is {value!r}; it must be an integer of at least {least}.")
        limit = self.early_stopping_quotient
        if limit is not None and (
            not isinstance(limit, int | float) or isinstance(limit, bool) or not 0 < limit < math.inf
        ):
            raise TrainerError(f"early_stopping_quotient is {limit!r}; it must be a number above 0, or null for none.")
        if limit is not None and self.training_strip_length < 2:
            raise TrainerError("early_stopping_quotient needs strips of at least 2 epochs; see training_strip_length.")

    def reason(
        self,
        *,
        best: int,
        scores: Sequence[float],
        direction: Literal["max", "min"],
        training_losses: Sequence[float],
        validation_losses: Sequence[float],
        unit: str = "epoch",
    ) -> str | None:
        """Why the training ends after the last of these epochs; None where it goes on.

        Args:
            best: the place of the best score, counted from 0.
            scores: of the validation tier, of which `direction` is better.
            unit: what the scores are those of.
        """
        done = len(scores)
        if self.early_stopping_patience and done - 1 - best >= self.early_stopping_patience:
            return f"no {unit} was better than number {best + 1} within {self.early_stopping_patience} {unit}s"
        if done % self.training_strip_length:
            return None
        worse = self._successive_declines(scores, direction)
        tolerance = self.successive_validation_score_decline_tolerance
        if tolerance and worse >= tolerance:
            return f"the validation score declined in {worse} successive strips of {self.training_strip_length} {unit}s"
        if self.early_stopping_quotient is not None:
            quotient = self._quotient(training_losses, validation_losses)
            if quotient > self.early_stopping_quotient:
                return f"the quotient of generalization loss and progress is {quotient:.3g}"
        return None

    def _successive_declines(self, scores: Sequence[float], direction: Literal["max", "min"]) -> int:
        """How many of the last strips ended worse than the one before (the criterion UP of Prechelt 1998)."""
        ends = scores[self.training_strip_length - 1 :: self.training_strip_length]
        count = 0
        for before, after in reversed([*pairwise(ends)]):
            if not (after < before if direction == "max" else after > before):
                break
            count += 1
        return count

    def _quotient(self, training_losses: Sequence[float], validation_losses: Sequence[float]) -> float:
        """Generalization loss in percent by training progress in per mille (the criterion PQ of Prechelt 1998)."""
        loss = 100 * _relative(validation_losses[-1], min(validation_losses))
        strip = training_losses[-self.training_strip_length :]
        progress = 1000 * _relative(sum(strip) / len(strip), min(strip))
        if loss == 0:
            return 0.0
        return loss / progress if progress > 0 else math.inf


def _relative(value: float, least: float) -> float:
    """By how much a value is above the least one, relative to its size."""
    difference = value - least
    if difference == 0:
        return 0.0
    return difference / abs(least) if least else math.inf
