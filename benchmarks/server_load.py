"""What workers ask of one PostgreSQL server, counted and weighed, and what that makes for a thousand of them."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil

from benchmarks.comparison import Check
from benchmarks.lease_cost import write_examples
from benchmarks.mlp_task import insert_configurations
from benchmarks.scratch_project import COMMAND, scratch_project
from benchmarks.statement_log import logged_statements
from pipeline.heartbeat_process import beat_statement
from pipeline.queue import Queue
from pipeline.services import PostgresServer
from pipeline.shift import Shift
from pipeline.stop import StopSignal
from schemas.binding import services
from trainloom import ScriptResult, Session, TrainingResult, TrainingTask

if TYPE_CHECKING:
    from pipeline.runner import TaskRunner

WORKERS = 1_000
BEATS_APART, POLLS_APART = 15.0, 5.0
"""Seconds; the defaults of `heartbeat_seconds` and `poll_seconds`."""
TASKS_LAST = (60, 600, 3600)
"""Seconds that a training takes, for which the load is told."""
EXAMPLES = {"train": 256, "validation": 128, "test": 128}
STARTS, TASKS_EACH, STATEMENTS_EACH = 5, 10, 200
"""How often something is done to weigh it: starts of a worker; tasks, and beats and polls, for each pair."""

OPTIONS = {
    "order": "original",
    "max_calls": 1,
    "priority": None,
    "refresh": None,
    "make_kwargs": None,
    "suppress_errors": True,
    "return_exception_objects": False,
}

Weight = tuple[float, float]
"""Statements and the server's seconds of CPU."""


def measure(pairs: int) -> list[Check]:
    """Count and weigh, and multiply."""
    with tempfile.TemporaryDirectory() as folder:
        write_examples(Path(folder), EXAMPLES)
        with scratch_project(dataset_dir=folder) as session:
            keys = insert_configurations(hidden=8, epochs=1)
            TrainingTask().insert_tuples([{**keys, "seed": seed} for seed in range(TASKS_EACH * pairs + 3)])
            task = _weighed(session, TASKS_EACH * pairs, _train)
            queue = Queue(TrainingResult())
            claim = queue.claim()
            assert claim is not None, "one task was left"
            jobs, attempts = queue.full_names
            held = {"number": 1, "jobs": jobs, "attempts": attempts, "key": claim.key, "attempt": claim.attempt}
            statement, values = beat_statement("postgresql", held, 1, 1, 0.5)
            beat = _weighed(session, STATEMENTS_EACH * pairs, lambda: session.connection.query(statement, values))
            poll = _weighed(session, STATEMENTS_EACH * pairs, _shift().seconds_to_next)
            queue.drop(claim, "it was for the beats")
            start = _weighed(session, STARTS, _start_worker)
    parts = {"the start and end of a worker": start, "a task, without beats": task, "a beat": beat, "a poll": poll}
    told = [
        Check(f"PostgreSQL: {name}", None, f"{statements:.0f} statements, {1000 * cpu:.2f} ms of its CPU")
        for name, (statements, cpu) in parts.items()
    ]
    for seconds in TASKS_LAST:
        load = [(task, WORKERS / seconds), (beat, WORKERS / BEATS_APART)]
        told.append(_load(f"{WORKERS:,} workers whose tasks last {seconds:,} s", load))
    return [*told, _load(f"{WORKERS:,} workers that wait for tasks", [(poll, WORKERS / POLLS_APART)])]


def _load(name: str, parts: list[tuple[Weight, float]]) -> Check:
    """The sum of parts, each with how often it comes per second."""
    statements = sum(weight[0] * often for weight, often in parts)
    cores = sum(weight[1] * often for weight, often in parts)
    return Check(name, None, f"{statements:,.0f} statements/s, {cores:.2f} cores")


def _weighed(session: Session, count: int, work: Callable[[], object]) -> Weight:
    """The weight of what `work` does; it is done so many times, and twice more."""
    work()  # whatever is only done once
    with logged_statements(session) as since:
        work()
        statements = len(since())
    before = _cpu(session)
    for _ in range(count):
        work()
    return statements, (_cpu(session) - before) / count


def _cpu(session: Session) -> float:
    """Seconds of CPU that the server has used so far, in processes that have ended too."""
    server = psutil.Process(
        int(PostgresServer(session.home).data_dir.joinpath("postmaster.pid").read_text().split()[0])
    )
    own = server.cpu_times()
    times = [own, *(child.cpu_times() for child in server.children())]
    return sum(time.user + time.system for time in times) + own.children_user + own.children_system


def _train() -> None:
    shift = _shift()
    shift.run()
    if shift.success != 1:
        raise RuntimeError(f"one task was to be trained: {shift.errors}")


def _shift() -> Shift:
    """A worker as `trainloom worker` has it, of trainings and of scripts, for one task."""
    runner = cast("TaskRunner", services("a benchmark").runner)
    return runner.new_shift([(TrainingResult(), ()), (ScriptResult(), ())], OPTIONS, StopSignal())


def _start_worker() -> None:
    subprocess.run([COMMAND, "worker", "--once"], check=True, stdout=subprocess.DEVNULL)
