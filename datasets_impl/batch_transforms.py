"""Random changes of whole batches of images and of sequences of images.

A batch is a floating tensor of shape (k, channels, height, width), or (k, images, channels, height, width): all images
of a sequence are changed alike. Every example has uniform draws of its own, so that what happens to it depends neither
on the batch it is in nor on the process that reads it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from datasets_impl.errors import DatasetError

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601

Range = tuple[float, float]
Shape = tuple[int, ...]


class BatchTransform(Protocol):
    """One change; an instance is a configuration of it."""

    draws: ClassVar[int]
    """Uniform numbers in [0, 1) that it takes per example."""

    def check(self, shape: Shape) -> None:
        """Raise `DatasetError` if examples of this shape cannot be changed so."""

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        """The changed batch; where `draws`, (k, self.draws), are None, what is to happen outside training.

        `white` is the largest value of a pixel; the smallest is 0.
        """


@dataclass(frozen=True, kw_only=True)
class Flip:
    """Mirrors some examples from left to right, and some from top to bottom, each with its probability."""

    horizontal: float = 0.5
    vertical: float = 0.0
    draws: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name in ("horizontal", "vertical"):
            _check(0 <= getattr(self, name) <= 1, f"{name} of flip is a probability, from 0 to 1")

    def check(self, shape: Shape) -> None: ...

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        if draws is None:
            return images
        for axis, chance, drawn in ((-1, self.horizontal, draws[:, 0]), (-2, self.vertical, draws[:, 1])):
            if chance > 0:
                images = torch.where(_beside(drawn < chance, images), images.flip(axis), images)
        return images


@dataclass(frozen=True, kw_only=True)
class Crop:
    """Cuts out a random part and resizes it, with linear interpolation, to `height` x `width` or the size before.

    `area` is the part's share of the image, `aspect_ratio` its width / height relative to that of the image, drawn
    uniformly on a logarithmic scale (as in section 6 of Szegedy et al. 2015, "Going deeper with convolutions"). Outside
    training the whole image is resized.
    """

    area: Range = (0.08, 1.0)
    aspect_ratio: Range = (3 / 4, 4 / 3)
    height: int | None = None
    width: int | None = None
    draws: ClassVar[int] = 4

    def __post_init__(self) -> None:
        _check(_is_range(self.area, above=0) and self.area[1] <= 1, "area of crop is two shares, from above 0 to 1")
        _check(_is_range(self.aspect_ratio, above=0), "aspect_ratio of crop is two positive numbers, the smaller first")
        for size in (self.height, self.width):
            _check(size is None or _is_count(size), "height and width of crop are positive integers")

    def check(self, shape: Shape) -> None: ...

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        size = (self.height or images.shape[-2], self.width or images.shape[-1])
        if draws is None:
            return images if size == tuple(images.shape[-2:]) else _resampled(images, _identity(images), size, "border")
        area = _between(self.area, draws[:, 0])
        ratio = _between(self.aspect_ratio, draws[:, 1], logarithmic=True)
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        transform = _identity(images)
        transform[:, 0, 0], transform[:, 1, 1] = width, height
        transform[:, 0, 2] = (1 - width) * (2 * draws[:, 2] - 1)
        transform[:, 1, 2] = (1 - height) * (2 * draws[:, 3] - 1)
        return _resampled(images, transform, size, "border")


@dataclass(frozen=True, kw_only=True)
class Rotate:
    """Turns by an angle from a range of degrees, about the centre; what comes in from outside is 0."""

    degrees: Range = (-15.0, 15.0)
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(_is_range(self.degrees), "degrees of rotate is two numbers, the smaller first")

    def check(self, shape: Shape) -> None: ...

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        if draws is None:
            return images
        angle = _between(self.degrees, draws[:, 0]) * (math.pi / 180)
        height, width = images.shape[-2:]
        transform = _identity(images)
        transform[:, 0, 0] = transform[:, 1, 1] = angle.cos()
        transform[:, 0, 1] = -angle.sin() * height / width
        transform[:, 1, 0] = angle.sin() * width / height
        return _resampled(images, transform, (height, width), "zeros")


@dataclass(frozen=True, kw_only=True)
class Brighten:
    """Multiplies all pixels by a factor from a range; 1 changes nothing."""

    factor: Range = (0.8, 1.2)
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(_is_range(self.factor, least=0), "factor of brighten is two numbers of at least 0, the smaller first")

    def check(self, shape: Shape) -> None: ...

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        if draws is None:
            return images
        return (images * _beside(_between(self.factor, draws[:, 0]), images)).clamp(0, white)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Multiplies the distance of all pixels from the image's mean luma by a factor from a range; 1 changes nothing."""

    factor: Range = (0.8, 1.2)
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(_is_range(self.factor, least=0), "factor of contrast is two numbers of at least 0, the smaller first")

    def check(self, shape: Shape) -> None: ...

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        if draws is None:
            return images
        mean = _luma(images).mean(dim=(-3, -2, -1), keepdim=True)
        return torch.lerp(mean, images, _beside(_between(self.factor, draws[:, 0]), images)).clamp(0, white)


@dataclass(frozen=True, kw_only=True)
class Saturate:
    """Multiplies the distance of all pixels from their luma by a factor from a range; 1 changes nothing, 0 is grey."""

    factor: Range = (0.8, 1.2)
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(_is_range(self.factor, least=0), "factor of saturate is two numbers of at least 0, the smaller first")

    def check(self, shape: Shape) -> None:
        _check(shape[-3] == 3, f"saturate needs images of 3 channels, red, green and blue; these have {shape[-3]}")

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        if draws is None:
            return images
        return torch.lerp(_luma(images), images, _beside(_between(self.factor, draws[:, 0]), images)).clamp(0, white)


@dataclass(frozen=True, kw_only=True)
class SampleFrames:
    """Takes one image of every `every` of a sequence, in training from a random one on, else from the first.

    A sequence of n images becomes one of n // every.
    """

    every: int
    draws: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check(_is_count(self.every), "every of sample_frames is a positive integer")

    def check(self, shape: Shape) -> None:
        _check(len(shape) == 4, f"sample_frames needs sequences of images; examples have the shape {shape}")
        _check(shape[0] >= self.every, f"sample_frames takes one of {self.every} images, but a sequence has {shape[0]}")

    def __call__(self, images: Tensor, draws: Tensor | None, white: float) -> Tensor:
        places = torch.arange(images.shape[1] // self.every) * self.every
        if draws is None:
            return images[:, places]
        first = (draws[:, 0] * self.every).long()
        return images[torch.arange(len(images))[:, None], first[:, None] + places]


TRANSFORMS: Mapping[str, Callable[..., BatchTransform]] = {
    "flip": Flip,
    "crop": Crop,
    "rotate": Rotate,
    "brighten": Brighten,
    "contrast": Contrast,
    "saturate": Saturate,
    "sample_frames": SampleFrames,
}


class BatchTransforms:
    """Transforms one after the other.

    Args:
        entries: of each its name under `name`, and its parameters, as in `{"name": "flip", "horizontal": 0.5}`.
        shape: of one example: (channels, height, width) or (images, channels, height, width).
        white: the largest value of a pixel.

    Attributes:
        draws: uniform numbers that an example takes in training.
        shape: of a changed example.

    Raises:
        DatasetError: a name, a parameter or the shape is unsuitable.
    """

    def __init__(self, entries: Sequence[Mapping[str, Any]], shape: Shape, white: float) -> None:
        _check(len(shape) in (3, 4), f"transforms need images or sequences of images; examples have the shape {shape}")
        self._white = white
        self._transforms: list[BatchTransform] = []
        for entry in entries:
            transform = _made(entry)
            transform.check(shape)
            # What it does to a shape is what it does to an example of it.
            shape = tuple(transform(torch.zeros(1, *shape), None, white).shape[1:])
            self._transforms.append(transform)
        self.shape = shape
        self.draws = sum(transform.draws for transform in self._transforms)

    def __call__(self, images: Tensor, draws: Tensor | None) -> Tensor:
        """The changed batch of floating `images`; `draws`, float64 of shape (k, self.draws), in training only."""
        start = 0
        for transform in self._transforms:
            stop = start + transform.draws
            own = None if draws is None else draws[:, start:stop].to(images.dtype)
            images = transform(images, own, self._white)
            start = stop
        return images


def _made(entry: Mapping[str, Any]) -> BatchTransform:
    if not isinstance(entry, Mapping) or entry.get("name") not in TRANSFORMS:
        known = ", ".join(TRANSFORMS)
        raise DatasetError(f"the transform {entry!r} is unknown: give its name, one of {known}, and its parameters.")
    params: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    name = params.pop("name")
    made: Any = TRANSFORMS[name]
    taken = {field.name for field in dataclasses.fields(made)}
    if unknown := sorted(params.keys() - taken):
        raise DatasetError(f"{name} has no parameter {unknown[0]!r}: it has {', '.join(sorted(taken))}.")
    try:
        transform: BatchTransform = made(**params)
    except TypeError as error:  # a parameter is missing, or no number
        raise DatasetError(f"the parameters {params!r} of {name} are unsuitable: {error}.") from error
    return transform


def _check(holds: bool, rule: str) -> None:
    if not holds:
        raise DatasetError(f"{rule}.")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_range(value: Any, *, least: float = -math.inf, above: float = -math.inf) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(end, int | float) and not isinstance(end, bool) and math.isfinite(end) for end in value)
        and least <= value[0] <= value[1]
        and value[0] > above
    )


def _between(limits: Range, drawn: Tensor, *, logarithmic: bool = False) -> Tensor:
    low, high = limits
    if logarithmic:
        return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * drawn)
    return low + (high - low) * drawn


def _beside(values: Tensor, images: Tensor) -> Tensor:
    """Values of shape (k,) in a shape that goes with the images."""
    return values.reshape(-1, *(1 for _ in images.shape[1:]))


def _luma(images: Tensor) -> Tensor:
    if images.shape[-3] != 3:
        return images.mean(dim=-3, keepdim=True)
    red, green, blue = images.unbind(dim=-3)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue).unsqueeze(-3)


def _identity(images: Tensor) -> Tensor:
    """Affine transforms of shape (k, 2, 3), from places in the result to places in the image, both in [-1, 1]."""
    return torch.eye(2, 3, dtype=images.dtype).repeat(len(images), 1, 1)


def _resampled(images: Tensor, transforms: Tensor, size: tuple[int, int], outside: str) -> Tensor:
    """Each example's images at the places that its transform says, linearly interpolated."""
    sequences = images.dim() == 5
    flat = images.flatten(1, 2) if sequences else images  # all images of a sequence are channels of one
    grid = functional.affine_grid(transforms, [len(flat), flat.shape[1], *size], align_corners=False)
    sampled = functional.grid_sample(flat, grid, mode="bilinear", padding_mode=outside, align_corners=False)
    return sampled.unflatten(1, images.shape[1:3]) if sequences else sampled
