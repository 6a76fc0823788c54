"""Building the optimizer that a row names."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.contract import TrainerError

IMPLEMENTATIONS = ("fused", "foreach")
"""Implementations of one and the same update that torch's optimizers offer, fastest first."""


def build(
    optimizer_class: type[torch.optim.Optimizer], model: nn.Module, params: Mapping[str, Any]
) -> tuple[torch.optim.Optimizer, str | None]:
    """The optimizer over the model's parameters, and which implementation was chosen for it.

    torch's own optimizers update all parameters at once with ``fused=True``, in a few calls with ``foreach=True``, else
    one by one. The fastest that torch accepts is taken, unless the row names one (then the choice is None). They
    round differently, so that the choice belongs to a run's record.

    Raises:
        TrainerError: the class refuses the parameters, or its steps need a closure.
    """
    _refuse_closures(optimizer_class)
    parameters = list(model.parameters())
    chosen = _fastest(optimizer_class, model, parameters, params)
    extra = {chosen: True} if chosen in IMPLEMENTATIONS else {}
    try:
        return optimizer_class(parameters, **{**params, **extra}), chosen
    except (TypeError, ValueError, RuntimeError) as error:
        raise TrainerError(
            f"optimizer_class_params {dict(params)} do not suit {optimizer_class.__name__}: {error}"
        ) from error


def restore(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what ``optimizer.state_dict()`` gave, bit by bit: `load_state_dict` alone turns what an optimizer keeps into
    the type of the parameter, and so rounds float32 averages of bfloat16 parameters."""
    optimizer.load_state_dict(state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, saved in state["state"].items():
        loaded = optimizer.state[parameters[number]]
        for name, value in saved.items():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device, copy=True)


def _refuse_closures(optimizer_class: type[torch.optim.Optimizer]) -> None:
    closure = inspect.signature(optimizer_class.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise TrainerError(
            f"{optimizer_class.__name__} evaluates the loss several times a step, which this trainer does not do; "
            "choose an optimizer whose step() needs no closure, such as torch.optim.Adam."
        )


def _fastest(
    optimizer_class: type[torch.optim.Optimizer],
    model: nn.Module,
    parameters: Sequence[Tensor],
    params: Mapping[str, Any],
) -> str | None:
    if any(name in params and params[name] is not None for name in IMPLEMENTATIONS):
        return None
    # Sparse gradients are known only after a backward pass; the layers that make them say so.
    has_sparse_gradients = any(getattr(module, "sparse", False) is True for module in model.modules())
    if not optimizer_class.__module__.startswith("torch.optim") or has_sparse_gradients:
        return "default"
    offered = inspect.signature(optimizer_class).parameters
    for implementation in IMPLEMENTATIONS:
        if implementation in offered and _works(optimizer_class, parameters, {**params, implementation: True}):
            return implementation
    return "default"


def _works(
    optimizer_class: type[torch.optim.Optimizer], parameters: Sequence[Tensor], params: Mapping[str, Any]
) -> bool:
    """Whether a step with these parameters succeeds on a stand-in for each kind of tensor; some refuse only then."""
    kinds = {(parameter.dtype, parameter.device) for parameter in parameters}
    try:
        stand_ins = [nn.Parameter(torch.zeros(1, dtype=dtype, device=device)) for dtype, device in kinds]
        for stand_in in stand_ins:
            stand_in.grad = torch.zeros_like(stand_in)
        optimizer_class(stand_ins, **params).step()
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError):
        # Also where the row's own parameters are wrong: building the real optimizer then says so.
        return False
    return True
