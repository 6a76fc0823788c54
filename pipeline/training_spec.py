"""The rows of a task turned into classes and arguments, verified against their keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.config_table import ConfigTable
from schemas.dataset_config import TIERS, DatasetConfig
from schemas.model_config import ModelConfig
from schemas.parameters import arguments
from schemas.training_config import TrainingConfig, scheduler_named

from .resolver import ClassResolver


@dataclass(frozen=True)
class Component:
    """A class and the keyword arguments that the rows give it."""

    cls: type
    params: dict[str, Any]


@dataclass(frozen=True)
class TrainingSpec:
    """Everything a training needs, read from the canonical texts of its rows.

    Attributes
    ----------
    dataset_row : the config row as user code receives it.
    model_params : complete: shapes, the row's parameters and the dataset's additional ones.
    samplers : tier to its sampler; tiers without one are missing.
    warm_start : key of the task whose weights or state it starts from, or empty.
    initial_weights : address of the weights to start from; empty for the model's own, None where they are gone.
    initial_state : sha256 of the state of another training to go on from; empty for none, None where there is none.
    scheduler : class of the learning-rate scheduler, where the row names one and the trainer is given it.
    notes : what a reader of the result should know.
    """

    key: str
    seed: int
    dataset_row: dict[str, Any]
    dataset: Component
    samplers: dict[str, Component]
    model: type
    model_params: dict[str, Any]
    trainer: Component
    optimizer: Component
    criterion: Component
    batch_size: int
    epoch_limit: int
    warm_start: str = ""
    initial_weights: str | None = ""
    initial_state: str | None = ""
    scheduler: type | None = None
    notes: list[str] = field(default_factory=list)

    def classes(self) -> dict[str, Any]:
        """Role to class, or to function, for provenance."""
        named = {
            "dataset": self.dataset,
            "trainer": self.trainer,
            "optimizer": self.optimizer,
            "criterion": self.criterion,
        }
        samplers = {f"{tier}_sampler": sampler.cls for tier, sampler in self.samplers.items()}
        functions = {
            f"dataset_{name}": self.dataset.params[name]
            for name in sorted(getattr(self.dataset.cls, "function_params", ()))
            if self.dataset.params.get(name) is not None
        }
        components = {role: component.cls for role, component in named.items()}
        classes = {**components, "model": self.model, **samplers, **functions}
        return classes if self.scheduler is None else {**classes, "scheduler": self.scheduler}


def read_spec(rows: Mapping[str, Any], resolver: ClassResolver) -> TrainingSpec:
    """Resolve the rows of a task (as `TrainingResult.spec` gives them).

    Raises
    ------
    schemas.errors.DamagedRow
        If a row was changed after its insertion.
    schemas.errors.InvalidRow
        If a class cannot be found any more or lost a parameter that the row sets.
    """
    notes: list[str] = []
    dataset = components_of(DatasetConfig(), rows["dataset"], resolver, notes)
    model = components_of(ModelConfig(), rows["model"], resolver, notes)["model_class_params"]
    training = components_of(TrainingConfig(), rows["training"], resolver, notes)
    trainer, scheduler = _with_scheduler(training["trainer_class_params"], resolver)
    row = dict(rows["dataset"])
    samplers = {tier: dataset[column] for tier in TIERS if (column := f"{tier}_sampler_class_params") in dataset}
    return TrainingSpec(
        key=rows["task"]["training_task_md5_hash"],
        seed=int(rows["task"]["seed"]),
        dataset_row=row,
        dataset=dataset["dataset_class_params"],
        samplers=samplers,
        model=model.cls,
        model_params=model_params(row, model.params),
        trainer=trainer,
        optimizer=training["optimizer_class_params"],
        criterion=training["criterion_class_params"],
        batch_size=int(rows["training"]["batch_size"]),
        epoch_limit=int(rows["training"]["epoch_limit"]),
        warm_start=rows["warm_start"],
        initial_weights=rows["initial_weights"],
        initial_state=rows["initial_state"],
        scheduler=scheduler,
        notes=notes,
    )


def _with_scheduler(trainer: Component, resolver: ClassResolver) -> tuple[Component, type | None]:
    """The trainer given the class of the scheduler that its parameters name, and that class."""
    named = scheduler_named(trainer.cls, trainer.params)
    if named is None:
        return trainer, None
    found = resolver.resolve(*named, "scheduler")
    return Component(trainer.cls, {**trainer.params, "scheduler_class": found}), found


def model_params(dataset_row: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """All keyword arguments of a model."""
    return {
        "input_shape": as_shape(dataset_row["input_shape"]),
        "output_shape": as_shape(dataset_row["output_shape"]),
        **params,
        **dataset_row["additional_model_params"],
    }


def as_shape(value: Any) -> Any:
    """Shapes as tuples of int; lists of shapes stay lists, dicts dicts."""
    if isinstance(value, dict):
        return {name: as_shape(item) for name, item in value.items()}
    if all(isinstance(item, int) for item in value):
        return tuple(value)
    return [as_shape(item) for item in value]


def components_of(
    table: ConfigTable, row: Mapping[str, Any], resolver: ClassResolver, notes: list[str]
) -> dict[str, Component]:
    """The classes that a row names, by their column of parameters; raises as `read_spec` does. `notes` grows by what a
    reader should know."""
    stored = table.read(row)
    components = {}
    for slot in table.slots:
        module, name = stored.fields[slot.module], stored.fields[slot.name]
        if not name:
            continue
        signature = resolver.signature(module, name, slot.kind)
        complete = {**stored.complete[slot.params], **stored.run.get(slot.params, {})}
        params, lost = arguments(signature, complete, stored.sparse[slot.params])
        notes.extend(
            f"{signature.label} has lost the parameter {parameter} since the row was inserted; it was at its default"
            for parameter in lost
        )
        cls = resolver.resolve(module, name, slot.kind)
        components[slot.params] = Component(cls, resolver.with_functions(cls, params))
    return components
