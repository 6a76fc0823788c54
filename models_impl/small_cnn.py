"""A small convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models_impl import contract


class SmallCNN(nn.Module):
    """Stages of a 3x3 convolution, ReLU and 2x2 max pooling, then one hidden layer (in the manner of LeNet-5,
    LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998).

    Args:
        input_shape: (channels, height, width), or (height, width) for one channel.
        output_shape: shape of one output.
        channels: output channels of each stage; n stages need images of at least 2 ** n by 2 ** n.
        hidden_size: units of the hidden layer.
        dropout: probability that a hidden unit is left out in training.
        batch_norm: normalise each convolution's output over the batch.

    Raises:
        ModelError: a parameter is out of its range, or the images are too small.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        channels: Sequence[int] = (16, 32),
        hidden_size: int = 64,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        depth, height, width = contract.image_shape(input_shape)
        self.output_shape = contract.single_shape(output_shape, "output_shape")
        stages = contract.single_shape(channels, "channels")
        contract.require_count(len(stages), "the number of channels", at_least=1)
        contract.require_count(hidden_size, "hidden_size")
        contract.require_probability(dropout, "dropout")
        if min(height, width) < 2 ** len(stages):
            raise contract.ModelError(
                f"Images of {height} by {width} are too small for {len(stages)} stages of pooling; give fewer channels."
            )

        self._image = (depth, height, width)
        layers: list[nn.Module] = []
        for stage in stages:
            layers.append(nn.Conv2d(depth, stage, kernel_size=3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(stage))
            layers += [nn.ReLU(), nn.MaxPool2d(2)]
            depth, height, width = stage, height // 2, width // 2
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(depth * height * width, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, contract.flat_size(self.output_shape)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        """Map (N, channels, height, width) floats to ((N, *output_shape), 0.0)."""
        output = self.head(self.features(x.reshape(x.shape[0], *self._image)))
        return output.view(-1, *self.output_shape), contract.NO_REGULARIZATION
