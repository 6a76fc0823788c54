"""Workers on one project, and faults that hit them at random."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from pipeline.errors import DatabaseUnavailable
from pipeline.session import Session
from tests.integration import held_worker, small_tasks
from trainloom import TrainingResult, connect

ENDED_BY_US = (-signal.SIGKILL, 143, -signal.SIGTERM, 0)  # SIGTERM ends at once what is not populating
PAUSE = 0.05  # s between looks at the workers


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Attributes
    ----------
    workers : processes at any time.
    seconds : for how long faults come.
    gap : s between two faults, on average.
    longest_nap : s for which a worker is stopped at most; longer than a lease.
    limit : s after the last fault in which everything must be done.
    """

    workers: int = 8
    seconds: float = 60.0
    gap: float = 0.4
    longest_nap: float = 6.0
    limit: float = 240.0


class Chaos:
    """Keeps workers running until every task has its result, and disturbs them meanwhile.

    Attributes
    ----------
    faults : how many there were, by name.
    crashes : the ends of the logs of workers that ended by themselves before everything was done.
    """

    def __init__(self, session: Session, plan: Plan, logs: Path, tasks: int, seed: int) -> None:
        self.faults: Counter[str] = Counter()
        self.crashes: list[str] = []
        self._session = session
        self._plan = plan
        self._logs = logs
        self._tasks = tasks
        self._random = random.Random(seed)
        self._workers: list[BaseProcess] = []
        self._naps: dict[int, float] = {}  # process id to when it wakes
        self._started = 0

    def run(self) -> None:
        """Return when every task has its result; fail if that takes too long."""
        began = time.monotonic()
        next_fault, end = began + self._plan.gap, began + self._plan.seconds
        try:
            while (done := len(TrainingResult())) < self._tasks:
                now = time.monotonic()
                assert now < end + self._plan.limit, f"{done} of {self._tasks} results, {dict(self.faults)}"
                self._replace_ended()
                self._wake(now)
                if next_fault <= now < end:
                    self._disturb(now)
                    next_fault = now + self._random.expovariate(1 / self._plan.gap)
                time.sleep(PAUSE)
            self._wake(float("inf"))
            for worker in self._workers:
                worker.join(held_worker.LIMIT)
                assert worker.exitcode in ENDED_BY_US, f"a worker ended with {worker.exitcode} when all was done"
        finally:
            for worker in self._workers:
                worker.kill()
                worker.join()

    def _replace_ended(self) -> None:
        for worker in [worker for worker in self._workers if not worker.is_alive()]:
            self._workers.remove(worker)
            self._naps.pop(worker.pid or 0, None)
            if worker.exitcode not in ENDED_BY_US:
                said = (self._logs / f"{worker.name}.log").read_text()
                self.crashes.append(f"exit code {worker.exitcode}: {said[-2000:]}")
        while len(self._workers) < self._plan.workers:
            self._started += 1
            self._workers.append(self._start(f"worker-{self._started}"))

    def _start(self, name: str) -> BaseProcess:
        environment = {key: value for key, value in os.environ.items() if key.startswith("TRAINLOOM_")}
        arguments = (self._logs / f"{name}.log", held_worker.PATHS, environment, self._tasks)
        worker = held_worker.CONTEXT.Process(target=work, args=arguments, name=name)
        worker.start()
        return worker

    def _wake(self, now: float) -> None:
        for pid, until in [*self._naps.items()]:
            if until <= now:
                del self._naps[pid]
                _signal(pid, signal.SIGCONT)

    def _disturb(self, now: float) -> None:
        faults: dict[str, Callable[[], None]] = {
            "SIGKILL": lambda: self._send(signal.SIGKILL),
            "SIGTERM": lambda: self._send(signal.SIGTERM),
            "SIGSTOP": lambda: self._stop(now),
            "connection cut": lambda: self._cut(1),
            "all connections cut": lambda: self._cut(None),
        }
        name = self._random.choices([*faults], weights=[4, 2, 3, 4, 1])[0]
        faults[name]()
        self.faults[name] += 1

    def _victim(self) -> int:
        pid = self._random.choice(self._workers).pid
        assert pid is not None, "it was started"
        return pid

    def _send(self, number: signal.Signals) -> None:
        _signal(self._victim(), number)  # one that sleeps gets it when it wakes, or dies in its sleep

    def _stop(self, now: float) -> None:
        victim = self._victim()
        _signal(victim, signal.SIGSTOP)
        self._naps[victim] = now + self._random.uniform(0.1, self._plan.longest_nap)

    def _cut(self, count: int | None) -> None:
        """Kill that many connections to the database, or all, but this process's own."""
        with suppress(DatabaseUnavailable):  # the server is just being started again
            small_tasks.cut_connections(
                self._session,
                lambda found: found if count is None else self._random.sample(found, min(count, len(found))),
            )


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it has ended just now
        os.kill(pid, number)


def work(log: Path, paths: list[str], environment: dict[str, str], tasks: int) -> None:
    """A worker process: populates until so many results are there."""
    held_worker.settle_in(log, paths, environment)
    try:
        session = connect()
    except DatabaseUnavailable:  # cut off before it had begun: another one is started
        return
    with session:
        while len(TrainingResult()) < tasks:
            TrainingResult().populate(reserve_jobs=True, suppress_errors=True, order="random")
            time.sleep(PAUSE)
