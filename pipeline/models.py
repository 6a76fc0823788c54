"""The models of a session: those that tasks trained and those that were stored by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from schemas.continuation import CHECKPOINT, checkpoint_name
from schemas.stored_model import StoredModel
from schemas.training_result import TrainingResult
from trainers import checkpoint

from . import model_search
from .folders import Folders
from .model_loading import SHAPES, build, checked_device, component_of_stored, component_of_task
from .model_registration import check_fit, check_shape, checked_metrics, describe, read_given
from .model_weights import FORMAT, UnusableModel, parse, read_weights
from .resolver import ClassResolver
from .store.interface import Store, parse_address
from .trainer_builder import WEIGHTS_SUFFIX

KEY = "training_task_md5_hash"


class ModelLibrary:
    """Finds, loads and stores models for the tables; what `schemas.binding.Models` promises."""

    def __init__(self, resolver: ClassResolver, store: Store, folders: Folders) -> None:
        self._resolver = resolver
        self._store = store
        self._folders = folders

    def load_result(
        self,
        result: Mapping[str, Any],
        table: Any,
        device: Any,
        *,
        epoch: int | None = None,
        prefix: str = "",
        strict: bool = True,
    ) -> nn.Module:
        """The model of a finished task; `result` has its key and the address of its weights."""
        chosen = checked_device(device)
        key, address = result[KEY], result["model_save_path"]
        component = component_of_task(TrainingResult.spec(result), self._resolver)
        if epoch is not None:
            state = self._state_after(key, epoch)
        elif address:
            cached = self._folders.chosen(table.directories).model_save_dir / f"{key}{WEIGHTS_SUFFIX}"
            state = self._state(parse_address(address), f"the object of task {key[:8]}", cached)
        else:
            raise UnusableModel(f"task {key[:8]} has no weights: its trainer saved no file at model_save_path")
        return build(component, state, chosen, prefix=prefix, strict=strict)

    def _state_after(self, key: str, epoch: int) -> dict[str, Tensor]:
        """The weights that a task had after an epoch, counted from 1, whose state stayed with the result."""
        kept = {
            row["artifact_name"]: row["artifact_sha256"]
            for row in (TrainingResult.Artifact() & {KEY: key, "artifact_kind": CHECKPOINT}).to_dicts()
        }
        name = checkpoint_name(epoch)
        if name not in kept:
            there = ", ".join(sorted(kept)) or "none; see checkpoints_kept_every in trainer_class_params"
            raise UnusableModel(f"task {key[:8]} has kept no {name} (it has {there})")
        state: dict[str, Tensor] = checkpoint.unpack(self._store.get_bytes(kept[name]))[1]["model"]
        return state

    def load_stored(self, row: Mapping[str, Any], device: Any) -> nn.Module:
        """A stored model, by its whole row."""
        chosen = checked_device(device)
        component = component_of_stored(row, self._resolver)
        return build(component, self._state(*_weights_of(row)), chosen)

    def stored_state(self, row: Mapping[str, Any], device: Any) -> dict[str, Tensor]:
        """The state dict of a stored model, by its whole row."""
        chosen = checked_device(device)
        return {name: tensor.to(chosen) for name, tensor in self._state(*_weights_of(row)).items()}

    def _state(self, sha256: str, what: str, cached: Path | None = None) -> dict[str, Tensor]:
        return parse(read_weights(self._store, sha256, cached), f"{what} ({sha256[:12]})")

    def put(
        self,
        table: Any,
        weights: Any,
        described: Mapping[str, Any],
        model_class: Any,
        params: Mapping[str, Any] | None,
        metrics: Mapping[str, Any],
    ) -> dict[str, str]:
        """Check everything, upload the weights, then insert the row: a row never names weights that are not there."""
        shapes = {name: described[f"stored_model_{name}"] for name in SHAPES}
        for name, shape in shapes.items():
            check_shape(shape, name)
        values = checked_metrics(metrics)
        given = read_given(weights)
        found = describe(weights, model_class, params, shapes, self._resolver)
        check_fit(found, given.state, shapes, self._resolver)
        stored = self._store.put(given.content, kind="weights")
        columns = {
            **described,
            "stored_model_module_name": found.module,
            "stored_model_class_name": found.name,
            "stored_model_sha256": stored.sha256,
            "stored_model_size": stored.size,
            "stored_model_format": FORMAT,
            "stored_model_loads_as": "module" if found.name else "state_dict",
            "stored_model_metrics": values,
        }
        key: dict[str, str] = table.register(columns, found.bound, found.recorded)
        return key

    def find(self, table: Any, where: Any, sort: Any, limit: int | None) -> list[dict[str, str]]:
        """Keys in order."""
        return model_search.find(table, where, sort, limit)

    def best(self, table: Any, metric: str, where: Any) -> dict[str, str]:
        """The best key by a metric."""
        return model_search.best(table, metric, where)

    def newest(self, table: Any, where: Any) -> dict[str, str]:
        """The newest key."""
        return model_search.newest(table, where)


def _weights_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """The sha256 of a stored model's weights, verified against its key, and what messages call them."""
    sha256 = str(StoredModel.read(row).fields["stored_model_sha256"])
    return sha256, f"the object of the model {row['stored_model_name']}"
