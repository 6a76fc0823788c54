"""Models built from rows alone: class, parameters and shapes, without dataset or loader."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from schemas.config_table import ClassSlot
from schemas.identity import StoredText
from schemas.model_config import ModelConfig
from schemas.parameters import arguments
from schemas.stored_model import PARAMS, StoredModel

from .model_weights import UnusableModel, fit
from .resolver import ClassResolver
from .training_spec import Component, as_shape, model_params

SHAPES = ("input_shape", "output_shape")
STORED = ClassSlot("stored_model_module_name", "stored_model_class_name", PARAMS, "model")


def component_of_task(rows: Mapping[str, Any], resolver: ClassResolver) -> Component:
    """The model of a task with all its arguments; `rows` as `TrainingResult.spec` gives them.

    Raises
    ------
    schemas.errors.DamagedRow
        If the row of the model was changed after its insertion.
    schemas.errors.InvalidRow
        If the class is gone, is outside the allowed packages, or lost a parameter that the row sets.
    """
    table = ModelConfig()
    own = _component(table.read(rows["model"]), table.slots[0], resolver)
    return Component(own.cls, model_params(rows["dataset"], own.params))


def component_of_stored(row: Mapping[str, Any], resolver: ClassResolver) -> Component:
    """The class of a stored model with all its arguments; raises as `component_of_task` does.

    Raises
    ------
    UnusableModel
        If the model has no class.
    """
    if row["stored_model_loads_as"] == "state_dict":
        raise UnusableModel(
            f"the model {row['stored_model_name']} loads as a state dict only, since no class was stored with it; "
            "read it with StoredModel().load_state(key)"
        )
    stored = StoredModel.read(row)
    own = _component(stored, STORED, resolver)
    shapes = {name: stored.fields[f"stored_model_{name}"] for name in SHAPES}
    return with_shapes(own, shapes)


def with_shapes(component: Component, shapes: Mapping[str, Any]) -> Component:
    """The component with those of the shapes that its constructor takes and that are known."""
    parameters = inspect.signature(component.cls).parameters.values()
    named = {parameter.name for parameter in parameters}
    is_open = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    taken = {
        name: as_shape(shape) for name, shape in shapes.items() if shape is not None and (name in named or is_open)
    }
    return Component(component.cls, {**taken, **component.params})


def _component(stored: StoredText, slot: ClassSlot, resolver: ClassResolver) -> Component:
    module, name = stored.fields[slot.module], stored.fields[slot.name]
    signature = resolver.signature(module, name, slot.kind)
    complete = {**stored.complete[slot.params], **stored.run.get(slot.params, {})}
    params, _ = arguments(signature, complete, stored.sparse[slot.params])
    return Component(resolver.resolve(module, name, slot.kind), params)


def build(
    component: Component, state: Mapping[str, Tensor], device: torch.device, *, prefix: str = "", strict: bool = True
) -> nn.Module:
    """A model with these weights, in eval mode on a device; the caller's random states are left as they are. `prefix`
    and `strict` are those of `pipeline.model_weights.fit`.

    Raises
    ------
    UnusableModel
        If the class cannot be built with its arguments.
    pipeline.model_weights.WeightsDoNotFit
        If the weights belong to another model.
    """
    label = label_of(component.cls)
    with torch.random.fork_rng(devices=[]):
        try:
            model: nn.Module = component.cls(**component.params)
        except Exception as error:  # code of users
            raise UnusableModel(
                f"{label} cannot be built with its parameters: {type(error).__name__}: {error}; "
                "use the code that the model was made with"
            ) from error
    fit(model, state, label, prefix=prefix, strict=strict)
    return model.to(device).eval()


def label_of(cls: type) -> str:
    """Module and name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def checked_device(device: Any) -> torch.device:
    """A device that can be used here.

    Raises
    ------
    UnusableModel
        If there is none of this name.
    """
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise UnusableModel(f"{device!r} is no device; name one such as cpu, cuda or cuda:1") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UnusableModel(
            f"there is no device {chosen} here, the number of CUDA devices is {torch.cuda.device_count()}; "
            "load the model on cpu"
        )
    return chosen
