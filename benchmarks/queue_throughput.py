"""Jobs per second of our workers beside DataJoint's `populate`, and whether a long queue slows them down."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from benchmarks.idle_worker import one_query_per_poll
from benchmarks.scratch_mariadb import SERVER, scratch_mariadb
from benchmarks.scratch_project import scratch_project
from benchmarks.trivial_tables import Crowded, Ours, Stock, activate, fill
from benchmarks.worker_crew import Crew, Order, crew
from trainloom import Session

SHORT, LONG = 1_000, 100_000
"""Queued jobs. The pairs with DataJoint have the short queue, to be many: neither side is faster in a longer one."""

POSTGRESQL = {1: 1.6, 4: 2.4, 8: 3.2}
MARIADB = {4: 1.3}
"""Number of workers: the bar for our rate over DataJoint's."""

TAKERS, TAKEN_EACH = 4, 125
"""From either queue four workers take 500 jobs, so that the short one is half full in the end."""


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare on each backend that is here."""
    results: list[Comparison | Check] = []
    with scratch_project() as session:
        results += _on_backend("PostgreSQL", session, POSTGRESQL, pairs)
        results.append(one_query_per_poll(session))
    if SERVER is None:
        results.append(Check("MariaDB", False, "not measured: mariadbd is not installed"))
        return results
    with scratch_mariadb() as url, scratch_project(database_url=url) as session:
        results += _on_backend("MariaDB", session, MARIADB, pairs)
    return results


def _on_backend(name: str, session: Session, bars: dict[int, float], pairs: int) -> list[Comparison]:
    activate(session.connection)
    with crew(session.settings, max(bars)) as workers:
        compared = [_beside_stock(name, workers, count, bar, pairs) for count, bar in bars.items()]
        return compared + _long_beside_short(name, workers, pairs)


def _beside_stock(name: str, workers: Crew, count: int, bar: float, pairs: int) -> Comparison:
    programs: dict[str, Program] = {
        "ours": lambda _: _emptying(Ours(), workers, count),
        "stock": lambda _: _emptying(Stock(), workers, count),
    }
    rates = interleave(programs, pairs)
    title = f"{name}: {SHORT:,} queued jobs made by {count} worker{'s' if count > 1 else ''} / by DataJoint's"
    return Comparison(title, rates["ours"], rates["stock"], "jobs/s", Bar(bar, at_most=False))


def _emptying(table: Any, workers: Crew, count: int) -> float:
    """Jobs per second while so many workers make all that is queued; queueing is not counted."""
    fill(table, SHORT)
    return _rate(workers, Order(type(table).__name__), count, SHORT)


def _long_beside_short(name: str, workers: Crew, pairs: int) -> list[Comparison]:
    programs: dict[str, Program] = {
        f"{order} {length}": partial(_taking, workers, order, table, length)
        for order in ("original", "random")
        for table, length in ((Ours(), SHORT), (Crowded(), LONG))
    }
    rates = interleave(programs, pairs)
    return [
        Comparison(
            f"{name}: {LONG:,} queued jobs / {SHORT:,}, {order} order",
            rates[f"{order} {LONG}"],
            rates[f"{order} {SHORT}"],
            "jobs/s",
            Bar(0.8, at_most=False),
        )
        for order in ("original", "random")
    ]


def _taking(workers: Crew, order: str, table: Any, length: int, _: int) -> float:
    fill(table, length)
    return _rate(workers, Order(type(table).__name__, order, TAKEN_EACH), TAKERS, TAKERS * TAKEN_EACH)


def _rate(workers: Crew, order: Order, count: int, jobs: int) -> float:
    started = time.perf_counter()
    done = workers.work(order, count)
    seconds = time.perf_counter() - started
    if done != jobs:
        raise RuntimeError(f"{jobs} jobs were to be made, {done} were")
    return jobs / seconds
