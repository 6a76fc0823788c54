"""A residual convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models_impl import contract


class ResidualCNN(nn.Module):
    """Basic residual blocks as in He et al., "Deep residual learning for image recognition", CVPR 2016, section 4.2:
    a 3x3 stem, stages that halve the image and double the channels, global average pooling, one linear layer.

    Convolutions start from He et al.'s normal initialisation (ICCV 2015), as in that paper.

    Args:
        input_shape: (channels, height, width), or (height, width) for one channel.
        output_shape: shape of one output.
        width: channels of the first stage.
        blocks_per_stage: residual blocks in each stage.
        stages: number of stages.

    Raises:
        ModelError: a parameter is out of its range.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        output_shape: Sequence[int],
        width: int = 16,
        blocks_per_stage: int = 1,
        stages: int = 2,
    ) -> None:
        super().__init__()
        self._image = contract.image_shape(input_shape)
        self.output_shape = contract.single_shape(output_shape, "output_shape")
        for name, value in (("width", width), ("blocks_per_stage", blocks_per_stage), ("stages", stages)):
            contract.require_count(value, name)

        blocks: list[nn.Module] = []
        channels = width
        for stage in range(stages):
            for block in range(blocks_per_stage):
                is_narrowing = stage > 0 and block == 0
                incoming = channels // 2 if is_narrowing else channels
                blocks.append(ResidualBlock(incoming, channels, stride=2 if is_narrowing else 1))
            channels *= 2
        self.stem = nn.Sequential(_convolution(self._image[0], width), nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels // 2, contract.flat_size(self.output_shape))
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, float]:
        """Map (N, channels, height, width) floats to ((N, *output_shape), 0.0)."""
        output = self.head(self.blocks(self.stem(x.reshape(x.shape[0], *self._image))))
        return output.view(-1, *self.output_shape), contract.NO_REGULARIZATION


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added back; a 1x1 convolution fits it where shapes differ."""

    def __init__(self, incoming: int, outgoing: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(incoming, outgoing, stride),
            nn.BatchNorm2d(outgoing),
            nn.ReLU(),
            _convolution(outgoing, outgoing),
            nn.BatchNorm2d(outgoing),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or incoming != outgoing:
            self.shortcut = nn.Sequential(
                nn.Conv2d(incoming, outgoing, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(outgoing)
            )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, incoming, H, W) to (N, outgoing, H / stride, W / stride)."""
        return self.activation(self.residual(x) + self.shortcut(x))


def _convolution(incoming: int, outgoing: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(incoming, outgoing, kernel_size=3, stride=stride, padding=1, bias=False)
