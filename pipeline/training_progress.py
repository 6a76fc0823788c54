"""A pool of workers at work, as a person watches it: a line for every task, and on a terminal a table of what
runs."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import code_changes, gpu_locks
from .gpu_choice import AUTO
from .reporters import choice
from .reporters.pool_display import PoolDisplay
from .reporters.pool_view import PROGRESS, Snapshot
from .reporters.value_format import ValueFormats
from .short_keys import shown
from .task_kind import KINDS, PREDICTIONS, SCRIPTS, TRAININGS, TaskKind, served
from .task_states import State
from .worker_pool import Assignment, Event, WorkerPool

if TYPE_CHECKING:
    from .settings import Settings

logger = logging.getLogger("trainloom")


def train(settings: Settings, processes: int, assignment: Assignment) -> int:
    """Do what the assignment asks for with that many processes and print how it goes; a session must be open.

    Returns the exit code of the pool.
    """
    kinds = served(settings, assignment.table, assignment.restriction)
    counts = {kind.name: kind.count(_chosen(kind, assignment)) for kind in kinds}
    due = {name: states[State.PENDING] + states[State.RETRY] for name, states in counts.items()}
    running = sum(states[State.RUNNING] for states in counts.values())
    total = sum(due.values()) if assignment.max_tasks is None else min(sum(due.values()), assignment.max_tasks)
    code_changes.warn_if_changed(logger)
    _tell_what_is_left_alone(kinds, assignment)
    if not (total or running or assignment.watch):
        print(_nothing(kinds))
        return 0
    # Tasks that wait for others become ready meanwhile.
    waiting = sum(states[State.WAITING] for states in counts.values())
    useful = processes if assignment.watch else min(processes, max(1, sum(due.values()) + waiting))
    gpus = gpu_locks.available(settings.device)
    pool = WorkerPool(settings, useful, assignment, gpus)
    if total or assignment.watch:
        workers = _counted(useful, "worker process", "worker processes")
        then = ", then waiting for more" if assignment.watch else ""
        print(f"{_doing(due, total)} with {workers}{then}.", flush=True)
    else:
        held = _counted(running, "task", "tasks")
        print(f"Other workers hold {held}; looking whether they live.", flush=True)
    if not gpus and settings.device == AUTO and TRAININGS.name in due:
        print("Trainings run on the CPU: torch can use no GPU here.", flush=True)
    with TrainingProgress(total, settings) as progress:
        return pool.run(progress.report)


def _chosen(kind: TaskKind, assignment: Assignment) -> Any:
    """The tasks of a kind that the assignment asks for; None for all."""
    if not assignment.restrictions:
        return None
    tasks = kind.tasks()
    for restriction in assignment.restrictions:
        tasks = tasks & restriction
    return tasks


def _nothing(kinds: Sequence[TaskKind]) -> str:
    """That nothing waits, in words."""
    if list(kinds) == [SCRIPTS]:
        return "There are no scripts to run."
    return "There is nothing to predict." if list(kinds) == [PREDICTIONS] else "There is nothing to train."


def _doing(due: Mapping[str, int], total: int) -> str:
    """What is about to begin, in words; `due` is the number of tasks by kind."""
    kinds = [KINDS[name] for name in due]
    waiting = [kind for kind in kinds if due[kind.name]]
    if len(waiting) > 1:
        listed = [_counted(due[kind.name], kind.one, kind.name) for kind in waiting]
        return f"Doing {_counted(total, 'task', 'tasks')} of {', '.join(listed[:-1])} and {listed[-1]}"
    (kind,) = waiting or kinds[:1]
    named = ("script", "scripts") if kind is SCRIPTS else ("task", "tasks")
    return f"{kind.doing} {_counted(total, *named)}"


def _tell_what_is_left_alone(kinds: Sequence[TaskKind], assignment: Assignment) -> None:
    """Say once that scripts wait which are not allowed here; nobody asked for trainings alone."""
    if SCRIPTS in kinds or assignment.table is not None or assignment.restriction is not None:
        return
    counts = SCRIPTS.count()
    waiting = counts[State.PENDING] + counts[State.RETRY]
    if waiting:
        print(
            f"{_counted(waiting, 'script task is', 'script tasks are')} left alone, since scripts are not allowed "
            "here; set TRAINLOOM_ALLOW_SCRIPTS=true where you trust everybody who can write rows.",
            flush=True,
        )


class TrainingProgress:
    """Prints the events of a pool; below the lines a table of what runs, on a terminal."""

    def __init__(self, total: int, settings: Settings) -> None:
        self._total = total
        self._done = 0
        self._began: dict[str, float] = {}
        self._display = PoolDisplay(choice.kind(settings, sys.stdout), ValueFormats(settings.value_formats), total)

    def __enter__(self) -> TrainingProgress:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def report(self, event: Event) -> None:
        """Show what happened."""
        key = next(iter(event.key.values()), "")
        if event.kind == PROGRESS:
            if key in self._began:
                self._display.update(Snapshot.read(event.message))
        elif event.kind == "taken":
            self._began[key] = time.monotonic()
        elif event.kind in ("made", "failed"):
            self._display.ended(key)
            self._display.print(self._outcome(key, event))
        else:
            self._display.print(event.message)

    def _outcome(self, key: str, event: Event) -> str:
        """How the attempt at a task ended, in a line."""
        seconds = time.monotonic() - self._began.pop(key, time.monotonic())
        kind = next(kind for kind in KINDS.values() if kind.key in event.key)
        row = next(iter(kind.rows(kind.tasks() & {kind.key: key})), None)
        if row is None:
            return f"{shown(key)}  was deleted meanwhile"
        what, came_to = TOLD[kind.name](row)
        if event.kind == "failed":
            return self._failure(f"{shown(key)}  {what}", seconds, event, row["state"])
        return f"{self._counted()} {shown(key)}  {what}: {came_to}, {seconds:.1f} s"

    def _failure(self, what: str, seconds: float, event: Event, state: str) -> str:
        failed = f"{what}: failed after {seconds:.1f} s: {event.message}"
        return f"{self._counted()} {failed}" if state == State.ERROR else f"{failed}; it is tried again"

    def _counted(self) -> str:
        """Count a task that is done with."""
        self._done += 1
        self._total = max(self._total, self._done)  # tasks may be added meanwhile
        self._display.count(self._done, self._total)
        return f"{self._done}/{self._total}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _training(row: Mapping[str, Any]) -> tuple[str, str]:
    score = "no finite score" if row["test_score"] is None else f"test score {row['test_score']:.4f}"
    return f"{row['model_class']}, {row['optimizer_class']}, seed {row['seed']}", score


def _prediction(row: Mapping[str, Any]) -> tuple[str, str]:
    score = "" if row["score"] is None else f", score {row['score']:.4f}"
    data = " ".join(filter(None, (row["data"], row["tier"])))
    return f"{row['model_class']} on {data}", f"{_counted(row['count'] or 0, 'example', 'examples')}{score}"


def _script(row: Mapping[str, Any]) -> tuple[str, str]:
    return f"{row['name']}, {row['file_name']}", "run"


TOLD: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str]]] = {
    TRAININGS.name: _training,
    PREDICTIONS.name: _prediction,
    SCRIPTS.name: _script,
}
"""Kind to what a line says of a task and of what it came to."""
