"""This process's rank of a training across machines: a process of its own for each training."""

from __future__ import annotations

import multiprocessing
import os
import signal

from . import rank_process
from .rank_recipe import Recipe, Start

STOPS = (signal.SIGINT, signal.SIGTERM)


class OwnRank:
    """A rank that the process has started which stands for it in the group.

    Attributes
    ----------
    channel : to the rank.
    sentinel : becomes readable when it has ended.
    """

    def __init__(self, recipe: Recipe, rank: int, group_round: str) -> None:
        """Start it; the thread that does must live longer than the rank."""
        context = multiprocessing.get_context("spawn")
        self.channel, theirs = context.Pipe()
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns there of what is done on purpose
        start = Start(recipe, os.getpid(), {rank: theirs}, group_round)
        self._process = context.Process(target=rank_process.run, args=(start,), name=f"rank {rank}")
        # While it comes up, it is not to hear what is sent to this process.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.sentinel = self._process.sentinel

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.exitcode

    def kill(self) -> None:
        """Let it not live on; returns when it has ended."""
        self._process.kill()
        self._process.join()
