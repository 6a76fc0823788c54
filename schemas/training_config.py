"""How a model is trained: trainer, batch size, epochs, optimizer and criterion."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, ClassVar

import datajoint as dj

from .binding import services
from .config_table import MAX_INT32, ClassSlot, ConfigTable, class_slot
from .errors import InvalidRow
from .hashing import plain
from .parameters import Bound, bind
from .schema import Connected, schema, transaction

ORDINARY: Mapping[str, int] = {"devices": 1, "gpu_memory": 0, "memory": 0}  # what every worker can give


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

    class Need(Connected, dj.Part):
        """What a training asks of its worker, where that is more than one device."""

        definition = """
        -> master
        ---
        need_devices    : int32
        need_gpu_memory : int64  # bytes of each GPU; 0 for any, or none
        need_memory     : int64  # bytes of the machine's memory; 0 for any
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

    def _bind(self, slot: ClassSlot, row: Mapping[str, Any]) -> Bound:
        bound = super()._bind(slot, row)
        if slot.kind != "trainer":
            return bound
        resolver = services(type(self).__name__).resolver
        named = scheduler_named(resolver.resolve(row[slot.module], row[slot.name], slot.kind), bound.complete)
        if named is not None:
            signature = resolver.signature(*named, "scheduler")
            bind(signature, bound.complete.get("scheduler_class_params", {}), f"{slot.params}.scheduler_class_params")
        return bound

    def _write(self, rows: list[dict[str, Any]]) -> None:
        needs = [need for row in rows if (need := self._need(row)) is not None]
        if not needs:
            super()._write(rows)
            return
        with transaction(self.connection):
            super()._write(rows)
            self.Need().insert(needs, skip_duplicates=True)

    def _need(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row of `Need` of a complete row, if it has one; `needs` of a trainer class gives it."""
        resolver = services(type(self).__name__).resolver
        trainer = resolver.resolve(row["trainer_class_module_name"], row["trainer_class_name"], "trainer")
        needs = getattr(trainer, "needs", None)
        asked = {**ORDINARY, **({} if needs is None else needs(row["trainer_class_params"]))}
        if asked == ORDINARY:
            return None
        return {self.key_column: row[self.key_column], **{f"need_{name}": asked[name] for name in ORDINARY}}

    def _field(self, column: str, value: Any) -> Any:
        if column not in ("batch_size", "epoch_limit"):
            return super()._field(column, value)
        checked = plain(value, column)
        if isinstance(checked, bool) or not isinstance(checked, int) or not 1 <= checked <= MAX_INT32:
            raise InvalidRow(f"{column} must be a whole number from 1 to {MAX_INT32}, not {value!r}")
        return checked


def scheduler_named(trainer: type, trainer_params: Mapping[str, Any]) -> tuple[str, str] | None:
    """Module and name of the scheduler class that a trainer's parameters name and its constructor is handed, if so."""
    module, name = trainer_params.get("scheduler_module_name"), trainer_params.get("scheduler_class_name")
    if module is None or name is None or "scheduler_class" not in inspect.signature(trainer).parameters:
        return None
    return module, name
