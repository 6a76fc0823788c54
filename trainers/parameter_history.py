"""How a model's parameters move from epoch to epoch."""

from __future__ import annotations

from collections.abc import Mapping

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

    def restore(self, values: Mapping[str, Mapping[str, list[float]]]) -> None:
        """Go on from values recorded before, in place."""
        for name, history in self.values.items():
            for moment, numbers in history.items():
                numbers[:] = values[name][moment]

    def record(self) -> None:
        """Append the parameters' present moments; all are read from the device in one transfer."""
        if not self._parameters:
            return
        moments = [moment for tensor in self._parameters.values() for moment in torch.var_mean(tensor, correction=0)]
        numbers = torch.stack([moment.double() for moment in moments]).tolist()
        for history, variance, mean in zip(self.values.values(), numbers[0::2], numbers[1::2], strict=True):
            history["mean"].append(mean)
            history["variance"].append(variance)
