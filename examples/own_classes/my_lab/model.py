"""A small network that scales its inputs itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ScaledMLP(nn.Module):
    """One hidden layer over standardised inputs.

    Args:
        input_shape, output_shape: shapes of one example, as they were probed from the data.
        mean, std: of the inputs, from the dataset.
        hidden_size: units of the hidden layer.
        l2: factor of the sum of squared weights.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        hidden_size: int = 16,
        l2: float = 0.0,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("std", torch.tensor(std))
        self.hidden = nn.Linear(input_shape[0], hidden_size)
        self.output = nn.Linear(hidden_size, output_shape[0])
        self.l2 = l2

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.hidden((x - self.mean) / self.std))
        weights = (self.hidden.weight, self.output.weight)
        return self.output(hidden), self.l2 * sum(weight.square().sum() for weight in weights)
