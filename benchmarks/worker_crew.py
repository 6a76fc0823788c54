"""Processes that work on a queue together when they are told to."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from benchmarks import trivial_tables
from schemas.binding import services
from trainloom import Settings, connect


@dataclass(frozen=True)
class Order:
    """What each process does with its table: take jobs until none is left, or so many."""

    table: str
    order: str = "original"
    max_calls: int | None = None


class Crew:
    """Processes with an open session each."""

    def __init__(self, channels: list[Connection]) -> None:
        self._channels = channels

    def work(self, order: Order, count: int | None = None) -> int:
        """Let the first `count` of them, by default all, work at the same time; returns how many jobs they did."""
        channels = self._channels[:count]
        for channel in channels:
            channel.send(order)
        return sum(channel.recv() for channel in channels)


@contextmanager
def crew(settings: Settings, count: int) -> Iterator[Crew]:
    """Start so many processes; they end with the block."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe() for _ in range(count)]
    processes = [context.Process(target=_serve, args=(settings, theirs)) for _, theirs in pipes]
    channels = [ours for ours, _ in pipes]
    for process in processes:
        process.start()
    try:
        for channel in channels:
            channel.recv()
        yield Crew(channels)
    finally:
        for channel in channels:
            channel.send(None)
        for process in processes:
            process.join()


def _serve(settings: Settings, channel: Connection) -> None:
    logging.getLogger("trainloom").setLevel(logging.WARNING)
    with connect(settings, create_home=False) as session:
        trivial_tables.activate(session.connection)
        channel.send(None)
        while (order := channel.recv()) is not None:
            channel.send(_work(order))


def _work(order: Order) -> int:
    table = getattr(trivial_tables, order.table)()
    if order.table == "Stock":
        done = table.populate(reserve_jobs=True, suppress_errors=True, refresh=False, max_calls=order.max_calls)
    else:
        options = {
            "reserve_jobs": True,
            "suppress_errors": True,
            "return_exception_objects": False,
            "refresh": False,
            "max_calls": order.max_calls,
            "make_kwargs": None,
            "priority": None,
        }
        done = services("a benchmark").runner.populate(table, (), order.order, options)
    if done["error_list"]:
        raise RuntimeError(f"trivial jobs failed: {done['error_list'][0]}")
    return int(done["success_count"])
