"""The processes that torchrun has started as one worker across machines, and what they tell each other.

Rank 0 is the worker: it claims tasks, holds their leases and writes results. The others follow it: they take part in
the trainings that it announces. What they say is JSON in the store of torchrun's rendezvous, which lives in one of its
launchers; whoever can reach that store can say it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from .errors import ConfigurationError

ELASTIC, RESTARTS = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"  # as torchrun sets them
SHARED_STORE = "TORCHELASTIC_USE_AGENT_STORE"
ANSWER = timedelta(seconds=60)  # within which the store must answer
PAUSE = 0.2  # s between looks at the store


class GroupLost(ConfigurationError):
    """The other processes of the group cannot be reached any more: what the worker lacks, and no task can help."""


class RankGroup:
    """One process's view of the group.

    Attributes
    ----------
    rank : its number, from 0.
    size : how many there are.
    local_size : how many of them are on this machine.
    """

    def __init__(self, rank: int, size: int, local_size: int) -> None:
        self.rank = rank
        self.size = size
        self.local_size = local_size
        self._store: Any = None

    @classmethod
    def of_environment(cls) -> RankGroup | None:
        """The group that torchrun has started this process in; None for a process that works alone."""
        if ELASTIC not in os.environ or os.environ.get("WORLD_SIZE", "1") == "1":
            return None
        return cls(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))

    def round(self, number: int) -> str:
        """What keeps the rendezvous of a training apart from those of others; see `rank_process`."""
        return f"{os.environ[RESTARTS]}.{number}"

    # Rank 0

    @contextmanager
    def led(self) -> Iterator[None]:
        """Lead the others meanwhile, and dismiss them at the end. Where one of them is told to stop, this process is,
        too."""
        done = threading.Event()
        watch = threading.Thread(target=self._follow_stops, args=(done,), name="group stops", daemon=True)
        watch.start()
        try:
            yield
        finally:
            done.set()
            watch.join()
            with suppress(GroupLost):  # then they find that out, too
                self._set("over")

    def announce(self, task: Mapping[str, Any]) -> int:
        """Tell the others of a training; returns its number, from 1."""
        number = self._count() + 1
        self._set(f"task/{number}", task)
        self._call("add", "announced", 1)  # last: who dies before has announced nothing
        return number

    def has_joined(self, number: int, rank: int) -> bool:
        """Whether a rank has heard of a training."""
        return self._is_set(f"joined/{number}/{rank}")

    def end_of(self, number: int, rank: int) -> dict[str, Any] | None:
        """How a rank's part in a training ended, as it said itself; None where it has not."""
        return self._get(f"ended/{number}/{rank}")

    def abort(self, number: int) -> None:
        """Let every rank end its part in a training at once."""
        self._set(f"abort/{number}")

    # The others

    def task(self, number: int) -> dict[str, Any] | None:
        """What was announced as the training of this number; None where nothing was."""
        return self._get(f"task/{number}") if self._count() >= number else None

    def join(self, number: int) -> None:
        """Tell rank 0 that this one has heard of a training."""
        self._set(f"joined/{number}/{self.rank}")

    def ended(self, number: int, how: Mapping[str, Any]) -> None:
        """Tell rank 0 how this one's part in a training ended."""
        self._set(f"ended/{number}/{self.rank}", how)

    def is_aborted(self, number: int) -> bool:
        """Whether the training of this number has ended for all, or the group has other things to do."""
        return self._is_set(f"abort/{number}") or self._count() > number or self.is_over

    @property
    def is_over(self) -> bool:
        """Whether rank 0 needs the others no more."""
        return self._is_set("over")

    def ask_stop(self) -> None:
        """Ask rank 0 to save what it trains, and to end."""
        self._set("stop")

    def _follow_stops(self, done: threading.Event) -> None:
        with suppress(GroupLost):  # the next training that is announced tells
            while not done.wait(PAUSE):
                if self._is_set("stop"):
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

    # The store

    def _count(self) -> int:
        return int(self._call("add", "announced", 0))

    def _is_set(self, name: str) -> bool:
        return bool(self._call("check", [name]))

    def _get(self, name: str) -> dict[str, Any] | None:
        if not self._is_set(name):
            return None
        value: dict[str, Any] = json.loads(self._call("get", name))
        return value

    def _set(self, name: str, value: Mapping[str, Any] | None = None) -> None:
        self._call("set", name, json.dumps(value or {}))

    def _call(self, method: str, *args: Any) -> Any:
        """
        Raises
        ------
        GroupLost
            If the store does not answer.
        """
        try:
            if self._store is None:
                self._store = _open()
            return getattr(self._store, method)(*args)
        except RuntimeError as error:  # torch's own errors are such
            raise GroupLost(f"the processes that torchrun started cannot reach each other: {error}") from error


def _open() -> Any:
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    if os.environ.get(SHARED_STORE) != "True":
        raise ConfigurationError("torchrun must share its store with what it starts; use --rdzv-backend c10d")
    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=ANSWER)
    return PrefixStore(f"trainloom/{os.environ[RESTARTS]}", store)
