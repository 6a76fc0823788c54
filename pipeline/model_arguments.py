"""What a module was built with, as far as it shows."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from schemas.binding import services
from schemas.errors import InvalidValue
from schemas.hashing import plain

from .model_loading import SHAPES
from .resolver import UnresolvedClass


def known_arguments(network: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What to store a module with: its class, parameters and shapes; only what was given where they are not all known.

    An argument is known if it was given, or if the module has a plain attribute of that name, as most constructors
    leave it.

    Parameters
    ----------
    given : ``params``, ``input_shape`` and ``output_shape``, each where somebody has said it.
    """
    if not isinstance(network, nn.Module):
        return dict(given)
    cls = type(network)
    try:
        services("TensorHub").resolver.signature(cls.__module__, cls.__qualname__, "model")
    except UnresolvedClass:
        return dict(given)
    params = dict(given.get("params") or {})
    shapes = {name: given[name] for name in SHAPES if given.get(name) is not None}
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in params or name in shapes or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        try:
            value = plain(getattr(network, name), name)
        except (AttributeError, InvalidValue):
            if given.get("params") is not None and parameter.default is not parameter.empty:
                continue  # who names parameters leaves the others at their defaults
            return dict(given)
        (shapes if name in SHAPES else params)[name] = value
    return {"model_class": cls, "params": params, **shapes}
