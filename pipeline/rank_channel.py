"""What a rank of a training on several devices and the worker that started it say to each other.

A message is a line of JSON, followed by bytes where it says so. It goes through a pipe that only the two of them have.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from trainers.contract import Retention


class Message(NamedTuple):
    """One message.

    Attributes
    ----------
    kind : `RankChannel` names them.
    values : what JSON holds, by name; also numbers that are not finite.
    content : a checkpoint, or None.
    """

    kind: str
    values: dict[str, Any]
    content: bytes | None


def send(connection: Connection, kind: str, content: bytes | None = None, **values: Any) -> None:
    """Send a message; raises OSError where nobody can hear it any more."""
    connection.send_bytes(json.dumps([kind, values, content is not None]).encode())
    if content is not None:
        connection.send_bytes(content)


def receive(connection: Connection) -> Message:
    """Wait for a message.

    Raises
    ------
    EOFError, OSError
        If the other side has ended.
    """
    kind, values, has_content = json.loads(connection.recv_bytes())
    return Message(kind, values, connection.recv_bytes() if has_content else None)


class RankChannel:
    """A rank's side: to its trainer it is stop signal, progress, reporter and checkpoints of `trainers.contract`, all
    of which are the worker's."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._position = (0, 0)
        self._sending = threading.Lock()  # log records come from other threads too

    def tell(self, kind: str, **values: Any) -> None:
        """Say something that needs no answer."""
        with self._sending:
            send(self._connection, kind, **values)

    def ask(self, kind: str, content: bytes | None = None, **values: Any) -> Message:
        """Say something and wait for the answer."""
        with self._sending:
            send(self._connection, kind, content, **values)
        return receive(self._connection)

    def __call__(self, epoch: int, step: int) -> None:
        """Progress, which is told when the trainer asks whether to stop."""
        self._position = epoch, step

    @property
    def requested(self) -> bool:
        """Whether to stop; the answer comes from the worker."""
        epoch, step = self._position
        return bool(self.ask("look", epoch=epoch, step=step).values["stop"])

    def expects(self, batches: int) -> None:
        """An epoch has so many batches."""
        self.tell("expects", batches=batches)

    def started(self, epochs_done: int, max_epoch: int) -> None:
        """See `trainers.contract.Reporter`."""
        self.tell("started", epochs_done=epochs_done, max_epoch=max_epoch)

    def epoch_finished(self, epoch: int, values: Mapping[str, float]) -> None:
        """See `trainers.contract.Reporter`."""
        self.tell("epoch_finished", epoch=epoch, values=dict(values))

    def retain(self, retention: Retention) -> None:
        """See `trainers.contract.Checkpoints`."""
        self.tell("retain", **asdict(retention))

    def load(self) -> bytes | None:
        """See `trainers.contract.Checkpoints`."""
        return self.ask("load").content

    def save(self, content: bytes, *, epoch: int, step: int, score: float | None = None) -> None:
        """See `trainers.contract.Checkpoints`."""
        self.ask("save", content, epoch=epoch, step=step, score=score)

    def poll(self) -> None:
        """The worker does what has become due whenever it is asked whether to stop."""
