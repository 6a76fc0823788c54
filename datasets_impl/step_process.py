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
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import parent_process
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from queue import SimpleQueue
from typing import Any

from datasets_impl.memory_segment import SegmentPool
from datasets_impl.object_channel import ObjectChannel, PeerGoneError
from datasets_impl.pipeline_step import StepRunner
from datasets_impl.worker_crew import Failure, Result

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
        onward, onward_room: the next step's, which it fills; None after the last step.
        outlet: where results, failures and log records go.
        places, place: the shared page of `PLACE`s, and its own among them.
        log_levels: of the parent's loggers by name; the root's is "".
    """

    runner: bytes
    step: str
    worker: int
    branch: int
    inlet: socket.socket
    inlet_room: HandedFd
    onward: socket.socket | None
    onward_room: HandedFd | None
    outlet: socket.socket
    places: HandedFd
    place: int
    log_levels: dict[str, int]


def main(recipe: WorkerRecipe) -> None:
    """Work until nobody sends any more, or nobody wants what comes out."""
    # Ctrl-C in a terminal reaches every process of it; what follows from it, the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _send_logs(recipe)
    outlet = ObjectChannel(recipe.outlet, SegmentPool())
    worker = _Worker(recipe, outlet)
    try:
        worker.serve(pickle.loads(recipe.runner))
    except PeerGoneError:
        pass  # the pipeline was left, or another worker failed: nobody wants the rest
    except BaseException as error:
        failure = Failure.of(error, recipe.step, recipe.worker, worker.batch)
        with suppress(PeerGoneError):
            outlet.send(failure._replace(error=_travelling(error)))


class _Worker:
    """What a worker process has in its hands."""

    def __init__(self, recipe: WorkerRecipe, outlet: ObjectChannel) -> None:
        self.batch: int | None = None
        self._recipe = recipe
        self._outlet = outlet
        pool = SegmentPool()
        self._inlet = ObjectChannel(recipe.inlet, pool)
        self._onward = None if recipe.onward is None else ObjectChannel(recipe.onward, pool)
        self._places = mmap.mmap(recipe.places.fd, 0)

    def serve(self, runner: StepRunner) -> None:
        """Take minibatches until nobody sends any more."""
        inlet, inlet_room = self._inlet, self._recipe.inlet_room.fd
        offset = self._recipe.place * PLACE.size
        while True:
            try:
                self.batch, items = inlet.receive()
            except EOFError:
                return
            os.eventfd_write(inlet_room, 1)
            PLACE.pack_into(self._places, offset, self.batch)
            results = runner(self.batch, items)
            # Nothing may keep a minibatch alive that is on its way already: it can be large.
            del items
            self._forward(results)
            del results
            PLACE.pack_into(self._places, offset, NO_BATCH)
            self.batch = None

    def _forward(self, results: Any) -> None:
        if self._onward is None or self._recipe.onward_room is None:
            self._outlet.send(Result(self._recipe.branch, self.batch or 0, results))
        else:
            os.eventfd_read(self._recipe.onward_room.fd)
            self._onward.send((self.batch, results))


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
