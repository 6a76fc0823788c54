"""Events per second that are appended and kept, beside one `insert_many` of the same documents by pymongo."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pymongo

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from benchmarks.scratch_project import scratch_project
from pipeline.services import MongoServer
from trainloom import Session

EVENTS = 100_000
TASK = "0123456789abcdef0123456789abcdef"
INDEX = [("task", 1), ("kind", 1), ("time", 1), ("_id", 1)]
"""The index that every event log keeps; the peer's collection has it too, since without it nothing is read quickly."""


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare appending with raw insertion, into a collection with the same index and into one without any."""
    with (
        scratch_project(store="gridfs") as session,
        pymongo.MongoClient(MongoServer(session.home).address.url) as client,
    ):
        database = client["peer"]
        indexed, bare = database["peer_indexed"], database["peer_bare"]
        indexed.create_index(INDEX)
        programs: dict[str, Program] = {
            "ours": lambda _: _ours(session),
            "indexed": lambda _: _raw(indexed),
            "bare": lambda _: _raw(bare),
        }
        rates = interleave(programs, pairs)
    name = f"{EVENTS:,} events appended"
    return [
        Comparison(
            f"{name} / insert_many, the same index",
            rates["ours"],
            rates["indexed"],
            "events/s",
            Bar(0.7, at_most=False),
        ),
        Comparison(
            f"{name} / insert_many, no index", rates["ours"], rates["bare"], "events/s", Bar(0.7, at_most=False)
        ),
    ]


def _ours(session: Session) -> float:
    log = session.events
    log.delete()
    started = time.perf_counter()
    for step in range(EVENTS):
        log.append("training", {"step": step, "loss": 1 / (1 + step), "lr": 1e-3}, task=TASK)
    if not log.flush(60.0):
        raise RuntimeError("the events were not all kept")
    seconds = time.perf_counter() - started
    if log.dropped or log.count() != EVENTS:
        raise RuntimeError(f"{EVENTS} events were to be kept, {log.count()} were")
    return EVENTS / seconds


def _raw(collection: Any) -> float:
    collection.delete_many({})
    started = time.perf_counter()
    collection.insert_many(
        [
            {
                "task": TASK,
                "kind": "training",
                "time": datetime.now(UTC),
                "step": step,
                "loss": 1 / (1 + step),
                "lr": 1e-3,
            }
            for step in range(EVENTS)
        ],
        ordered=False,
    )
    return EVENTS / (time.perf_counter() - started)
