"""What a process does that torchrun has started beside the worker: it takes part in trainings that this announces."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, cast

from schemas.attempt import Blame
from schemas.binding import services

from . import gpu_choice, gpu_locks, provenance, rank_channel
from .errors import PipelineError
from .own_rank import OwnRank
from .rank_group import PAUSE, GroupLost, RankGroup
from .rank_recipe import Recipe
from .retry import blame_for
from .stop import StopSignal
from .training_spec import read_spec
from .worker_process import FAILED, MARGIN

if TYPE_CHECKING:
    from .runner import TaskRunner
    from .session import Session

logger = logging.getLogger("trainloom")


class GroupMember:
    """Follows the worker of a group: a rank of its own for each training that is announced.

    It asks the database nothing while it follows; data files come from `dataset_dir`, the node's cache or the store.
    Told to stop, it asks the worker to, which saves what it trains; it ends when it is dismissed.
    """

    def __init__(self, session: Session, group: RankGroup) -> None:
        self._session = session
        self._group = group
        self._stop = StopSignal(session.settings.grace_seconds + MARGIN)
        self._asked = False
        self._number = 0

    def follow(self) -> int:
        """Take part until the worker needs this process no more; returns the exit code."""
        settings = self._session.settings
        print(f"Rank {self._group.rank} of {self._group.size} follows the worker of rank 0.", flush=True)
        self._stop.polled = True
        try:
            with (
                self._stop.listening(),
                gpu_choice.taken(settings, gpu_locks.available(settings.device)) as gpu,
            ):
                self._gpus = {} if gpu is None else {self._group.rank: gpu.visible}
                while not self._group.is_over:
                    self._heed_stop()
                    task = self._group.task(self._number + 1)
                    if task is None:
                        time.sleep(PAUSE)
                        continue
                    self._number += 1
                    self._group.join(self._number)
                    self._group.ended(self._number, self._take_part(task))
        except GroupLost as error:
            logger.error("%s", error)
            return FAILED
        self._stop.raise_if_requested()
        return 0

    def _heed_stop(self) -> None:
        if self._stop.requested and not self._asked:
            self._group.ask_stop()
            self._asked = True

    def _take_part(self, task: Mapping[str, Any]) -> dict[str, Any]:
        """Train in a rank; how that ended."""
        try:
            with ExitStack() as resources:
                return self._serve(self._recipe(task, resources))
        except GroupLost:
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            lacks = blame_for(error) is Blame.WORKER
            return {"exit_code": FAILED, "failures": [{"message": said, "lacks": lacks, "lost": False}]}

    def _recipe(self, task: Mapping[str, Any], resources: ExitStack) -> Recipe:
        """The training as this machine has it."""
        bound = services("a member of a group")
        training = read_spec(task["rows"], cast("Any", bound.resolver))
        if provenance.code_digest(training.classes()) != task["code"]:
            raise PipelineError(
                f"the code of task {training.key[:8]} is not that of where the worker runs; bring all machines to the "
                "same code"
            )
        trainers = cast("TaskRunner", bound.runner).trainers
        return trainers.member_recipe(task, training, self._session.folders, resources, self._gpus)

    def _serve(self, recipe: Recipe) -> dict[str, Any]:
        rank = OwnRank(recipe, self._group.rank, self._group.round(self._number))
        failures: list[dict[str, Any]] = []
        aborted = False
        try:
            while rank.exit_code is None:
                if rank.channel in wait([rank.channel, rank.sentinel], timeout=PAUSE):
                    _hear(rank, failures)
                self._heed_stop()
                if self._group.is_aborted(self._number):
                    aborted = True
                    rank.kill()
        finally:
            if rank.exit_code is None:
                rank.kill()
            rank.channel.close()
        return {"exit_code": 0 if aborted else rank.exit_code, "failures": failures}


def _hear(rank: OwnRank, failures: list[dict[str, Any]]) -> None:
    """Answer what a rank says; what made it fail is added to `failures`."""
    try:
        message = rank_channel.receive(rank.channel)
        if message.kind == "failed":
            failures.append(message.values)
        elif message.kind == "here":
            rank_channel.send(rank.channel, "answer")
    except (EOFError, OSError):  # it ends, but may hang at that: then it is killed with the training
        wait([rank.sentinel], timeout=PAUSE)
