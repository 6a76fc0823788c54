"""The kinds of tasks that workers serve: trainings, predictions and scripts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.prediction import Prediction
from schemas.prediction_task import KEY as PREDICTION_KEY
from schemas.prediction_task import PredictionTask
from schemas.script_result import ScriptResult
from schemas.script_task import KEY as SCRIPT_KEY
from schemas.script_task import ScriptTask
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from . import prediction_states, script_states, task_states
from .script_runner import ScriptsNotAllowed, check_allowed
from .short_keys import AmbiguousKey, UnknownKey, full_key

if TYPE_CHECKING:
    from .settings import Settings


@dataclass(frozen=True)
class TaskKind:
    """One kind.

    Attributes
    ----------
    name, one : as commands call them, and one of them.
    doing : what a worker does with them.
    tasks, results : the tables.
    key : the column that both tables have as primary key.
    count, rows : where its tasks stand; see `task_states`.
    """

    name: str
    one: str
    doing: str
    tasks: Any
    results: Any
    key: str
    count: Callable[..., dict[str, int]]
    rows: Callable[..., list[dict[str, Any]]]

    @property
    def participle(self) -> str:
        """What a finished task of the kind is, in sentences: ``trained``, ``predicted`` or ``run``."""
        return str(self.results.participle)


TRAININGS = TaskKind(
    "trainings",
    "training",
    "Training",
    TrainingTask,
    TrainingResult,
    task_states.TASK_KEY,
    task_states.count,
    task_states.rows,
)
PREDICTIONS = TaskKind(
    "predictions",
    "prediction",
    "Predicting",
    PredictionTask,
    Prediction,
    PREDICTION_KEY,
    prediction_states.count,
    prediction_states.rows,
)
SCRIPTS = TaskKind(
    "scripts", "script", "Running", ScriptTask, ScriptResult, SCRIPT_KEY, script_states.count, script_states.rows
)
KINDS = {kind.name: kind for kind in (TRAININGS, PREDICTIONS, SCRIPTS)}


def named(typed: str, kinds: Iterable[TaskKind] = tuple(KINDS.values())) -> tuple[TaskKind, str]:
    """The kind and the key of the one task, of one of these kinds, whose key begins with what was typed.

    Raises
    ------
    UnknownKey
        If there is no such task, or more than one; then the message lists them.
    """
    found: dict[str, TaskKind] = {}
    unknown: UnknownKey | None = None
    for kind in kinds:
        try:
            found[full_key(kind.tasks, typed)] = kind
        except AmbiguousKey:
            raise
        except UnknownKey as error:
            unknown = unknown or error  # the first: most tasks are trainings
    if len(found) > 1:
        listed = " and ".join(f"a {kind.one}" for kind in found.values())
        raise AmbiguousKey(
            f"{listed} task have keys that begin with {typed}: {', '.join(sorted(found))}; give more characters"
        )
    if unknown is not None and not found:
        raise unknown
    ((key, kind),) = found.items()
    return kind, key


def served(settings: Settings, table: str | None, restriction: str | None) -> tuple[TaskKind, ...]:
    """The kinds that a worker serves.

    Parameters
    ----------
    table : the name of the only kind that it is to serve; None for all that it may.
    restriction : an SQL condition on tasks; without `table` one on trainings.

    Raises
    ------
    ScriptsNotAllowed
        If only scripts are asked for, and this session runs none.
    """
    if table is not None:
        if KINDS[table] is SCRIPTS:
            check_allowed(settings)
        return (KINDS[table],)
    if restriction is not None:
        return (TRAININGS,)
    try:
        check_allowed(settings)
    except ScriptsNotAllowed:
        return TRAININGS, PREDICTIONS
    return TRAININGS, PREDICTIONS, SCRIPTS
