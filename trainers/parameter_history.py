"""How a model's parameters move from epoch to epoch."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ParameterHistory:
    """Mean and population variance of every named parameter, one entry for each time `record` was called.

    Attributes:
        values: ``{parameter name: {"mean": [...], "variance": [...]}}``; a parameter without elements is left out.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters: dict[str, Tensor] = {
            name: parameter.detach() for name, parameter in model.named_parameters() if parameter.numel()
        }
        self.values: dict[str, dict[str, list[float]]] = {
            name: {"mean": [], "variance": []} for name in self._parameters
        }

    def state(self) -> Tensor:
        """All values, float64 of shape (parameters, 2, epochs): one tensor is written faster than many lists."""
        return torch.tensor([[*history.values()] for history in self.values.values()], dtype=torch.float64)

    def restore(self, state: Tensor) -> None:
        """Go on from what was recorded before, in place."""
        for history, moments in zip(self.values.values(), state.tolist(), strict=True):
            for numbers, recorded in zip(history.values(), moments, strict=True):
                numbers[:] = recorded

    def record(self) -> None:
        """Append the parameters' present moments; all are read from the device in one transfer."""
        if not self._parameters:
            return
        moments = [moment for tensor in self._parameters.values() for moment in torch.var_mean(tensor, correction=0)]
        numbers = torch.stack([moment.double() for moment in moments]).tolist()
        for history, variance, mean in zip(self.values.values(), numbers[0::2], numbers[1::2], strict=True):
            history["mean"].append(mean)
            history["variance"].append(variance)
