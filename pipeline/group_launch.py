"""The ranks of one training in the processes that torchrun has started, seen from rank 0."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from .own_rank import OwnRank
from .rank_group import PAUSE, GroupLost, RankGroup
from .rank_recipe import Recipe

JOIN_SECONDS = 60.0  # in which every process of the group must have heard of a training
END_SECONDS = 20.0  # in which every rank must have ended when one has


class GroupLaunch:
    """Does for a training across machines what `RankLaunch` does for one on this machine.

    Attributes
    ----------
    channels : to the rank that runs here, the first one.
    ended : becomes readable when all ranks have ended.
    error : what kept the group from telling how they ended, or None.
    """

    def __init__(self, group: RankGroup, recipe: Recipe, task: Mapping[str, Any]) -> None:
        self._group = group
        self._recipe = recipe
        self._task = task
        self._ends: dict[int, dict[str, Any]] = {}  # by rank
        self._silent: dict[int, str] = {}  # what is wrong with ranks that do not say how they ended
        self._done = threading.Event()
        self.channels: tuple[Connection, ...] = ()
        self.ended, self._end = multiprocessing.Pipe(duplex=False)
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Announce the training, and start the rank that runs here."""
        self._number = self._group.announce(self._task)
        self._own = OwnRank(self._recipe, self._group.rank, self._group.round(self._number))
        self.channels = (self._own.channel,)
        self._thread = threading.Thread(target=self._run, name="group", daemon=True)
        self._thread.start()

    def is_here(self, channel: Connection, pid: int) -> None:
        """The rank that runs here has come up."""

    def end(self) -> None:
        """Let none of them live on; returns when the one that runs here has ended."""
        self._done.set()
        self._thread.join()
        self._own.channel.close()
        self.ended.close()

    def failure(self) -> tuple[int, int] | None:
        """Rank and exit code of one that was killed, but not from here."""
        killed = [(rank, end["exit_code"]) for rank, end in self._ends.items() if end["exit_code"] < 0]
        return killed[0] if killed else None

    def told(self) -> list[tuple[int, dict[str, Any]]]:
        """The failures of ranks that run elsewhere, and of those that said nothing, as `RankChannel` tells them."""
        said = [(rank, failure) for rank, end in self._ends.items() for failure in end.get("failures", [])]
        gone = [(rank, {"message": why, "lacks": True, "lost": False}) for rank, why in self._silent.items()]
        return [*said, *gone]

    def _run(self) -> None:
        try:
            self._await_ends()
            self._group.abort(self._number)
        except GroupLost as error:
            self.error = error
            self._silent = {rank: str(error) for rank in self._others()}
        finally:
            if self._own.exit_code is None:
                self._own.kill()
            self._end.close()

    def _await_ends(self) -> None:
        """Return when all ranks have ended, or should have."""
        began, limit = time.monotonic(), None
        while True:
            for rank in self._others():
                end = self._group.end_of(self._number, rank)
                if end is not None:
                    self._ends[rank] = end
            own = self._own.exit_code
            if own is not None and own < 0 and limit is None:
                self._ends[self._group.rank] = {"exit_code": own}
            if own is not None and not self._others():
                return
            failed = bool(own) or any(end["exit_code"] for end in self._ends.values())
            if self._done.is_set() or (failed and not self._others()):
                return
            if limit is None and (failed or own == 0):
                limit = time.monotonic() + END_SECONDS
                if failed:
                    self._group.abort(self._number)
            if limit is not None and time.monotonic() > limit:
                self._silent = dict.fromkeys(self._others(), "its process or its machine has gone")
                return
            if time.monotonic() - began > JOIN_SECONDS and self._find_absent():
                return
            time.sleep(PAUSE)

    def _find_absent(self) -> bool:
        """Whether a rank has not heard of the training."""
        absent = [rank for rank in self._others() if not self._group.has_joined(self._number, rank)]
        self._silent = dict.fromkeys(absent, "it does not answer; start the whole group again with torchrun")
        return bool(absent)

    def _others(self) -> list[int]:
        """Ranks elsewhere that have not said that they ended."""
        return [rank for rank in range(self._group.size) if rank != self._group.rank and rank not in self._ends]
