"""What is minimised: the criterion of a model's output, and the model's regularization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from models_impl.contract import output_and_regularization
from trainers import batch as batches
from trainers.computation import ComputationPolicy
from trainers.contract import TrainerError
from trainers.precision import Precision


class Objective:
    """Calls the model and applies the criterion. Nothing else in the trainer calls either.

    Args:
        model: a module, or what wraps one.
        criterion: is called with (output, target) and gives a scalar.
        policy: precision is taken from `precision`, which must be of this policy.

    Attributes:
        called: the module that is called now.
        losses: of (inputs, targets) on the device: criterion loss, regularization loss, output.
        outputs: of inputs on the device.
    """

    def __init__(self, model: nn.Module, criterion: Any, policy: ComputationPolicy, precision: Precision) -> None:
        self.called = model
        self._criterion = criterion
        compute = self._losses_kept if policy.compile is not None else self._losses
        call: Callable[..., Any] = self._call
        if policy.channels_last:
            compute, call = _with_channels_last(compute), _with_channels_last(call)
        self.losses = precision.computing(compute)
        self.outputs = precision.computing(call)

    @contextmanager
    def calling(self, module: nn.Module) -> Iterator[None]:
        """Call another module for a while."""
        before, self.called = self.called, module
        try:
            yield
        finally:
            self.called = before

    def _losses(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor | float, Any]:
        output, regularization = output_and_regularization(self.called(inputs))
        return self._loss(output, targets), regularization, output

    def _losses_kept(self, inputs: Any, targets: Any) -> tuple[Tensor, Tensor | float, Any]:
        """The same; compiled code may return memory that its next call writes to, and losses are read late."""
        loss, regularization, output = self._losses(inputs, targets)
        return loss, regularization.clone() if isinstance(regularization, Tensor) else regularization, output

    def _call(self, inputs: Any) -> Any:
        return self.called(inputs)

    def _loss(self, outputs: Any, targets: Any) -> Tensor:
        """The criterion on one output, or its sum over several."""
        if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
            loss = self._criterion(outputs, targets)
        else:
            losses = [self._criterion(output, target) for output, target in batches.pairs(outputs, targets)]
            loss = torch.stack(losses).sum(dim=0)
        if loss.dim():
            raise TrainerError(
                f"{type(self._criterion).__name__} returned a loss of shape {tuple(loss.shape)}; it must be a scalar, "
                'which torch\'s criteria return with reduction="mean".'
            )
        return loss


def _with_channels_last(compute: Callable[..., Any]) -> Callable[..., Any]:
    return lambda inputs, *targets: compute(batches.channels_last(inputs), *targets)
