"""What a model promises: its shapes, its output and its regularization loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

Shape = tuple[int, ...]

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}

NO_REGULARIZATION = 0.0
"""What a model returns as regularization loss when it has none; costs neither memory nor a kernel."""


class ModelError(ValueError):
    """A model was described with parameters or shapes that it cannot be built from."""


def single_shape(value: Any, name: str) -> Shape:
    """The shape of one example, batch dimension left out, as a tuple.

    A dataset with several inputs or targets has a list or dict of shapes, which models of one input or output refuse.

    Raises:
        ModelError: `value` is no sequence of positive integers.
    """
    if isinstance(value, Sequence) and not isinstance(value, str) and all(_is_count(side) for side in value):
        return tuple(value)
    raise ModelError(
        f"{name} is {value!r}, but this model takes a single shape: give a tuple of positive integers, such as (10,)."
    )


def flat_size(shape: Shape) -> int:
    """How many numbers one example of this shape holds; 1 for the shape of a scalar, ()."""
    return math.prod(shape)


def image_shape(value: Any, name: str = "input_shape") -> tuple[int, int, int]:
    """(channels, height, width) of an image; (height, width) is read as one channel.

    Raises:
        ModelError: `value` is no shape of an image.
    """
    shape = single_shape(value, name)
    if len(shape) == 2:
        return (1, *shape)
    if len(shape) == 3:
        return shape
    raise ModelError(f"{name} is {shape}, but this model reads images: give (channels, height, width).")


def activation(name: Any) -> nn.Module:
    """A new activation layer by its name.

    Raises:
        ModelError: there is no activation of this name.
    """
    try:
        return ACTIVATIONS[name]()
    except (KeyError, TypeError):
        raise ModelError(f"activation is {name!r}; choose one of {', '.join(ACTIVATIONS)}.") from None


def require_count(value: Any, name: str, *, at_least: int = 1) -> None:
    """Raise ModelError unless `value` is an integer of at least `at_least`."""
    if not _is_count(value, at_least):
        raise ModelError(f"{name} is {value!r}; it must be an integer of at least {at_least}.")


def require_probability(value: Any, name: str) -> None:
    """Raise ModelError unless 0 <= `value` < 1."""
    if not _is_number(value) or not 0 <= value < 1:
        raise ModelError(f"{name} is {value!r}; it must be a number from 0 to below 1.")


def require_weight(value: Any, name: str) -> None:
    """Raise ModelError unless `value` is a finite number of at least 0."""
    if not _is_number(value) or not 0 <= value < math.inf:
        raise ModelError(f"{name} is {value!r}; it must be a finite number of at least 0.")


def output_and_regularization(result: Any) -> tuple[Any, Tensor | float]:
    """Split what a model returned into its output and its regularization loss, which is 0 where it returned one value.

    Several outputs are a list or dict; a tuple is always the pair (output, regularization_loss).

    Raises:
        ModelError: a tuple of another length.
    """
    if not isinstance(result, tuple):
        return result, NO_REGULARIZATION
    if len(result) == 2:
        return result
    raise ModelError(
        f"The model returned a tuple of {len(result)}; forward must return (output, regularization_loss) "
        "or one output, several outputs being a list or dict."
    )


def _is_count(value: Any, at_least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= at_least


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
