"""Models that were trained elsewhere or saved by hand."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import datajoint as dj

from .binding import services
from .errors import InvalidRow, SchemaError
from .hashing import plain
from .identity import Identity, Known, StoredText
from .parameters import Bound
from .removal import StillUsed, remove
from .schema import Connected, schema

logger = logging.getLogger("trainloom")

KEY = "stored_model_md5_hash"
PARAMS = "stored_model_params"
TEXT = "stored_model_text"
LABEL = "stored_model"
KEYED = tuple(
    f"stored_model_{column}"
    for column in ("name", "version", "module_name", "class_name", "input_shape", "output_shape", "sha256")
)
"""Columns that are part of the key, beside the parameters."""
KEPT = ("stored_model_description", "stored_model_tags", "stored_model_metrics")
"""Columns that are not: a row keeps those that it was first stored with."""
LENGTHS = {"name": 255, "version": 64, "description": 2047}  # characters


class ModelInUse(SchemaError, ValueError):
    """Rows of another table still name a stored model."""


@schema
class StoredModel(Connected, dj.Manual):
    """A model that no task of this project trained; its weights are an object in the store.

    Rows are made by `put`, after the weights are whole in the store.
    """

    definition = """
    # A model that no task of this project trained
    stored_model_md5_hash     : char(32)       # md5 of name, version, class, parameters, shapes and weights
    ---
    stored_model_name         : varchar(255)
    stored_model_version      : varchar(64)    # empty unless given
    stored_model_description  : varchar(2047)
    stored_model_tags         : json           # name to value
    stored_model_module_name  : varchar(255)   # empty: it loads as a state dict only
    stored_model_class_name   : varchar(255)
    stored_model_params       : json           # all parameters of the class but the shapes
    stored_model_input_shape=null  : json      # of one example
    stored_model_output_shape=null : json
    stored_model_sha256       : char(64)       # of the weights
    stored_model_size         : int64          # bytes
    stored_model_format       : varchar(64)
    stored_model_loads_as     : enum('module', 'state_dict')
    stored_model_metrics      : json           # name to value (missing if not finite) and direction
    stored_model_text         : json           # the text the key was made of
    stored_model_time=CURRENT_TIMESTAMP(3) : datetime(3)  # UTC
    INDEX (stored_model_name, stored_model_time)
    """

    def put(
        self,
        weights: Any,
        *,
        name: str,
        version: str = "",
        description: str = "",
        tags: Mapping[str, Any] | None = None,
        model_class: Any = None,
        params: Mapping[str, Any] | None = None,
        input_shape: Any = None,
        output_shape: Any = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> dict[str, str]:
        """Store a model with its metadata; the same model again is the same row.

        Parameters
        ----------
        weights : the path of a safetensors file, a state dict or an ``nn.Module``.
        model_class : the class, or its module and name as text. Without one, and where a module's own constructor
            arguments cannot be known, the model loads as a state dict only, and this is said.
        params : constructor arguments other than the shapes.
        input_shape, output_shape : of one example, without the batch dimension; handed to a class that takes them.
        metrics : name to value; a metric that is not one of the library's is given as ``(value, "max")`` or
            ``(value, "min")``.

        Returns
        -------
        dict
            The key.

        Raises
        ------
        InvalidRow, pipeline.model_weights.UnusableModel
            If something is wrong with what was given; nothing is stored then.
        """
        described = {
            **_checked_texts(name=name, version=version, description=description),
            "stored_model_tags": _checked_tags(tags),
            "stored_model_input_shape": plain(input_shape, "input_shape"),
            "stored_model_output_shape": plain(output_shape, "output_shape"),
        }
        return services("StoredModel").models.put(self, weights, described, model_class, params, metrics or {})

    def register(self, columns: Mapping[str, Any], bound: Bound, recorded: Mapping[str, Any]) -> dict[str, str]:
        """Insert the row of a model whose weights are whole in the store, unless it is there; returns its key.

        Parameters
        ----------
        columns : all columns but the key, the parameters, the text and the time.
        recorded : the defaults that the class has today.
        """
        identity = Identity(LABEL, {column: columns[column] for column in KEYED}, {PARAMS: bound})
        candidates = [{KEY: identity.row(form)[0]} for form in ("sparse", "complete")]
        present = {row[KEY]: row for row in (StoredModel() & candidates).proj(TEXT, *KEPT).to_dicts()}
        known = Known(LABEL, {key: row[TEXT]["text"] for key, row in present.items()}, lambda *_: recorded)
        key, text, _ = known.find(identity)
        if key not in present:
            row = {KEY: key, **columns, PARAMS: {**bound.complete, **bound.run}, TEXT: {"text": text}}
            self.insert1(row, skip_duplicates=True)
        elif any(present[key][column] != columns[column] for column in KEPT):
            logger.warning(
                "the model %s is already there with another description, other tags or metrics, and keeps them; "
                "give another version to store it a second time",
                key[:8],
            )
        return {KEY: key}

    def load_model(self, key: Mapping[str, Any], device: Any = "cpu") -> Any:
        """The model in eval mode on a device, its weights verified; see `TrainingResult.load_model`.

        Raises
        ------
        pipeline.model_weights.UnusableModel
            Also if the model loads as a state dict only; `load_state` reads that.
        """
        return services("StoredModel").models.load_stored(self.one(key), device)

    def load_state(self, key: Mapping[str, Any], device: Any = "cpu") -> dict[str, Any]:
        """The state dict of a model on a device, verified; its class is not needed."""
        return services("StoredModel").models.stored_state(self.one(key), device)

    def find(self, where: Any = True, sort: Any = None, limit: int | None = None) -> list[dict[str, str]]:
        """Keys of stored models; see `TrainingResult.find`. `where` restricts the columns of this table."""
        return services("StoredModel").models.find(self, where, sort, limit)

    def best(self, metric: str = "accuracy", where: Any = True) -> dict[str, str]:
        """The key of the best model by a metric; see `TrainingResult.best`."""
        return services("StoredModel").models.best(self, metric, where)

    def newest(self, where: Any = True) -> dict[str, str]:
        """The key of the model that was stored last; see `TrainingResult.newest`."""
        return services("StoredModel").models.newest(self, where)

    def remove(self, key: Mapping[str, Any]) -> None:
        """Delete the row of one model; its weights are left to the store's garbage collection.

        Raises
        ------
        ModelInUse
            If rows of other tables name the model; nothing is deleted then.
        """
        self.remove_all([key])

    def remove_all(self, keys: Iterable[Mapping[str, Any]]) -> None:
        """Delete the rows of several models, or of none; raises as `remove` does."""
        rows = {row[KEY]: row for row in map(self.one, keys)}
        try:
            remove(StoredModel(), [{KEY: key} for key in rows])
        except StillUsed as error:
            name, key = rows[error.key[KEY]]["stored_model_name"], error.key[KEY]
            raise ModelInUse(
                f"the model {name} ({key[:8]}) is still used by rows of {error.owners}; delete those first"
            ) from error

    def one(self, key: Mapping[str, Any]) -> dict[str, Any]:
        """The whole row of the one model that a key names."""
        found = (self & key).to_dicts()
        if len(found) != 1:
            count = "no stored model" if not found else f"{len(found)} stored models"
            raise InvalidRow(f"{dict(key)} names {count}; give the {KEY} of one")
        return dict(found[0])

    @staticmethod
    def read(row: Mapping[str, Any]) -> StoredText:
        """Class, shapes and parameters of a fetched row, verified against its key."""
        return StoredText.read(row[KEY], row[TEXT]["text"], LABEL)


def _checked_texts(**texts: Any) -> dict[str, str]:
    """The columns of name, version and description."""
    checked = {}
    for name, value in texts.items():
        text = plain(value, name)
        if not isinstance(text, str):
            raise InvalidRow(f"{name} must be text, not {type(value).__name__}")
        if len(text) > LENGTHS[name]:
            raise InvalidRow(f"{name} has {len(text)} characters; at most {LENGTHS[name]} fit")
        checked[f"stored_model_{name}"] = text
    if not checked["stored_model_name"].strip():
        raise InvalidRow("name is empty; a stored model is found by its name")
    return checked


def _checked_tags(tags: Any) -> dict[str, Any]:
    if tags is not None and not isinstance(tags, Mapping):
        raise InvalidRow(f"tags must be a dict of name to value, not {type(tags).__name__}")
    checked: dict[str, Any] = plain(tags or {}, "tags")
    return checked
