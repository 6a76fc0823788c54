"""A pool of workers at work, as a person watches it: a line for every task, and a bar on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from schemas.training_task import TrainingTask

from . import code_changes, gpu_locks, task_states
from .short_keys import shown
from .task_states import State
from .worker_pool import Assignment, Event, WorkerPool

if TYPE_CHECKING:
    from rich.progress import Progress

    from .settings import Settings

logger = logging.getLogger("trainloom")


def train(settings: Settings, processes: int, assignment: Assignment) -> int:
    """Train what the assignment asks for with that many processes and print how it goes; a session must be open.

    Returns the exit code of the pool.
    """
    tasks: Any = TrainingTask()
    for restriction in assignment.restrictions:
        tasks = tasks & restriction
    counts = task_states.count(tasks)
    due = counts[State.PENDING] + counts[State.RETRY]
    total = due if assignment.max_tasks is None else min(due, assignment.max_tasks)
    code_changes.warn_if_changed(logger)
    if not (total or counts[State.RUNNING] or assignment.watch):
        print("There is nothing to train.")
        return 0
    # Tasks that wait for others become ready meanwhile.
    useful = processes if assignment.watch else min(processes, max(1, due + counts[State.WAITING]))
    pool = WorkerPool(settings, useful, assignment, gpu_locks.available(settings.device))
    if total or assignment.watch:
        workers = _counted(useful, "worker process", "worker processes")
        then = ", then waiting for more" if assignment.watch else ""
        print(f"Training {_counted(total, 'task', 'tasks')} with {workers}{then}.", flush=True)
    else:
        held = _counted(counts[State.RUNNING], "task", "tasks")
        print(f"Other workers hold {held}; looking whether they live.", flush=True)
    with TrainingProgress(total) as progress:
        return pool.run(progress.report)


class TrainingProgress:
    """Prints the events of a pool."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._began: dict[str, float] = {}
        self._bar: Progress | None = None

    def __enter__(self) -> TrainingProgress:
        if sys.stdout.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task("training", total=self._total)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def report(self, event: Event) -> None:
        """Print what happened."""
        key = event.key.get(task_states.TASK_KEY, "")
        if event.kind == "taken":
            self._began[key] = time.monotonic()
            return
        if event.kind in ("made", "failed"):
            self._print(self._outcome(key, event))
            return
        self._print(event.message)

    def _outcome(self, key: str, event: Event) -> str:
        """How the attempt at a task ended, in a line."""
        seconds = time.monotonic() - self._began.pop(key, time.monotonic())
        row = next(iter(task_states.rows(TrainingTask() & {task_states.TASK_KEY: key})), None)
        if row is None:
            return f"{shown(key)}  was deleted meanwhile"
        what = f"{shown(key)}  {row['model_class']}, {row['optimizer_class']}, seed {row['seed']}"
        if event.kind == "failed":
            failed = f"{what}: failed after {seconds:.1f} s: {event.message}"
            return f"{self._counted()} {failed}" if row["state"] == State.ERROR else f"{failed}; it is tried again"
        score = "no finite score" if row["test_score"] is None else f"test score {row['test_score']:.4f}"
        return f"{self._counted()} {what}: {score}, {seconds:.1f} s"

    def _counted(self) -> str:
        """Count a task that is done with."""
        self._done += 1
        self._total = max(self._total, self._done)  # tasks may be added meanwhile
        if self._bar is not None:
            self._bar.update(self._task, completed=self._done, total=self._total)
        return f"{self._done}/{self._total}"

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
