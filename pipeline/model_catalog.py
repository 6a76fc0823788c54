"""The models of a project, trained and stored, as one list: what is known of each, and which weights are damaged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from schemas.dataset_config import DatasetConfig
from schemas.model_config import ModelConfig
from schemas.stored_model import PARAMS, StoredModel
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from .model_search import NoModel, SearchError, find
from .short_keys import AmbiguousKey, UnknownKey, full_key
from .store.address import SCHEME
from .store.interface import PIECE, NotAnAddress, ObjectDamaged, ObjectMissing, Store, parse_address


class Kind(StrEnum):
    """Where a model comes from."""

    TRAINED = "trained"
    STORED = "stored"


@dataclass(frozen=True)
class Model:
    """What is known of a model.

    Attributes
    ----------
    key : of its task, or of its row in `StoredModel`.
    name : given, or the data file that it was trained on.
    model_class : ``module`` and ``name``, or None where it loads as a state dict only.
    params : complete, without the shapes.
    address : of its weights, empty where there are none; `size` in bytes.
    metrics : name to ``value`` and ``direction``.
    time : when it was inserted, UTC.
    """

    kind: Kind
    key: str
    name: str
    version: str
    description: str
    tags: Mapping[str, Any]
    model_class: Mapping[str, str] | None
    params: Mapping[str, Any]
    input_shape: Any
    output_shape: Any
    address: str
    size: int | None
    metrics: Mapping[str, Mapping[str, Any]]
    time: datetime

    def value(self, metric: str) -> float | None:
        """The value of a metric, None where it has none."""
        return self.metrics.get(metric, {}).get("value")


TABLES = {Kind.TRAINED: TrainingResult, Kind.STORED: StoredModel}
KEYS = {Kind.TRAINED: "training_task_md5_hash", Kind.STORED: "stored_model_md5_hash"}


def find_model(typed: str) -> Model:
    """The model whose key begins with what was typed.

    Raises
    ------
    pipeline.short_keys.UnknownKey
        If there is none, or more than one.
    """
    found = []
    for kind, table in TABLES.items():
        try:
            found.append((kind, full_key(table, typed)))
        except AmbiguousKey:
            raise
        except UnknownKey:
            continue
    if not found:
        raise UnknownKey(
            f"there is no model with a key that begins with {typed}; `trainloom model ls` shows the models"
        )
    if len(found) > 1:
        raise AmbiguousKey(f"a trained and a stored model have keys that begin with {typed}; give more characters")
    kind, key = found[0]
    return models(kind, [key])[0]


def list_models(
    kinds: Iterable[Kind] = tuple(Kind), where: Any = True, sort: str = "-time", limit: int | None = None
) -> list[Model]:
    """Models in order, those of several kinds by time or by a metric.

    Raises
    ------
    SearchError
        If the restriction or the order is refused by every kind.
    """
    chosen = list(kinds)
    found: list[Model] = []
    refused: list[NoModel] = []
    for kind in chosen:
        try:
            found += models(kind, [key[KEYS[kind]] for key in find(TABLES[kind](), where, sort, limit)])
        except NoModel as error:
            refused.append(error)
    if refused and not found:
        raise refused[0]
    return found if len(chosen) == 1 else _merged(found, sort)[:limit]


def _merged(found: list[Model], sort: str) -> list[Model]:
    name = sort.removeprefix("-")
    if name == "time":
        return sorted(found, key=lambda model: (model.time, model.key), reverse=sort != name)
    directions = {model.metrics[name]["direction"] for model in found if name in model.metrics}
    if found and not directions:
        raise SearchError(f"trained and stored models together are sorted by time or by a metric, not by {name}")
    falls = sort != name or directions == {"max"}
    valued = [(value, model) for model in found if (value := model.value(name)) is not None]
    valued.sort(key=lambda pair: pair[0], reverse=falls)
    return [*(model for _, model in valued), *(model for model in found if model.value(name) is None)]


def models(kind: Kind, keys: list[str]) -> list[Model]:
    """What is known of the models with these keys, in their order."""
    chosen = [{KEYS[kind]: key} for key in keys]
    if not chosen:
        return []
    by_key = {model.key: model for model in (_trained(chosen) if kind is Kind.TRAINED else _stored(chosen))}
    return [by_key[key] for key in keys]


def _trained(chosen: list[dict[str, str]]) -> Iterator[Model]:
    results = (TrainingResult() & chosen).proj("model_save_path", "utc_insert_time")
    shapes = DatasetConfig().proj("dataset_file_name", "input_shape", "output_shape", "additional_model_params")
    metrics: dict[str, dict[str, Any]] = {}
    for row in (TrainingResult.Metric() & chosen).to_dicts(order_by="metric_name"):
        value = {} if row["metric_value"] is None else {"value": row["metric_value"]}
        metrics.setdefault(row[KEYS[Kind.TRAINED]], {})[row["metric_name"]] = {
            **value,
            "direction": row["metric_direction"],
        }
    weights = TrainingResult.Artifact() & chosen & {"artifact_name": "weights"}
    sizes = {row[KEYS[Kind.TRAINED]]: row["artifact_size"] for row in weights.to_dicts()}
    for row in (results * TrainingTask() * ModelConfig() * shapes).to_dicts():
        key = row[KEYS[Kind.TRAINED]]
        complete = ModelConfig().read(row).complete["model_class_params"]
        yield Model(
            kind=Kind.TRAINED,
            key=key,
            name=row["dataset_file_name"],
            version="",
            description="",
            tags={},
            model_class={"module": row["model_class_module_name"], "name": row["model_class_name"]},
            params={**complete, **row["additional_model_params"]},
            input_shape=row["input_shape"],
            output_shape=row["output_shape"],
            address=row["model_save_path"],
            size=sizes.get(key),
            metrics=metrics.get(key, {}),
            time=row["utc_insert_time"],
        )


def _stored(chosen: list[dict[str, str]]) -> Iterator[Model]:
    for row in (StoredModel() & chosen).to_dicts():
        stored = StoredModel.read(row)
        module, name = stored.fields["stored_model_module_name"], stored.fields["stored_model_class_name"]
        yield Model(
            kind=Kind.STORED,
            key=row["stored_model_md5_hash"],
            name=row["stored_model_name"],
            version=row["stored_model_version"],
            description=row["stored_model_description"],
            tags=row["stored_model_tags"],
            model_class={"module": module, "name": name} if name else None,
            params=stored.complete[PARAMS],
            input_shape=stored.fields["stored_model_input_shape"],
            output_shape=stored.fields["stored_model_output_shape"],
            address=SCHEME + stored.fields["stored_model_sha256"],
            size=row["stored_model_size"],
            metrics=row["stored_model_metrics"],
            time=row["stored_model_time"],
        )


@dataclass(frozen=True)
class Verified:
    """The weights of one or more models, read to the end.

    Attributes
    ----------
    keys : of the models that they belong to.
    damage : what is wrong with them, empty if nothing is.
    """

    address: str
    keys: list[str]
    damage: str


def verify(store: Store, keys: Iterable[Model] | None = None) -> Iterator[Verified]:
    """Read the weights of the given models, by default of all, each object once; memory is bounded.

    Raises
    ------
    pipeline.store.StoreUnavailable
        If the store cannot be reached: that says nothing about its objects.
    """
    owners: dict[str, list[str]] = {}
    for key, address in _addresses() if keys is None else ((model.key, model.address) for model in keys):
        if address:
            owners.setdefault(address, []).append(key)
    for address, theirs in sorted(owners.items()):
        yield Verified(address, sorted(theirs), _damage(store, address))


def _addresses() -> Iterator[tuple[str, str]]:
    for row in TrainingResult().proj("model_save_path").to_dicts():
        yield row[KEYS[Kind.TRAINED]], row["model_save_path"]
    for row in StoredModel().proj("stored_model_sha256").to_dicts():
        yield row[KEYS[Kind.STORED]], SCHEME + row["stored_model_sha256"]


def _damage(store: Store, address: str) -> str:
    try:
        with store.open(parse_address(address)) as stream:
            while stream.read(PIECE):
                pass
    except (NotAnAddress, ObjectDamaged, ObjectMissing) as error:
        return str(error)
    return ""
