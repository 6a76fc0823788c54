"""Applying a trained model to examples, computed as its training computed its scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from models_impl.contract import output_and_regularization
from trainers import batch as batches
from trainers import metrics as metric_registry
from trainers import numerics
from trainers.histories import LOSS
from trainers.objective import Objective
from trainers.precision import Precision
from trainers.process_group import ProcessGroup
from trainers.scoring import Scoring
from trainers.trainer_options import TrainerOptions

DATA = "predicted"  # what messages call the loader
Keep = Callable[[Any, Any], None]
"""Is given the outputs and the targets of a batch, in main memory; None where there are no targets."""


class Predictor:
    """Applies a model, with the precision and layout that it was trained with; it is not compiled.

    Args:
        model: on `device`, in eval mode.
        options: of its trainer; their metrics are computed where there are targets.
        criterion: is called with (output, target) and gives a scalar; None where nothing is scored.

    Attributes:
        directions: for the loss and every metric, whether "max" or "min" is best.

    Raises:
        TrainerError: the device cannot compute in the precision.
    """

    def __init__(self, model: nn.Module, device: torch.device, options: TrainerOptions, criterion: Any = None) -> None:
        policy = replace(options, compile=None)
        if policy.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(criterion, nn.Module):
            criterion.to(device)
        self._device = device
        self._objective = Objective(model, criterion, policy, Precision(policy.precision, device))
        self._scoring = Scoring(self._objective, options.metrics, device, ProcessGroup())
        tf32 = options.tf32 if device.type == "cuda" else None
        self._numerics = lambda: numerics.during(tf32=tf32, deterministic=options.deterministic)
        self.directions = {LOSS: "min", **{name: metric_registry.find(name).direction for name in options.metrics}}

    def score(self, loader: Iterable[Any], keep: Keep, after_batch: Callable[[], None]) -> dict[str, float]:
        """Predict every batch (inputs, targets) of a loader; returns the loss and every metric.

        Raises:
            TrainerError: the loader yields nothing, or outputs and targets do not belong together.
        """
        with self._numerics():
            return self._scoring.score(loader, DATA, after_batch, keep).values()

    @torch.inference_mode()
    def predict(self, loader: Iterable[Any], keep: Keep, after_batch: Callable[[], None]) -> None:
        """Predict every batch of inputs that a loader yields."""
        with self._numerics():
            for inputs in loader:
                result = self._objective.outputs(batches.to_device(inputs, self._device))
                keep(batches.to_cpu(output_and_regularization(result)[0]), None)
                after_batch()
