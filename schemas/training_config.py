"""How a model is trained: trainer, batch size, epochs, optimizer and criterion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import datajoint as dj

from .config_table import MAX_INT32, ClassSlot, ConfigTable, class_slot
from .errors import InvalidRow
from .hashing import plain
from .schema import schema


@schema
class TrainingConfig(ConfigTable, dj.Manual):
    """A trainer, optimizer and criterion with their parameters, the batch size and the limit of epochs."""

    definition = """
    # How a model is trained
    training_config_md5_hash    : char(32)     # md5 of the content of this row
    ---
    trainer_class_module_name   : varchar(255)
    trainer_class_name          : varchar(255)
    trainer_class_params        : json
    batch_size                  : int32        # examples
    epoch_limit                 : int32        # epochs
    optimizer_class_module_name : varchar(255)
    optimizer_class_name        : varchar(255)
    optimizer_class_params      : json
    criterion_class_module_name : varchar(255)
    criterion_class_name        : varchar(255)
    criterion_class_params      : json
    training_config_text        : json         # the text the key was made of
    """

    key_column = "training_config_md5_hash"
    text_column = "training_config_text"
    label = "training_config"
    slots: ClassVar[tuple[ClassSlot, ...]] = (
        class_slot("trainer", "trainer"),
        class_slot("optimizer", "optimizer"),
        class_slot("criterion", "criterion"),
    )
    required: ClassVar[tuple[str, ...]] = (
        "batch_size",
        "epoch_limit",
        "optimizer_class_module_name",
        "optimizer_class_name",
        "criterion_class_module_name",
        "criterion_class_name",
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        "trainer_class_module_name": "trainers.nn_trainer",
        "trainer_class_name": "NNTrainer",
        "trainer_class_params": {},
        "optimizer_class_params": {},
        "criterion_class_params": {},
    }

    def _field(self, column: str, value: Any) -> Any:
        if column not in ("batch_size", "epoch_limit"):
            return super()._field(column, value)
        checked = plain(value, column)
        if isinstance(checked, bool) or not isinstance(checked, int) or not 1 <= checked <= MAX_INT32:
            raise InvalidRow(f"{column} must be a whole number from 1 to {MAX_INT32}, not {value!r}")
        return checked
