"""A worker process of a streaming pipeline: it takes minibatches, calls its step, and passes on what comes out."""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from queue import SimpleQueue
from typing import Any

from datasets_impl.allocator import keep_freed_memory
from datasets_impl.errors import StreamingError
from datasets_impl.memory_segment import SegmentPool, SpareSegments
from datasets_impl.object_channel import ObjectChannel, Parcel, PeerGoneError, UnreadableMessageError
from datasets_impl.pipeline_step import StepRunner
from datasets_impl.worker_crew import Failure

QUICK_SECONDS = 1e-4  # a call of a step up to which a packet for each result costs more than waiting for the next ones
NO_BATCH = -1
PLACE = struct.Struct("q")  # which minibatch a worker is at, where the parent can read it when the worker is gone


class HandedFd:
    """A file descriptor that is passed to a process while it is spawned."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.fd),)


def _received(duplicate: Any) -> HandedFd:
    return HandedFd(duplicate.detach())


@dataclass
class WorkerRecipe:
    """What a worker process is started with.

    Attributes:
        runner: the pickled `StepRunner`.
        step, worker, branch: who it is.
        inlet, inlet_room: where minibatches come from, and the count of places that it frees by taking one.
        told_after: how many places may be free before they are told of, while the step is quick.
        together: how many small results may travel together, while the step is quick.
        onward, onward_room: the next step's, which it fills; None after the last step.
        outlet: where results, failures and log records go.
        spare: segments that others have too many of.
        places, place: the shared page of `PLACE`s, and its own among them.
        log_levels: of the parent's loggers by name; the root's is "".
    """

    runner: bytes
    step: str
    worker: int
    branch: int
    inlet: socket.socket
    inlet_room: HandedFd
    told_after: int
    together: int
    onward: socket.socket | None
    onward_room: HandedFd | None
    outlet: socket.socket
    spare: SpareSegments
    places: HandedFd
    place: int
    log_levels: dict[str, int]


def main(recipe: WorkerRecipe) -> None:
    """Work until nobody sends any more, or nobody wants what comes out."""
    # Ctrl-C in a terminal reaches every process of it; what follows from it, the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    keep_freed_memory()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _send_logs(recipe)
    pool = SegmentPool(recipe.spare)
    outlet = ObjectChannel(recipe.outlet, pool)
    worker = _Worker(recipe, outlet, pool)
    try:
        worker.serve(pickle.loads(recipe.runner))
    except PeerGoneError:
        pass  # the end, or the pipeline was left, or another worker failed
    except BaseException as error:
        failure = Failure.of(error, recipe.step, recipe.worker, worker.batch)
        with suppress(PeerGoneError):
            outlet.send(failure._replace(error=_travelling(error)))


class _Worker:
    """What a worker process has in its hands."""

    def __init__(self, recipe: WorkerRecipe, outlet: ObjectChannel, pool: SegmentPool) -> None:
        self.batch: int | None = None
        self._recipe = recipe
        self._inlet = ObjectChannel(recipe.inlet, pool)
        self._onward = _Onward(recipe, outlet, pool)
        self._places = mmap.mmap(recipe.places.fd, 0)
        self._taken = 0  # minibatches whose places were not told of yet
        self._quick = True

    def serve(self, runner: StepRunner) -> None:
        """Take minibatches until nobody sends any more, or nobody wants what comes out: a `PeerGoneError`."""
        offset = self._recipe.place * PLACE.size
        while True:
            try:
                self.batch, items = self._next()
            except UnreadableMessageError as error:
                raise StreamingError(
                    f"a minibatch cannot be rebuilt in the process of step {runner.name!r} ({error}): give others, or "
                    "use threads."
                ) from error
            PLACE.pack_into(self._places, offset, self.batch)
            started = time.perf_counter()
            results = runner(self.batch, items)
            self._quick = time.perf_counter() - started < QUICK_SECONDS
            # Nothing may keep a minibatch alive that is on its way already: it can be large.
            del items
            self._onward.pass_on(self.batch, results, hold=self._quick)
            del results
            PLACE.pack_into(self._places, offset, NO_BATCH)
            self.batch = None

    def _next(self) -> Any:
        """The next minibatch. Before this worker waits, it tells and passes on everything that it has held back."""
        try:
            found = self._inlet.receive(wait=not (self._taken or self._onward.held))
        except BlockingIOError:
            self._tell_room()
            self._onward.flush()
            found = self._inlet.receive()
        self._taken += 1
        if self._taken >= self._recipe.told_after or not self._quick:
            self._tell_room()
        return found

    def _tell_room(self) -> None:
        if self._taken:
            os.eventfd_write(self._recipe.inlet_room.fd, self._taken)
            self._taken = 0


class _Onward:
    """The way to the next step, or from the last one to the caller.

    Attributes:
        held: small results that wait for others to travel with them.
    """

    def __init__(self, recipe: WorkerRecipe, outlet: ObjectChannel, pool: SegmentPool) -> None:
        self.held: list[Parcel] = []
        self._pool = pool
        self._branch = recipe.branch
        self._together = recipe.together
        self._room = 0  # places in the next queue that are this worker's to fill
        self._room_fd = None if recipe.onward_room is None else recipe.onward_room.fd
        self._channel = outlet if recipe.onward is None else ObjectChannel(recipe.onward, pool)

    def pass_on(self, batch: int, results: Any, hold: bool) -> None:
        """Send results, or `hold` them for a moment if they are small."""
        task = (batch, results) if self._room_fd is not None else (self._branch, batch, results)
        parcel = Parcel(task, self._pool)
        if not parcel.is_small:
            self.flush()
        self.held.append(parcel)
        if not hold or not parcel.is_small or len(self.held) >= self._together:
            self.flush()

    def flush(self) -> None:
        """Send what is held, as soon as there are places for it."""
        while self.held:
            count = self._claimed(len(self.held))
            self._channel.post_together(self.held[:count])
            del self.held[:count]

    def _claimed(self, wanted: int) -> int:
        """Wait for a place in the next queue; return how many, up to those wanted, are this worker's to fill."""
        if self._room_fd is None:
            return wanted
        if not self._room:
            self._room = os.eventfd_read(self._room_fd)
        count = min(wanted, self._room)
        self._room -= count
        return count


class _LogSender(QueueHandler):
    """Sends log records to the parent."""

    def __init__(self, channel: ObjectChannel) -> None:
        super().__init__(SimpleQueue())
        self._channel = channel

    def enqueue(self, record: logging.LogRecord) -> None:
        """Send one; `prepare` has made it fit for that."""
        with suppress(PeerGoneError):
            self._channel.send(record)


def _send_logs(recipe: WorkerRecipe) -> None:
    for name, level in recipe.log_levels.items():
        logging.getLogger(name or None).setLevel(level)
    # A pool of its own: threads of a step may log while the worker packs a result.
    logging.getLogger().addHandler(_LogSender(ObjectChannel(recipe.outlet, SegmentPool())))


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)  # whatever the worker waits for, nobody will send it


def _travelling(error: BaseException) -> Any:
    """The pickled exception, if it can be rebuilt from that."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # any class of exception may do anything here; its text and traceback travel all the same
        return None
    return pickled
