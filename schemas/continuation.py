"""Going on with a finished training for more epochs, as a task of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .dataset_config import DatasetConfig
from .errors import InvalidRow
from .hashing import text_of
from .identity import StoredText
from .model_config import ModelConfig
from .training_config import TrainingConfig

TASK = "training_task_md5_hash"
CHECKPOINT = "checkpoint"  # the kind of artifacts that are states of a training


def checkpoint_name(epoch: int) -> str:
    """What the artifact is called that holds a training's state after an epoch, counted from 1."""
    return f"checkpoint of epoch {epoch}"


def check(task: Mapping[str, Any], source: Mapping[str, Any], trainer: type) -> None:
    """Raise InvalidRow unless a new task can go on from the last state of another one.

    Dataset and model must be the same, and the training configurations but for the limit of epochs, which must be
    larger, run parameters, and the trainer's `continuation_params`: all else is in the state that is taken up.
    """
    short = source[TASK][:8]
    for table in (DatasetConfig, ModelConfig):
        if task[table.key_column] != source[table.key_column]:
            raise InvalidRow(
                f"a task goes on with the {table.__name__} that the other began with, which is "
                f"{source[table.key_column]}; to begin from the weights of {short}, leave out warm_start_kind"
            )
    before, now = (_stored(row[TrainingConfig.key_column]) for row in (source, task))
    free: frozenset[str] = getattr(trainer, "continuation_params", frozenset())
    difference = _difference(before, now, free)
    if difference is not None:
        raise InvalidRow(
            f"a task goes on with the training configuration that the other began with, and {difference}; only "
            f"epoch_limit and the trainer's {', '.join(sorted(free)) or 'run parameters'} may differ; to begin from "
            f"the weights of {short}, leave out warm_start_kind"
        )
    if now.fields["epoch_limit"] <= before.fields["epoch_limit"]:
        raise InvalidRow(
            f"the epoch_limit {now.fields['epoch_limit']} is that of all epochs together, and {short} has "
            f"{before.fields['epoch_limit']}; give more"
        )
    state = last_state(source)
    if state == "":
        raise InvalidRow(missing_state(source[TASK]))


def last_state(source: Mapping[str, Any]) -> str | None:
    """The sha256 of the last state of a finished task, empty where it kept none; None where it is not finished."""
    from .training_result import TrainingResult  # it refers to the tasks

    key = {TASK: source[TASK]}
    finished = (TrainingResult() & key).proj("epochs").to_dicts()
    if not finished:
        return None
    name = checkpoint_name(finished[0]["epochs"])
    kept = (TrainingResult.Artifact() & key & {"artifact_kind": CHECKPOINT, "artifact_name": name}).to_dicts()
    return kept[0]["artifact_sha256"] if kept else ""


def missing_state(source: str) -> str:
    """The sentence about a task that kept no last state."""
    return (
        f"the task {source[:8]} has kept no last state to go on from; train it again with "
        f"`trainloom task retrain {source[:8]}` and a worker with `--set keep_last_state=true`"
    )


def with_epoch_limit(key: str, epoch_limit: int) -> str:
    """The key of the training configuration that differs from this one in the limit of epochs only; it is inserted
    where it is not there."""
    table = TrainingConfig()
    stored = _stored(key)
    params = {slot.params: {**stored.complete[slot.params], **stored.run.get(slot.params, {})} for slot in table.slots}
    (found,) = table.insert_tuples({**stored.fields, **params, "epoch_limit": epoch_limit})
    return str(found[table.key_column])


def _stored(key: str) -> StoredText:
    table = TrainingConfig()
    return table.read((table & {table.key_column: key}).proj(table.text_column).fetch1())


def _difference(before: StoredText, now: StoredText, free: frozenset[str]) -> str | None:
    """The first thing that may not differ and does."""
    for column, value in now.fields.items():
        if column != "epoch_limit" and value != before.fields[column]:
            return f"its {column} is {before.fields[column]!r}, not {value!r}"
    for column, params in now.complete.items():
        others = before.complete[column]
        for name in [*params, *others]:
            if column == "trainer_class_params" and name in free:
                continue
            if name not in params or name not in others:  # which its class has gained or lost since
                continue
            if text_of(params[name]) != text_of(others[name]):
                return f"{name} of its {column} is {others[name]!r}, not {params[name]!r}"
    return None
