"""The steps of a streaming pipeline in processes."""

from __future__ import annotations

import logging
import mmap
import multiprocessing
import os
import pickle
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import __main__
from datasets_impl.errors import StreamingError, WorkerLostError
from datasets_impl.memory_segment import SegmentPool, SpareSegments
from datasets_impl.object_channel import BUNDLED, ObjectChannel, Parcel, PeerGoneError, UnreadableMessageError
from datasets_impl.pipeline_step import PipelineStep
from datasets_impl.step_process import NO_BATCH, PLACE, HandedFd, WorkerRecipe, main
from datasets_impl.worker_crew import Failure, Result

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

END_SECONDS = 5.0  # for which a worker without work may take to end by itself, and then after SIGTERM
LOOK_SECONDS = 1.0  # after which workers are looked at even if nothing was heard: a grandchild can hold what tells it


def pickled_steps(steps: Sequence[PipelineStep], aligned: bool) -> list[list[bytes]]:
    """What each worker of each step is started with.

    Raises:
        StreamingError: a step cannot be pickled, or not be found by a new process.
    """
    return [[_pickled(step, worker, aligned) for worker in range(step.workers)] for step in steps]


def _pickled(step: PipelineStep, worker: int, aligned: bool) -> bytes:
    try:
        pickled = pickle.dumps(step.runner(worker, aligned), protocol=5)
    except Exception as error:
        raise StreamingError(
            f"step {step.name!r} cannot be pickled ({error}): define it at the top of a module, or use threads."
        ) from error
    if not hasattr(__main__, "__file__") and b"__main__" in pickled:
        raise StreamingError(
            f"step {step.name!r} is defined in a notebook or on the command line, where other processes do not find "
            "it: move it into a module, or use threads."
        )
    return pickled


class ProcessCrew:
    """A `WorkerCrew` of processes.

    Neighbours talk to each other directly, so that a busy caller holds nobody up. Who dies, however suddenly, holds no
    lock and leaves no half message; the caller notices it and ends the others, whatever they wait for.
    """

    def __init__(self, branches: Sequence[Sequence[PipelineStep]], aligned: bool) -> None:
        self._owner = os.getpid()
        self._spare = SpareSegments()
        self._pool = SegmentPool(self._spare)
        self._workers: list[tuple[PipelineStep, int, SpawnProcess]] = []
        self._inlets: list[ObjectChannel] = []
        self._room = [steps[0].queue for steps in branches]
        self._room_fds: list[int] = []
        self._sentinels: set[int] = set()
        self._unsent: dict[int, Parcel] = {}
        self._poll = select.poll()
        heard, said = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        heard.setblocking(False)
        self._outlet = ObjectChannel(heard, self._pool)
        count = sum(step.workers for steps in branches for step in steps)
        places = os.memfd_create("trainloom-places", os.MFD_CLOEXEC)
        os.ftruncate(places, count * PLACE.size)
        self._places = mmap.mmap(places, 0)
        for place in range(count):
            PLACE.pack_into(self._places, place * PLACE.size, NO_BATCH)
        try:
            for branch, steps in enumerate(branches):
                self._start_branch(branch, steps, pickled_steps(steps, aligned), said, HandedFd(places))
            self._watch()
        except BaseException:
            self.close(finished=False)
            raise
        finally:
            said.close()
            os.close(places)

    def _start_branch(
        self,
        branch: int,
        steps: Sequence[PipelineStep],
        runners: list[list[bytes]],
        outlet: socket.socket,
        places: HandedFd,
    ) -> None:
        self._room_fds.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in steps]
        # Several senders ask for one place at a time, so that none keeps places that another needs.
        kinds = [os.EFD_SEMAPHORE if step.workers > 1 else 0 for step in steps[:-1]]
        rooms = [
            self._room_fds[branch],
            *(os.eventfd(step.queue, kind | os.EFD_CLOEXEC) for step, kind in zip(steps[1:], kinds, strict=True)),
        ]
        levels = _log_levels()
        first = pairs[0][0]
        first.setblocking(False)
        self._inlets.append(ObjectChannel(first, self._pool))
        try:
            for place, step in enumerate(steps):
                last = place + 1 == len(steps)
                for worker in range(step.workers):
                    recipe = WorkerRecipe(
                        runner=runners[place][worker],
                        step=step.name,
                        worker=worker,
                        branch=branch,
                        inlet=pairs[place][1],
                        inlet_room=HandedFd(rooms[place]),
                        told_after=max(1, step.queue // 2 // step.workers),
                        together=_together(steps[place : place + 2]),
                        onward=None if last else pairs[place + 1][0],
                        onward_room=None if last else HandedFd(rooms[place + 1]),
                        outlet=outlet,
                        spare=self._spare,
                        places=places,
                        place=len(self._workers),
                        log_levels=levels,
                    )
                    self._start(step, worker, recipe)
        finally:
            # Only the workers keep these ends: who reads from one learns that nobody writes any more.
            for sender, receiver in pairs:
                receiver.close()
                if sender is not first:
                    sender.close()
            for room in rooms[1:]:
                os.close(room)

    def _start(self, step: PipelineStep, worker: int, recipe: WorkerRecipe) -> None:
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=main, args=(recipe,), name=f"{step.name}-{worker}", daemon=True)
        # Held back until the worker ignores it: Ctrl-C while it starts would make it print a traceback of its own.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            process.start()
        except AssertionError as error:
            raise StreamingError(
                "this process may start no others, as it is a worker itself (of a loader, say): use threads here."
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        self._workers.append((step, worker, process))

    def _watch(self) -> None:
        self._poll.register(self._outlet, select.POLLIN)
        for fd in self._room_fds:
            self._poll.register(fd, select.POLLIN)
        for _, _, process in self._workers:
            self._sentinels.add(process.sentinel)
            self._poll.register(process.sentinel, select.POLLIN)

    def has_room(self) -> bool:
        """Whether the first queue of every branch takes another minibatch now."""
        if 0 in self._room:
            self._count_room()
        return 0 not in self._room and not self._unsent

    def put(self, batch: int, items: Any) -> None:
        """Send a minibatch to every branch; only after `has_room`."""
        for branch in range(len(self._inlets)):
            try:
                parcel = Parcel((batch, items), self._pool)
            except OSError:
                raise  # no memory, no file descriptor: nothing that the items could change
            except Exception as error:
                raise StreamingError(
                    f"minibatch {batch} cannot be sent to another process ({error}): give items that can be pickled, "
                    "or use threads."
                ) from error
            self._room[branch] -= 1
            self._post(branch, parcel)

    def get(self, block: bool, or_room: bool = False) -> Result | None:
        """Return the next result, or None; see `WorkerCrew`."""
        lost = False
        while True:
            try:
                found = self._receive()
            except BlockingIOError:
                if lost:
                    self._throw_lost()
            else:
                if found is not None:
                    return found
                continue
            if not block:
                return None
            events = self._poll.poll(LOOK_SECONDS * 1000)
            if not events or not self._sentinels.isdisjoint(fd for fd, _ in events):
                lost = any(process.exitcode is not None for _, _, process in self._workers)
            for branch, parcel in list(self._unsent.items()):
                self._post(branch, parcel)
            if self._count_room() and or_room:
                return None

    def _receive(self) -> Result | None:
        """Return a result if one is there, and see to everything else that is."""
        try:
            found = self._outlet.receive()
        except PeerGoneError:
            # Every worker closed its end, so that each of them is gone, or about to be.
            self._throw_lost()
        except UnreadableMessageError as error:
            raise StreamingError(
                f"a result cannot be rebuilt in the caller's process ({error}): return others, or use threads."
            ) from error
        if type(found) is tuple:
            return Result(*found)
        if type(found) is Failure:
            _rebuilt(found).throw()
        _log(found)
        return None

    def _post(self, branch: int, parcel: Parcel) -> None:
        inlet = self._inlets[branch]
        try:
            inlet.post(parcel)
        except BlockingIOError:
            if branch not in self._unsent:
                self._unsent[branch] = parcel
                self._poll.register(inlet, select.POLLOUT)
            return
        except PeerGoneError:
            pass  # all workers of the step are gone: `get` says so, with the reason
        if self._unsent.pop(branch, None) is not None:
            self._poll.unregister(inlet)

    def _count_room(self) -> bool:
        """Count the places that workers have freed; whether there were any."""
        found = False
        for branch, fd in enumerate(self._room_fds):
            try:
                self._room[branch] += os.eventfd_read(fd)
            except BlockingIOError:
                continue
            found = True
        return found

    def _throw_lost(self) -> NoReturn:
        """Raise the error of the worker that ended first, or of the likeliest.

        Its neighbours end by themselves, with exit code 0: those before it as nobody takes what they send, those after
        it as nobody sends any more, perhaps before its own end can be seen.
        """
        places = range(len(self._workers))
        deadline = time.monotonic() + LOOK_SECONDS
        for _, _, process in self._workers:
            if not any(map(self._exitcode, places)):
                process.join(max(0.0, deadline - time.monotonic()))
        ended = [place for place in places if self._workers[place][2].exitcode is not None]
        place = max(
            ended or places, key=lambda place: (self._exitcode(place) != 0, self._batch_at(place) is not None, place)
        )
        step, worker, _ = self._workers[place]
        exitcode, batch = self._exitcode(place), self._batch_at(place)
        how = f"was killed by {_signal_name(-exitcode)}" if exitcode < 0 else f"ended with exit code {exitcode}"
        where = "between minibatches" if batch is None else f"in minibatch {batch}"
        hint = " (as when memory runs out)" if exitcode == -signal.SIGKILL else ""
        if exitcode > 0 and batch is None:
            hint = ' (a script has to start pipelines under if __name__ == "__main__":)'
        message = f"worker {worker} of step {step.name!r} {how} {where}{hint}."
        raise WorkerLostError(message, step=step.name, batch=batch, worker=worker)

    def _exitcode(self, place: int) -> int:
        return self._workers[place][2].exitcode or 0

    def _batch_at(self, place: int) -> int | None:
        (batch,) = PLACE.unpack_from(self._places, place * PLACE.size)
        return None if batch == NO_BATCH else int(batch)

    def close(self, finished: bool) -> None:
        """End all processes: by themselves after the last minibatch (`finished`), or at once."""
        if os.getpid() != self._owner:
            return  # a fork of the caller's process: the workers are not its children
        for inlet in self._inlets:
            inlet.close()
        if finished:
            self._hear_out(time.monotonic() + END_SECONDS)
        for end in ("terminate", "kill"):
            for _, _, process in self._workers:
                if process.exitcode is None:
                    getattr(process, end)()
            deadline = time.monotonic() + END_SECONDS
            for _, _, process in self._workers:
                process.join(max(0.0, deadline - time.monotonic()))
        for _, _, process in self._workers:
            process.join()
            process.close()
        self._workers.clear()
        self._outlet.close()
        self._unsent.clear()
        self._pool.close()
        self._spare.close()
        for fd in self._room_fds:
            os.close(fd)
        self._room_fds.clear()

    def _hear_out(self, deadline: float) -> None:
        """Handle the log records that are still to come, until every worker has ended."""
        while (left := deadline - time.monotonic()) > 0:
            try:
                found = self._outlet.receive()
            except PeerGoneError:
                break
            except BlockingIOError:
                self._poll.poll(left * 1000)
                continue
            if isinstance(found, logging.LogRecord):
                _log(found)
        for _, _, process in self._workers:
            process.join(max(0.0, deadline - time.monotonic()))


def _together(steps: Sequence[PipelineStep]) -> int:
    """How many results of the first step may travel in one packet to the second, or from the last step to the caller.

    One process receives a packet: several workers get one minibatch each, so that all have work."""
    if steps[-1].workers > 1 and len(steps) > 1:
        return 1
    return min(BUNDLED, max(1, min(step.queue for step in steps) // 2))


def _rebuilt(failure: Failure) -> Failure:
    """With the exception itself, where it can be rebuilt here."""
    error: Any = failure.error
    try:
        return failure._replace(error=None if error is None else pickle.loads(error))
    except Exception:  # its class may do anything here; text and traceback are there all the same
        return failure._replace(error=None)


def _log(record: logging.LogRecord) -> None:
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _log_levels() -> dict[str, int]:
    """The levels that were set in this process, so that workers send what is wanted here."""
    levels = {"": logging.getLogger().level}
    for name, logger in logging.getLogger().manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET:
            levels[name] = logger.level
    return levels


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
