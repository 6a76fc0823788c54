"""Starting the ranks of a training with torch's elastic launcher, and ending them."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import uuid
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from . import rank_process
from .rank_recipe import Recipe, Start

END_SECONDS = 5  # until a rank that was told to end is killed
ELASTIC = "torch.distributed.elastic"  # the launcher's loggers


class RankLaunch:
    """The ranks of one training, from their start to their end.

    The launcher runs in a thread of its own, so that signals and checkpoints stay with the worker's.

    Attributes
    ----------
    channels : to each rank, by rank.
    ended : becomes readable when all ranks have ended.
    error : then what the launcher raised, or None.
    """

    def __init__(self, recipe: Recipe, ranks: int) -> None:
        pairs = [multiprocessing.Pipe() for _ in range(ranks)]
        self.channels = tuple(ours for ours, _ in pairs)
        self._theirs = tuple(theirs for _, theirs in pairs)
        self.ended, self._end = multiprocessing.Pipe(duplex=False)
        self.error: BaseException | None = None
        self._start = Start(recipe, os.getpid(), dict(enumerate(self._theirs)))
        self._thread = threading.Thread(target=self._run, name="ranks", daemon=True)
        self._pids: dict[Connection, int] = {}

    def begin(self) -> None:
        """Start them."""
        self._thread.start()

    def is_here(self, channel: Connection, pid: int) -> None:
        """A rank has come up. Once all have, theirs are the only other ends of the channels."""
        self._pids[channel] = pid
        if len(self._pids) == len(self.channels):
            self._close_theirs()

    def end(self) -> None:
        """Let none of them live on; returns when they have ended. A rank that is only coming up finds its channel
        closed."""
        for channel in self.channels:
            channel.close()
        self._close_theirs()
        if self._thread.is_alive():
            for pid in self._pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._thread.join()
        self.ended.close()

    def failure(self) -> tuple[int, int] | None:
        """Rank and exit code of the one that failed first; None where the launcher tells of none."""
        if not isinstance(self.error, ChildFailedError):
            return None
        rank, failure = self.error.get_first_failure()
        return rank, failure.exitcode

    def told(self) -> list[tuple[int, dict[str, Any]]]:
        """Failures that came another way than through the channels: none."""
        return []

    def _run(self) -> None:
        # Processes take over the mask of the thread that starts them: while they come up, they are not to hear what is
        # sent to the worker.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        logging.getLogger(ELASTIC).setLevel(logging.CRITICAL)  # what went wrong is told once, by the worker
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # the ranks' torch warns of what is done on purpose
        try:
            with tempfile.TemporaryDirectory(prefix="trainloom-ranks-") as folder:
                elastic_launch(self._config(folder), rank_process.run)(self._start)
        except BaseException as error:
            self.error = error
        finally:
            self._end.close()

    def _config(self, folder: str) -> LaunchConfig:
        return LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=len(self.channels),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            local_addr="localhost",
            max_restarts=0,  # the worker's attempts are the tries
            start_method="spawn",
            shutdown_timeout=END_SECONDS,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )

    def _close_theirs(self) -> None:
        for channel in self._theirs:
            channel.close()
