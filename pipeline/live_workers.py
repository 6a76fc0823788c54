"""Who trains what right now, and how far it is; by the database's clock."""

from __future__ import annotations

from typing import Any

from schemas.attempt import Attempt
from schemas.model_config import ModelConfig
from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from . import holders
from .job_table import job_table
from .task_states import NOW, TASK_KEY, seconds_between

COLUMNS = {
    "task": f"j.{TASK_KEY}",
    "model_class": "m.model_class_name",
    "optimizer_class": "c.optimizer_class_name",
    "seed": "t.seed",
    **holders.COLUMNS,
    "epoch": "a.attempt_epoch",
    "epoch_limit": "c.epoch_limit",
    "step": "a.attempt_step",
    "loss": "a.attempt_loss",
}


def live_workers() -> list[dict[str, Any]]:
    """The holders of jobs, who began first before the others, as dicts.

    ``task`` is a key; ``model_class`` and ``optimizer_class`` are names; ``seed``; ``worker``, ``host``, ``pid``,
    ``pod``, ``namespace``, ``node`` and ``device`` say who holds it; ``epoch`` epochs of ``epoch_limit`` are done and
    ``step`` steps of the next; ``loss`` is that of the last epoch. ``seconds`` is how long the attempt has run,
    ``seconds_left`` how long it will at most if the other epochs take as long, None before the first one;
    ``beat_seconds`` the age of the last sign of life.
    """
    jobs, attempts = job_table(TrainingResult()), Attempt().full_table_name
    # An attempt goes on from a checkpoint of those before it: epochs that lay behind took none of its time.
    begun = (
        f"(SELECT MAX(b.attempt_epoch) FROM {attempts} AS b WHERE b.attempt_key = a.attempt_key "
        "AND b.attempt_table = a.attempt_table AND b.attempt_start < a.attempt_start AND b.attempt_checkpoints > 0)"
    )
    times = ("a.attempt_start", "j.reserved_time", NOW, begun)
    found = jobs.connection.query(
        f"SELECT {', '.join((*COLUMNS.values(), *times))} FROM {jobs.full_table_name} AS j "
        f"JOIN {TrainingTask().full_table_name} AS t ON t.{TASK_KEY} = j.{TASK_KEY} "
        f"{_joined('m', ModelConfig)} {_joined('c', TrainingConfig)} "
        # DataJoint's own workers hold jobs without an attempt.
        f"LEFT JOIN {attempts} AS a ON a.attempt_id = j.version "
        f"LEFT JOIN {Attempt.Pod().full_table_name} AS pod ON pod.attempt_id = j.version "
        "WHERE j.status = 'reserved' ORDER BY a.attempt_start, a.attempt_id"
    )
    return [_worker(values) for values in found.fetchall()]


def _joined(alias: str, table: Any) -> str:
    return f"JOIN {table().full_table_name} AS {alias} ON {alias}.{table.key_column} = t.{table.key_column}"


def _worker(values: tuple[Any, ...]) -> dict[str, Any]:
    worker = dict(zip(COLUMNS, values, strict=False))
    start, beat, now, begun = values[len(COLUMNS) :]
    seconds = seconds_between(start, now)
    return {
        **worker,
        "seconds": seconds,
        "seconds_left": seconds_left(seconds, worker["epoch"], worker["epoch_limit"], begun or 0),
        "beat_seconds": seconds_between(beat, now),
    }


def seconds_left(seconds: float | None, epoch: int | None, epoch_limit: int, begun: int) -> float | None:
    """How long the epochs that are left will take, by those that were done since `begun` within `seconds`."""
    if seconds is None or epoch is None or epoch <= begun:
        return None
    return seconds / (epoch - begun) * (epoch_limit - epoch)
