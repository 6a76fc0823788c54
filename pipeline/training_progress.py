"""A pool of workers at work, as a person watches it: a line for every task, and a bar on a terminal."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from . import code_changes, task_states
from .short_keys import shown
from .worker_pool import Assignment, Event, WorkerPool

if TYPE_CHECKING:
    from rich.progress import Progress

    from .settings import Settings

logger = logging.getLogger("trainloom")


def train(settings: Settings, processes: int, assignment: Assignment) -> int:
    """Train what the assignment asks for with that many processes and print how it goes; a session must be open.

    Returns the exit code of the pool.
    """
    ready = TrainingResult().key_source  # not the tasks that wait for others
    for restriction in assignment.restrictions:
        ready = ready & restriction
    pending = task_states.count(ready)[task_states.State.PENDING]
    total = pending if assignment.max_tasks is None else min(pending, assignment.max_tasks)
    code_changes.warn_if_changed(logger)
    if not total:
        print("There is nothing to train.")
        return 0
    count = min(processes, total)
    print(f"Training {_counted(total, 'task', 'tasks')} with {_counted(count, 'worker process', 'worker processes')}.")
    with TrainingProgress(total) as progress:
        return WorkerPool(settings, count, assignment).run(progress.report)


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
            self._done += 1
            self._total = max(self._total, self._done)  # tasks may be added meanwhile
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done, total=self._total)
            seconds = time.monotonic() - self._began.pop(key, time.monotonic())
            self._print(f"{self._done}/{self._total} {_outcome(key, event, seconds)}")
            return
        self._print(event.message)

    def _print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, flush=True)


def _outcome(key: str, event: Event, seconds: float) -> str:
    """One task in a line."""
    row: dict[str, Any] = task_states.rows(TrainingTask() & {task_states.TASK_KEY: key})[0]
    what = f"{shown(key)}  {row['model_class']}, {row['optimizer_class']}, seed {row['seed']}"
    if event.kind == "failed":
        return f"{what}: failed after {seconds:.1f} s: {event.message}"
    score = "no finite score" if row["test_score"] is None else f"test score {row['test_score']:.4f}"
    return f"{what}: {score}, {seconds:.1f} s"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
