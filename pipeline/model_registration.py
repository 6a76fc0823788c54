"""What is given to be stored as a model: checked, and turned into bytes and columns."""

from __future__ import annotations

import inspect
import logging
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from schemas.errors import InvalidRow
from schemas.hashing import plain
from schemas.parameters import Bound, bind
from trainers.metrics import METRICS

from .model_loading import SHAPES, build, label_of, with_shapes
from .model_weights import checked_state, parse_safetensors, serialized
from .resolver import ClassResolver, UnresolvedClass
from .training_spec import Component

logger = logging.getLogger("trainloom")

DIRECTIONS: Mapping[str, str] = {"loss": "min", **{name: metric.direction for name, metric in METRICS.items()}}
METRIC_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_@+-]{0,63}")
NO_PARAMETERS = Bound({}, {}, {})


@dataclass(frozen=True)
class Given:
    """Weights that can be stored: the bytes of a safetensors file and the tensors in them."""

    content: bytes
    state: Mapping[str, Tensor]


def read_given(weights: Any) -> Given:
    """Weights given as the path of a safetensors file, a state dict or a module.

    Raises
    ------
    pipeline.model_weights.NotWeights
        If they hold anything but tensors.
    """
    if isinstance(weights, str | os.PathLike):
        path = Path(weights)
        content = path.read_bytes()
        return Given(content, parse_safetensors(content, f"the file {path}"))
    source = weights.state_dict() if isinstance(weights, nn.Module) else weights
    state = checked_state(source, "what was given to be stored")
    return Given(serialized(state), state)


@dataclass(frozen=True)
class Described:
    """The class of a model to store, or none, and its parameters bound to it."""

    module: str
    name: str
    bound: Bound
    recorded: Mapping[str, Any]


UNDESCRIBED = Described("", "", NO_PARAMETERS, {})


def describe(
    weights: Any,
    model_class: Any,
    params: Mapping[str, Any] | None,
    shapes: Mapping[str, Any],
    resolver: ClassResolver,
) -> Described:
    """The class that a model is to be loaded as; a module's own class is taken where its arguments are known.

    Raises
    ------
    InvalidRow
        If the class cannot be used, or parameters or shapes are missing or unknown.
    """
    if model_class is None and isinstance(weights, nn.Module):
        own = type(weights)
        reason = _why_unknown(own, params, resolver)
        if reason:
            logger.warning("%s; the model loads as a state dict only", reason)
            return UNDESCRIBED
        model_class = own
    if model_class is None:
        if params:
            raise InvalidRow("params are given without model_class; name the class or leave the parameters out")
        logger.warning("no model_class is given; the model loads as a state dict only")
        return UNDESCRIBED
    module, name = _names(model_class)
    cls = resolver.resolve(module, name, "model")
    signature = resolver.signature(module, name, "model")
    bound = bind(signature, {} if params is None else params, "params")
    _check_shapes(cls, shapes)
    return Described(module, name, bound, signature.recorded)


def _why_unknown(cls: type, params: Mapping[str, Any] | None, resolver: ClassResolver) -> str:
    """Why a module cannot be built again from its class alone, or an empty text."""
    try:
        signature = resolver.signature(cls.__module__, cls.__qualname__, "model")
    except UnresolvedClass as error:
        if params is not None:
            raise
        return str(error)
    if params is None and (signature.defaults or signature.open):
        return f"which arguments {signature.label} was built with is not known; give them as params={{…}}"
    return ""


def _names(model_class: Any) -> tuple[str, str]:
    if isinstance(model_class, type):
        return model_class.__module__, model_class.__qualname__
    if not isinstance(model_class, str) or "." not in model_class:
        raise InvalidRow(
            f"model_class is a class or its module and name, such as my_lab.models.Net, not {model_class!r}"
        )
    module, _, name = model_class.rpartition(".")
    return module, name


def _check_shapes(cls: type, shapes: Mapping[str, Any]) -> None:
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in SHAPES and parameter.default is parameter.empty and shapes[name] is None:
            raise InvalidRow(
                f"{label_of(cls)} requires {name}; give the shape of one example without the batch dimension"
            )


def check_shape(shape: Any, name: str) -> None:
    """Raise `InvalidRow` unless a plain value is None, a list of positive integers, or a list or dict of such lists."""
    if shape is not None and not _is_shape(shape):
        raise InvalidRow(f"{name} is {shape!r}; give the sizes of one example, such as [1, 8, 8]")


def _is_shape(value: Any) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(_is_shape(part) for part in value.values())
    if not isinstance(value, list):
        return False
    return all(_is_size(side) for side in value) or all(_is_shape(part) for part in value)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def check_fit(
    described: Described, state: Mapping[str, Tensor], shapes: Mapping[str, Any], resolver: ClassResolver
) -> None:
    """Build the model once: what does not load now will never load.

    Raises
    ------
    pipeline.model_weights.UnusableModel
        If it cannot be built, or the weights belong to another model.
    """
    if described is UNDESCRIBED:
        return
    cls = resolver.resolve(described.module, described.name, "model")
    params = {**described.bound.complete, **described.bound.run}
    build(with_shapes(Component(cls, params), shapes), state, torch.device("cpu"))


def checked_metrics(metrics: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name to ``direction`` and ``value``, the latter left out where it is not finite.

    Raises
    ------
    InvalidRow
        If a name or value has another form, or it is not known which way is better.
    """
    if not isinstance(metrics, Mapping):
        raise InvalidRow(f"metrics must be a dict of name to value, not {type(metrics).__name__}")
    checked: dict[str, dict[str, Any]] = {}
    for name, given in metrics.items():
        if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
            raise InvalidRow(f"the metric {name!r} must have a name of at most 64 letters, digits and '_@+-'")
        value, direction = (
            given if isinstance(given, tuple | list) and len(given) == 2 else (given, DIRECTIONS.get(name))
        )
        if direction not in ("max", "min"):
            raise InvalidRow(
                f"which way is better of {name} is not known; give ({value!r}, 'max') or ({value!r}, 'min')"
            )
        checked[name] = {"direction": direction}
        if isinstance(value, float) and not math.isfinite(value):
            continue
        number = plain(value, f"metrics.{name}")
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise InvalidRow(f"the metric {name} must be a number, not {value!r}")
        checked[name]["value"] = float(number)
    return checked
