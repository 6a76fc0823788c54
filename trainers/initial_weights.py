"""Weights that a training starts from instead of the model's own initial ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from trainers.contract import TrainerError
from trainers.freezing import begins_with


@dataclass(frozen=True)
class WarmStartPolicy:
    """The parameters of a trainer that say which weights of `initial_weights` are taken.

    Args:
        initial_weights_prefix: the beginning of the names that are taken, in whole parts: "encoder" is
            ``encoder.weight``, not ``encoder2.weight``. Empty for all.
        initial_weights_renamed: the beginning that takes its place in this model ("" to leave it off); None for the
            same.
        initial_weights_strict: whether it is an error when a weight of this model by such a name is not in the file,
            one in the file not in this model, or of another shape there. If not, what fits is taken, and `choices`
            names the rest.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    initial_weights_prefix: str = ""
    initial_weights_renamed: str | None = None
    initial_weights_strict: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.initial_weights_prefix, str):
            raise TrainerError(f"initial_weights_prefix is {self.initial_weights_prefix!r}; it must be text.")
        if not isinstance(self.initial_weights_renamed, str | None):
            raise TrainerError(f"initial_weights_renamed is {self.initial_weights_renamed!r}; it must be text or null.")
        if not isinstance(self.initial_weights_strict, bool):
            raise TrainerError(f"initial_weights_strict is {self.initial_weights_strict!r}; it must be true or false.")


def load(policy: WarmStartPolicy, path: str | os.PathLike[str], model: nn.Module) -> str | None:
    """Put weights of a safetensors file into a model; returns what was left out, None where all of it fitted.

    Raises:
        TrainerError: there is no such file, it holds no weights by these names, or they do not fit.
    """
    here = model.state_dict()
    prefix = policy.initial_weights_prefix.removesuffix(".")
    target = prefix if policy.initial_weights_renamed is None else policy.initial_weights_renamed.removesuffix(".")
    given = {
        _moved(name, prefix, target): tensor for name, tensor in _read(Path(path)).items() if begins_with(name, prefix)
    }
    if not given:
        raise TrainerError(f"initial_weights_prefix is {prefix!r}, which begins no name in {path}.")
    fitting = {name: tensor for name, tensor in given.items() if name in here and here[name].shape == tensor.shape}
    problems = _problems(given, {name: tensor for name, tensor in here.items() if begins_with(name, target)}, here)
    if problems and policy.initial_weights_strict:
        raise TrainerError(
            f"The weights at {path} do not fit {type(model).__name__}: {problems}; set initial_weights_strict to false "
            "to take those that fit."
        )
    if not fitting:
        raise TrainerError(f"None of the weights at {path} fits {type(model).__name__}: {problems}.")
    model.load_state_dict(fitting, strict=False)
    return problems or None


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except FileNotFoundError as error:
        raise TrainerError(f"There are no weights at {path} to start from.") from error
    except SafetensorError as error:
        raise TrainerError(f"{path} is no whole safetensors file: {error}.") from error


def _moved(name: str, prefix: str, target: str) -> str:
    """The name with `target` in place of its beginning `prefix`."""
    rest = name.removeprefix(prefix).removeprefix(".") if prefix else name
    return ".".join(part for part in (target, rest) if part)


def _problems(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], here: Mapping[str, Tensor]) -> str:
    """What is missing, unexpected or of another shape, by name; empty where nothing is."""
    # Of weights that layers share the file holds one name only.
    filled = {_place(here[name]) for name in given if name in here and here[name].numel()}
    missing = [name for name, tensor in wanted.items() if name not in given and _place(tensor) not in filled]
    unexpected = [name for name in given if name not in here]
    reshaped = [
        f"{name} is {tuple(tensor.shape)}, here it is {tuple(here[name].shape)}"
        for name, tensor in given.items()
        if name in here and here[name].shape != tensor.shape
    ]
    listed = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped}
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in listed.items() if names)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Where a tensor lies: the same for weights that are one."""
    return tensor.data_ptr() or id(tensor), tensor.shape, tensor.stride(), tensor.dtype
