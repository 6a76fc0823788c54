"""The steps of a streaming pipeline in threads."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from datasets_impl.pipeline_step import PipelineStep, StepRunner
from datasets_impl.worker_crew import Failure, Result

logger = logging.getLogger(__name__)

JOIN_SECONDS = 10.0  # for which the call that a worker is in may still last; a thread cannot be ended from outside

_ROOM = object()  # stands among the results when a first queue has room again, and this is waited for


class BoundedQueue:
    """Minibatches on their way to a step.

    Two queues without a bound that run in C make one with a bound: one holds what waits, one a token for each free
    place. It is several times as fast as `queue.Queue`.
    """

    def __init__(self, length: int) -> None:
        self._waiting: SimpleQueue[Any] = SimpleQueue()
        self._free: SimpleQueue[None] = SimpleQueue()
        self.take = self._waiting.get
        for _ in range(length):
            self._free.put(None)

    def put(self, task: Any) -> None:
        """Append a task; waits for a free place."""
        self._free.get()
        self._waiting.put(task)

    def has_room(self) -> bool:
        """Whether a place is free."""
        return not self._free.empty()

    def taken(self) -> None:
        """Say that a task was taken out."""
        self._free.put(None)

    def release(self, waiters: int) -> None:
        """Let whoever waits, at most so many on each side, go on."""
        for _ in range(waiters):
            self._waiting.put(None)
            self._free.put(None)


class ThreadCrew:
    """A `WorkerCrew` of threads."""

    def __init__(self, branches: Sequence[Sequence[PipelineStep]], aligned: bool) -> None:
        self._results: SimpleQueue[Any] = SimpleQueue()
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._queues = [[BoundedQueue(step.queue) for step in steps] for steps in branches]
        self._wants_room = False
        self._waiters = sum(step.workers for steps in branches for step in steps)
        try:
            for branch, steps in enumerate(branches):
                for place, step in enumerate(steps):
                    self._start_step(branch, place, step, aligned)
        except BaseException:
            self.close(finished=False)
            raise

    def _start_step(self, branch: int, place: int, step: PipelineStep, aligned: bool) -> None:
        queues = self._queues[branch]
        taken = queues[place].taken if place else self._taken_from(queues[place])
        forward = queues[place + 1].put if place + 1 < len(queues) else self._result_of(branch)
        for worker in range(step.workers):
            thread = threading.Thread(
                target=self._work,
                args=(step.runner(worker, aligned), worker, queues[place].take, taken, forward),
                name=f"{step.name}-{worker}",
                daemon=True,
            )
            thread.start()
            self._threads.append(thread)

    def _taken_from(self, first: BoundedQueue) -> Callable[[], None]:
        def taken() -> None:
            first.taken()
            if self._wants_room:
                self._wants_room = False
                self._results.put(_ROOM)

        return taken

    def _result_of(self, branch: int) -> Callable[[Any], None]:
        put = self._results.put
        return lambda task: put(Result(branch, *task))

    def _work(
        self,
        runner: StepRunner,
        worker: int,
        take: Callable[[], Any],
        taken: Callable[[], None],
        forward: Callable[[Any], None],
    ) -> None:
        while (task := take()) is not None and not self._stopped:
            taken()
            batch, items = task
            try:
                results = runner(batch, items)
            except BaseException as error:
                self._results.put(Failure.of(error, runner.name, worker, batch))
                return
            # Nothing may keep a minibatch alive that is on its way already: it can be large.
            del task, items
            forward((batch, results))
            del results

    def has_room(self) -> bool:
        """Whether the first queue of every branch takes another minibatch now."""
        return all(queues[0].has_room() for queues in self._queues)

    def put(self, batch: int, items: Any) -> None:
        """Send a minibatch to every branch; only after `has_room`."""
        for queues in self._queues:
            queues[0].put((batch, items))

    def get(self, block: bool, or_room: bool = False) -> Result | None:
        """Return the next result, or None; see `WorkerCrew`."""
        results = self._results
        if results.empty():
            if not block:
                return None
            # Said before it is looked for: a place that becomes free after the look is told of.
            self._wants_room = or_room
            if or_room and self.has_room():
                return None
        found = results.get()
        if type(found) is Result:
            return found
        if type(found) is Failure:
            found.throw()
        return None

    def close(self, finished: bool) -> None:
        """End all threads; those that are in a call of their step end after it."""
        self._stopped = True
        for queues in self._queues:
            for queue in queues:
                queue.release(self._waiters)
        deadline = time.monotonic() + JOIN_SECONDS
        for thread in self._threads:
            # The last reference to a stream may be dropped in one of its own steps.
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))
                if thread.is_alive():
                    logger.warning("worker %s is still in its step; it ends after it", thread.name)
        self._threads.clear()
