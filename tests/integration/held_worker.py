"""A worker process that a test holds at a stage of a task, to do something to it or to its servers there.

The processes are forked from one that has imported torch already, so that many of them can be started.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

LIMIT = 60.0  # s for anything that is waited for
MONGO_TIMEOUT = 300  # ms to find a server, so that one that is away is noticed soon
LACK_DELAY = 0.2  # s before a task is offered again that a worker could not serve
PRELOADED = ["schemas", "trainloom", "pipeline.session", "trainers.nn_trainer", "datasets_impl.hdf5", "pymongo"]

PATHS = [*sys.path]  # before any test adds to them: a process that is started takes over those of its parent

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(PRELOADED)


class HeldWorker:
    """A process that populates until nothing is due, and waits once at a stage.

    Parameters
    ----------
    stage : one of `STAGES`, or None for a worker that waits nowhere.
    log : its standard output and error; what `populate` returned is the last line.
    host : the name of its machine.
    table : the name of the table that it populates.
    environment : variables beside those of this process that begin with ``TRAINLOOM_``.
    """

    def __init__(
        self, stage: str | None, log: Path, host: str = "", table: str = "TrainingResult", **environment: str
    ) -> None:
        self.log = log
        variables = {name: value for name, value in os.environ.items() if name.startswith("TRAINLOOM_")}
        self._channel, theirs = CONTEXT.Pipe()
        told = (theirs, stage, log, host, table, PATHS, {**variables, **environment})
        self.process = CONTEXT.Process(target=_work, args=told)
        self.process.start()
        theirs.close()

    @property
    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    def await_stage(self) -> None:
        """Return when the process waits at its stage."""
        assert self._channel.poll(LIMIT), f"the worker did not come to its stage:\n{self.said}"
        try:
            self._channel.recv()
        except EOFError:
            raise AssertionError(f"the worker ended before its stage:\n{self.said}") from None

    def release(self) -> None:
        """Let it go on."""
        self._channel.send("go on")

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join(LIMIT)

    def end(self) -> int:
        """Wait for the end; returns the exit code."""
        self.process.join(LIMIT)
        assert self.process.exitcode is not None, f"the worker did not end:\n{self.said}"
        return self.process.exitcode

    def close(self) -> None:
        """End it if it has not ended, stopped or not."""
        self.kill()
        self._channel.close()


class Hold:
    """Tells the test that the stage is reached, and waits for it; the first time only."""

    def __init__(self, channel: Connection) -> None:
        self._channel = channel
        self._used = False

    def __call__(self) -> None:
        if not self._used:
            self._used = True
            self._channel.send("here")
            self._channel.recv()


def before(owner: Any, name: str, hold: Hold, when: Callable[..., bool] = lambda *_: True) -> None:
    """Hold before a function is called with arguments for which `when` holds."""
    original = getattr(owner, name)

    def held(*args: Any, **kwargs: Any) -> Any:
        if when(*args):
            hold()
        return original(*args, **kwargs)

    setattr(owner, name, held)


def after(owner: Any, name: str, hold: Hold, when: Callable[[Any], bool] = lambda _: True) -> None:
    """Hold when a function has returned something for which `when` holds."""
    original = getattr(owner, name)

    def held(*args: Any, **kwargs: Any) -> Any:
        returned = original(*args, **kwargs)
        if when(returned):
            hold()
        return returned

    setattr(owner, name, held)


def _at_claim(hold: Hold) -> None:
    from pipeline.queue import Queue

    after(Queue, "claim", hold, lambda claim: claim is not None)


def _at_data(hold: Hold) -> None:
    from pipeline.node_cache import NodeCache

    before(NodeCache, "fetch", hold)


def _at_epoch(hold: Hold) -> None:
    from pipeline.running import RunningAttempt

    before(RunningAttempt, "progress", hold, lambda _, epoch, step: (epoch, step) == (1, 3))


def _at_checkpoint(hold: Hold) -> None:
    """The second one: its content is on the disk, and not yet under its name."""
    before(os, "replace", hold, lambda _, target: "epoch000002" in str(target))


def _at_upload(hold: Hold) -> None:
    from pipeline import result_uploads

    before(result_uploads, "upload", hold)


def _at_publication(hold: Hold) -> None:
    from pipeline.queue import Queue

    before(Queue, "publish", hold)


def _at_insert(hold: Hold) -> None:
    """All rows are written; the transaction is open."""
    from schemas.training_result import TrainingResult

    after(TrainingResult, "make_insert", hold)


def _at_outputs(hold: Hold) -> None:
    """Some batches of a prediction are written."""
    from pipeline.prediction_file import PredictionWriter

    before(PredictionWriter, "append", hold, lambda writer, *_: writer.done > 0)


def _at_chunks(hold: Hold) -> None:
    """All bytes of a prediction are in the store, and nobody can see them yet."""
    from pipeline.store.gridfs import GridFSStore

    before(GridFSStore, "_publish", hold, lambda *given: given[-1] == "prediction")


STAGES: Mapping[str, Callable[[Hold], None]] = {
    "claim": _at_claim,
    "data": _at_data,
    "epoch": _at_epoch,
    "checkpoint": _at_checkpoint,
    "upload": _at_upload,
    "publication": _at_publication,
    "insert": _at_insert,
    "outputs": _at_outputs,
    "chunks": _at_chunks,
}


def _work(
    channel: Connection,
    stage: str | None,
    log: Path,
    host: str,
    table: str,
    paths: list[str],
    environment: dict[str, str],
) -> None:
    settle_in(log, paths, environment)
    if host:
        platform.node = lambda: host
    if stage is not None:
        STAGES[stage](Hold(channel))
    import trainloom
    from pipeline import session, worker
    from pipeline.errors import ConfigurationError

    session.MONGO_TIMEOUT = MONGO_TIMEOUT
    worker.LACK_DELAY = LACK_DELAY
    try:
        with trainloom.connect():
            done = getattr(trainloom, table)().populate(reserve_jobs=True, suppress_errors=True)
    except ConfigurationError as error:
        logging.getLogger("trainloom").error("%s", error)
        sys.exit(error.exit_code)
    print(json.dumps(done["success_count"]), flush=True)


def settle_in(log: Path, paths: list[str], environment: dict[str, str]) -> None:
    """Take over the environment of the test: what was forked has that of the first test."""
    sys.path[:] = paths
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if name.startswith("TRAINLOOM_")]:
        del os.environ[name]
    os.environ.update(environment)
    time.tzset()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, force=True)


def awaited(condition: Callable[[], bool], what: Callable[[], str], limit: float = LIMIT) -> None:
    """Poll until something holds; fail with `what` where it does not within so many seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
