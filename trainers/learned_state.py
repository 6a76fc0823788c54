"""What a training has learned: the states of its model, optimizer and criterion, ready for a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainers import optimizer as optimizers
from trainers.contract import TrainerError

_PLAIN = (Tensor, nn.Parameter, str, int, float, bool, type(None), torch.dtype, torch.device, torch.Size)


class ForeignCheckpoint(TrainerError):
    """A checkpoint of another model or optimizer.

    Attributes:
        difference: what is different in it, as a part of a sentence.
    """

    def __init__(self, message: str, difference: str) -> None:
        super().__init__(message)
        self.difference = difference


class UnstorableState(TrainerError):
    """A model or optimizer keeps something that a checkpoint cannot hold."""


def state(model: nn.Module, optimizer: torch.optim.Optimizer, criterion: Any) -> dict[str, Any]:
    """The states by name; a criterion that is no module has none.

    Raises:
        UnstorableState: a checkpoint cannot hold one; the message names the place.
    """
    states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    if isinstance(criterion, nn.Module):
        states["criterion"] = criterion.state_dict()
    for name, part in states.items():
        check_storable(part, name)
    return states


def restore(states: Mapping[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, criterion: Any) -> None:
    """Put the states back.

    Raises:
        ForeignCheckpoint: they do not fit.
    """
    try:
        model.load_state_dict(states["model"])
        optimizers.restore(optimizer, states["optimizer"])
        if isinstance(criterion, nn.Module):
            criterion.load_state_dict(states["criterion"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise _foreign(" ".join(str(error).split()).rstrip(".")) from error


def identity(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """What a checkpoint must agree with: the classes, and the parameters' names, shapes and types."""
    return {
        "model": type(model).__qualname__,
        "optimizer": type(optimizer).__qualname__,
        "parameters": {
            name: [list(parameter.shape), str(parameter.dtype)] for name, parameter in model.named_parameters()
        },
    }


def check_identity(saved: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse the checkpoint of something else.

    Raises:
        ForeignCheckpoint: names the first difference.
    """
    for what in ("model", "optimizer"):
        if saved[what] != here[what]:
            raise _foreign(f"its {what} is {saved[what]}, here it is {here[what]}")
    for name in [*saved["parameters"], *here["parameters"]]:
        before, now = saved["parameters"].get(name), here["parameters"].get(name)
        if before != now:
            raise _foreign(f"its parameter {name} is {_form(before)}, here it is {_form(now)}")


def check_storable(value: Any, path: str) -> None:
    """Refuse what a checkpoint cannot hold; `path` says where the value is.

    Raises:
        UnstorableState: names the place.
    """
    if isinstance(value, Mapping):
        for name, part in value.items():
            check_storable(name, f"{path} (a key)")
            check_storable(part, f"{path}.{name}")
    elif type(value) in (list, tuple):
        for place, part in enumerate(value):
            check_storable(part, f"{path}.{place}")
    elif type(value) not in _PLAIN:
        raise UnstorableState(
            f"{path} is a {type(value).__name__}; a checkpoint holds tensors, numbers, strings, lists and dicts only."
        )


def _foreign(difference: str) -> ForeignCheckpoint:
    return ForeignCheckpoint(
        f"The checkpoint was made by other code: {difference}; restore the code, or remove the task's checkpoints to "
        "start anew.",
        difference,
    )


def _form(parameter: list | None) -> str:
    return "missing" if parameter is None else f"{tuple(parameter[0])} of {parameter[1]}"
