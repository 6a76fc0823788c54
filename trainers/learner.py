"""A model with everything that changes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers import batch as batches
from trainers import batch_statistics, initial_weights, randomness
from trainers import optimizer as optimizers
from trainers.averaging import Averaging
from trainers.freezing import Frozen
from trainers.learning_rate import LearningRate
from trainers.objective import Objective
from trainers.precision import Precision
from trainers.process_group import ProcessGroup
from trainers.share import sharing
from trainers.trainer_options import TrainerOptions
from trainers.update import Update


class Learner:
    """Learns from batches.

    Args:
        options: of the trainer.
        device: where the model is and batches are brought.
        seed: of the model's initial weights.
        group: who learns together.
        others: as `NNTrainer` takes them.

    Attributes:
        model: with the weights that are trained; nothing wraps it, and its names are those of its class.
        objective: calls the model.
        averaging: of its weights.
        update, learning_rate, optimizer, criterion: what they are called.
        choices: what was chosen here where the options left it open.

    Raises:
        TrainerError: something cannot be built from its parameters; the message names it.
    """

    def __init__(
        self,
        options: TrainerOptions,
        device: torch.device,
        seed: int,
        group: ProcessGroup,
        *,
        model_class: type[nn.Module],
        model_class_params: Mapping[str, Any],
        optimizer_class: type[torch.optim.Optimizer],
        optimizer_class_params: Mapping[str, Any],
        criterion_class: Any,
        criterion_class_params: Mapping[str, Any],
        scheduler_class: type | None,
    ) -> None:
        self._options = options
        self._device = device
        self._group = group
        self._share = sharing(group)
        self.choices: dict[str, str] = {}
        randomness.seed(seed)
        self.model = model_class(**model_class_params).to(device)
        self._arrange(model_class_params)
        self.criterion = criterion_class(**criterion_class_params)
        if isinstance(self.criterion, nn.Module):
            self.criterion.to(device)
        precision = Precision(options.precision, device)
        self.objective = Objective(self.model, self.criterion, options, precision)
        together = group.wrap(self.model)
        learning = self.objective if group.size == 1 else Objective(together, self.criterion, options, precision)
        self._losses_of = learning.losses
        self.optimizer, implementation = optimizers.build(optimizer_class, self.model, optimizer_class_params)
        if implementation is not None:
            self.choices["optimizer_implementation"] = implementation
        self.learning_rate = LearningRate(options, self.optimizer, scheduler_class)
        self.averaging = Averaging(options, self.model)
        self.update = Update(
            self.optimizer,
            list(self.model.parameters()),
            options,
            precision.scaler,
            self.learning_rate,
            self.averaging.after_step if self.averaging.of_steps else None,
        )

    def start_from(self, path: str | os.PathLike[str]) -> None:
        """Take initial weights from a file, in place of the model's own."""
        left_out = initial_weights.load(self._options, path, self.model)
        if left_out is not None:
            self.choices["initial_weights"] = left_out

    def training_mode(self) -> None:
        """Let the model behave as it does in training, but for what is frozen."""
        self.model.train()
        self._frozen.hold()

    def step(self, inputs: Any, targets: Any, weight: float = 1.0) -> tuple[Tensor, Tensor | float]:
        """Learn from one batch, whose loss weighs so much; returns its criterion and regularization loss, detached and
        without that weight."""
        loss, regularization, _ = self._losses_of(
            batches.to_device(inputs, self._device), batches.to_device(targets, self._device)
        )
        minimised = loss + regularization if isinstance(regularization, Tensor) else loss
        self.update(minimised if weight == 1.0 else minimised * weight)
        if isinstance(regularization, Tensor):
            regularization = regularization.detach()
        return loss.detach(), regularization

    def recompute_statistics(self, loader: Iterable[Any], after_batch: Callable[[], None]) -> None:
        """Compute the statistics of batch normalisation anew for the model's present weights."""
        self.training_mode()

        def call(batch: Any) -> None:
            self.objective.outputs(batches.to_device(self._share(batch).inputs, self._device))
            after_batch()

        layers = batch_statistics.layers(self.model)
        batch_statistics.recompute(layers, loader, call)
        self._group.average_buffers(layers)

    def _arrange(self, params: Mapping[str, Any]) -> None:
        """Bring the new model into the form that the options say."""
        self._options.arrange(self.model, params)
        self._options.compile_in_place(self.model, self._device)
        if self._options.tf32 is not None and self._device.type != "cuda":
            self.choices["tf32"] = f"of no effect on {self._device.type}"
        self._frozen = Frozen(self._options, self.model)
