"""Training a task on several devices: what takes the trainer's place in the worker."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from trainers.contract import Retention, Stopped

from . import rank_channel
from .group_launch import GroupLaunch
from .rank_channel import Message
from .rank_failure import RankFailed, RankLacks, ended
from .rank_launch import RankLaunch
from .training_spec import TrainingSpec

logger = logging.getLogger("trainloom")


def devices_of(training: TrainingSpec) -> int:
    """On how many devices a task is trained."""
    if not getattr(training.trainer.cls, "trains_on_devices", False):
        return 1
    return int(training.trainer.params.get("devices", 1))


class DataParallelTrainer:
    """Trains in as many processes as there are devices, and answers what they ask of the worker.

    Everything that an attempt has stays here: lease, checkpoints, stop signal, reporter. After `train` it has the
    attributes that the first rank's trainer ended with (`rank_process.RECORDED`).

    Args
    ----
    new_launch : of the ranks, whose recipe's `offered` names what is given here.
    ranks : how many processes.
    offered : of `stop`, `progress`, `reporter` and `checkpoints`, those that there are.
    batches : is told how many batches an epoch has.
    gpus : UUIDs of those that the ranks on this machine have.
    """

    def __init__(
        self,
        new_launch: Callable[[], RankLaunch | GroupLaunch],
        ranks: int,
        offered: dict[str, Any],
        batches: Any = None,
        gpus: Sequence[str] = (),
    ) -> None:
        self._new_launch = new_launch
        self._ranks = ranks
        self._offered = offered
        self._batches = batches
        self.gpus = gpus
        self._stopped: str | None = None
        self._finished = False
        self._failures: list[tuple[int, dict[str, Any]]] = []

    def train(self) -> None:
        """Train the task to its end.

        Raises
        ------
        Stopped
            If a stop was asked for; the state is saved.
        RankFailed
            If a process failed; all have ended.
        """
        launch = self._new_launch()
        launch.begin()
        try:
            self._serve(launch)
        finally:
            launch.end()
        self._failures += launch.told()
        if self._stopped is not None and not self._failures:
            raise Stopped(self._stopped)
        # How a process ends that has nothing left to do is of no consequence.
        if not self._finished or self._failures:
            self._raise_failure(launch)

    def _serve(self, launch: RankLaunch | GroupLaunch) -> None:
        """Answer the ranks until they have ended."""
        talking: list[Connection] = [*launch.channels]
        while True:
            ready = wait([*talking, launch.ended])
            for channel in [channel for channel in talking if channel in ready]:
                try:
                    message = rank_channel.receive(channel)
                except (EOFError, OSError):
                    talking.remove(channel)
                    continue
                self._answer(launch, channel, message)
            if launch.ended in ready and not any(channel.poll() for channel in talking):
                return

    def _answer(self, launch: RankLaunch | GroupLaunch, channel: Connection, message: Message) -> None:
        if message.kind == "here":
            launch.is_here(channel, message.values["pid"])
            self._reply(channel)
        elif message.kind == "look":
            self._reply(channel, stop=self._look(**message.values))
        elif message.kind == "load":
            self._reply(channel, content=self._offered["checkpoints"].load())
        elif message.kind == "save":
            self._offered["checkpoints"].save(message.content, **message.values)
            self._reply(channel)
        elif message.kind == "failed":
            self._failures.append((launch.channels.index(channel), message.values))
        else:
            self._hear(message)

    def _hear(self, message: Message) -> None:
        """Take notice of what needs no answer."""
        kind, values = message.kind, message.values
        if kind == "retain":
            self._offered["checkpoints"].retain(Retention(**values))
        elif kind == "expects":
            if self._batches is not None:
                self._batches(values["batches"])
        elif kind == "log":
            logger.log(values["level"], "%s", values["message"])
        elif kind == "stopped":
            self._stopped = values["message"]
        elif kind == "finished":
            vars(self).update(values)
            self._finished = True
        else:  # started, epoch_finished
            getattr(self._offered["reporter"], kind)(**values)

    def _look(self, epoch: int, step: int) -> bool:
        """Show that the training lives, do what is due meanwhile, and say whether it is to stop."""
        if "progress" in self._offered:
            self._offered["progress"](epoch, step)
        if "checkpoints" in self._offered:
            self._offered["checkpoints"].poll()
        return "stop" in self._offered and bool(self._offered["stop"].requested)

    def _raise_failure(self, launch: RankLaunch | GroupLaunch) -> NoReturn:
        """The failure that came first: where one rank ends, the others lose it."""
        own = [(rank, said) for rank, said in self._failures if not said["lost"]]
        first = launch.failure()
        if not own and first is not None and first[1] < 0:
            raise ended(*_of(first, self._ranks)) from None
        for rank, said in own or self._failures:
            kind = RankLacks if said["lacks"] else RankFailed
            raise kind(f"rank {rank} of {self._ranks}: {said['message']}")
        if first is not None:
            raise ended(*_of(first, self._ranks)) from None
        raise RankFailed(f"the {self._ranks} processes of the training could not be started") from launch.error

    @staticmethod
    def _reply(channel: Connection, content: bytes | None = None, **values: Any) -> None:
        try:
            rank_channel.send(channel, "answer", content, **values)
        except OSError:
            logger.debug("a rank has ended before it was answered")


def _of(failure: tuple[int, int], ranks: int) -> tuple[int, int, int]:
    rank, exit_code = failure
    return rank, ranks, exit_code
