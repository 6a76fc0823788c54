"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models_impl import contract


class SimpleMLP(nn.Module):
    """Fully connected layers over the flattened input, each hidden one followed by its activation and dropout.

    The regularization loss is ``l1_loss_lamda * sum(|w|) + l2_loss_lamda * sum(w ** 2)``, summed over the weights of
    all layers and not over the biases, and the number 0.0 when both factors are 0.

    Args:
        input_shape: shape of one example, any number of dimensions.
        output_shape: shape of one output.
        num_hidden_layers: 0 gives a linear model.
        hidden_size: units of each hidden layer.
        l1_loss_lamda: factor of the sum of absolute weights.
        l2_loss_lamda: factor of the sum of squared weights.
        dropout: probability that a hidden unit is left out in training.
        activation: one of `models_impl.contract.ACTIVATIONS`.

    Raises:
        ModelError: a parameter is out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        num_hidden_layers: int = 1,
        hidden_size: int = 1000,
        l1_loss_lamda: float = 0.0,
        l2_loss_lamda: float = 0.0,
        dropout: float = 0.0,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        contract.require_count(num_hidden_layers, "num_hidden_layers", at_least=0)
        contract.require_count(hidden_size, "hidden_size")
        contract.require_weight(l1_loss_lamda, "l1_loss_lamda")
        contract.require_weight(l2_loss_lamda, "l2_loss_lamda")
        contract.require_probability(dropout, "dropout")
        self.output_shape = contract.single_shape(output_shape, "output_shape")
        self.l1_loss_lamda = l1_loss_lamda
        self.l2_loss_lamda = l2_loss_lamda

        layers: list[nn.Module] = []
        size = contract.flat_size(contract.single_shape(input_shape, "input_shape"))
        for _ in range(num_hidden_layers):
            layers += [nn.Linear(size, hidden_size), contract.activation(activation)]
            if dropout:
                layers.append(nn.Dropout(dropout))
            size = hidden_size
        layers.append(nn.Linear(size, contract.flat_size(self.output_shape)))
        self.layers = nn.Sequential(*layers)

        self._is_regularized = bool(l1_loss_lamda or l2_loss_lamda)
        self._output_is_flat = len(self.output_shape) == 1

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        """Map (N, *input_shape) floats to ((N, *output_shape), regularization loss)."""
        if x.dim() != 2:
            x = x.flatten(1) if x.dim() > 2 else x.unsqueeze(1)
        output = x
        for layer in self.layers:  # calling the Sequential would take 1 % of a small model's step
            output = layer(output)
        if not self._output_is_flat:
            output = output.view(-1, *self.output_shape)
        return output, self.regularization_loss() if self._is_regularized else contract.NO_REGULARIZATION

    def regularization_loss(self) -> Tensor:
        """The weighted sum of absolute and squared weights, a scalar."""
        weights = [layer.weight for layer in self.layers if isinstance(layer, nn.Linear)]
        terms = []
        if self.l1_loss_lamda:
            terms.append(self.l1_loss_lamda * torch.stack([weight.abs().sum() for weight in weights]).sum())
        if self.l2_loss_lamda:
            terms.append(self.l2_loss_lamda * torch.stack([weight.square().sum() for weight in weights]).sum())
        return torch.stack(terms).sum()
