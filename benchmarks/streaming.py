"""Minibatches per second through four steps, beside bare bounded queues and Neuraxle.

Neuraxle 0.8.1 pins versions of its requirements that exclude ours, so it is no extra: `pip install --no-deps
neuraxle==0.8.1`. Where it is not installed, its rows are left out, and this is said.
"""

from __future__ import annotations

import importlib.util
import logging.handlers  # noqa: F401 - Neuraxle uses it without importing it
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise, repeat
from typing import Any

import numpy as np

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from datasets_impl.streaming import SequentialQueuedPipeline

STEPS = 4
QUEUED = 10
SMALL, ITEMS = 20_000, 10  # minibatches, and items of each
FEW = 2_000
LARGE = 200  # minibatches of one array each
NEURAXLE_LARGE = 40
FLOATS = (4 << 20) // 8  # of an array: 4 MB


def add_one(items: list[int]) -> list[int]:
    """The step for small items."""
    return [item + 1 for item in items]


def add_one_in_place(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The step for arrays."""
    for array in arrays:
        array += 1
    return arrays


Step = Callable[[Any], Any]


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare small items in threads and processes, and arrays in processes.

    Threads are timed from the call to the last result, processes of ours and bare ones between the first and the last
    result (both start theirs anew for each run), Neuraxle's from the call to its return.
    """
    programs: dict[str, Program] = {
        "threads": lambda _: _ours(range(SMALL * ITEMS), ITEMS, SMALL, add_one),
        "bare threads": lambda _: _bare_threads(SMALL),
        "processes": lambda _: _ours(range(SMALL * ITEMS), ITEMS, SMALL, add_one, use_processes=True),
        "bare processes": lambda _: _bare_processes(_small_batches(), SMALL, add_one),
        "arrays": lambda _: _ours(_arrays(LARGE), 1, LARGE, add_one_in_place, use_processes=True),
        "bare arrays": lambda _: _bare_processes(([array] for array in _arrays(LARGE)), LARGE, add_one_in_place),
    }
    installed = importlib.util.find_spec("neuraxle") is not None
    if installed:
        programs |= {
            "few": lambda _: _ours(range(FEW * ITEMS), ITEMS, FEW, add_one),
            "neuraxle": lambda _: _neuraxle(list(range(SMALL * ITEMS)), ITEMS, SMALL, add_one),
            "neuraxle few": lambda _: _neuraxle(list(range(FEW * ITEMS)), ITEMS, FEW, add_one),
            "neuraxle arrays": lambda _: _neuraxle(
                list(_arrays(NEURAXLE_LARGE)), 1, NEURAXLE_LARGE, add_one_in_place, use_processes=True
            ),
        }
    rates = interleave(programs, pairs)

    def row(name: str, ours: str, peer: str, least: float | None = None) -> Comparison:
        bar = None if least is None else Bar(least, at_most=False)
        return Comparison(name, rates[ours], rates[peer], "minibatches/s", bar)

    small, arrays = f"{SMALL:,} minibatches of {ITEMS} integers", f"{LARGE} arrays of 4 MB"
    rows: list[Comparison | Check] = [
        row(f"{small}, {STEPS} steps in threads / bare `queue.Queue({QUEUED})`", "threads", "bare threads"),
        row(f"{small}, in processes / bare `multiprocessing.Queue({QUEUED})`", "processes", "bare processes", 0.75),
        row(f"{arrays}, in processes / bare `multiprocessing.Queue({QUEUED})`", "arrays", "bare arrays"),
    ]
    if not installed:
        missing = "left out: pip install --no-deps neuraxle==0.8.1 to measure beside it"
        return [*rows, Check("the same beside Neuraxle", None, missing)]
    return [
        *rows,
        row(f"{small}, in threads / Neuraxle 0.8.1", "threads", "neuraxle", 25),
        row(
            f"{FEW:,} minibatches, in threads / Neuraxle 0.8.1, which slows down with their number",
            "few",
            "neuraxle few",
        ),
        row(f"{arrays}, in processes / Neuraxle 0.8.1 ({NEURAXLE_LARGE} arrays)", "arrays", "neuraxle arrays", 10),
    ]


def _arrays(count: int) -> Iterable[np.ndarray]:
    return repeat(np.zeros(FLOATS), count)


def _small_batches() -> Iterable[list[int]]:
    return (list(range(start, start + ITEMS)) for start in range(0, SMALL * ITEMS, ITEMS))


def _ours(items: Iterable[Any], batch_size: int, count: int, step: Step, use_processes: bool = False) -> float:
    pipeline = SequentialQueuedPipeline(
        [step] * STEPS, batch_size, max_queued_minibatches=QUEUED, use_processes=use_processes
    )
    started = time.perf_counter()
    results = pipeline.stream(items)
    if use_processes:
        next(results)
        count -= 1
        started = time.perf_counter()
    got = sum(1 for _ in results)
    return _rate(got, count, started)


def _bare_threads(count: int) -> float:
    queues: list[Any] = [queue.Queue(QUEUED) for _ in range(STEPS + 1)]
    started = time.perf_counter()
    for inlet, outlet in pairwise(queues):
        threading.Thread(target=_serve, args=(inlet, outlet, add_one)).start()
    threading.Thread(target=_feed, args=(queues[0], _small_batches())).start()
    got = sum(1 for _ in iter(queues[-1].get, None))
    return _rate(got, count, started)


def _bare_processes(batches: Iterable[Any], count: int, step: Step) -> float:
    context = multiprocessing.get_context("spawn")
    queues: list[Any] = [context.Queue(QUEUED) for _ in range(STEPS + 1)]
    processes = [context.Process(target=_serve, args=(inlet, outlet, step)) for inlet, outlet in pairwise(queues)]
    for process in processes:
        process.start()
    threading.Thread(target=_feed, args=(queues[0], batches)).start()
    queues[-1].get()
    started = time.perf_counter()
    got = sum(1 for _ in iter(queues[-1].get, None))
    rate = _rate(got, count - 1, started)
    for process in processes:
        process.join()
    return rate


def _feed(inlet: Any, batches: Iterable[Any]) -> None:
    for batch in batches:
        inlet.put(batch)
    inlet.put(None)


def _serve(inlet: Any, outlet: Any, step: Step) -> None:
    while (batch := inlet.get()) is not None:
        outlet.put(step(batch))
    outlet.put(None)


def _neuraxle(items: Sequence[Any], batch_size: int, count: int, step: Step, use_processes: bool = False) -> float:
    from neuraxle.base import BaseTransformer
    from neuraxle.distributed.streaming import SequentialQueuedPipeline as Peer

    class Call(BaseTransformer):
        def transform(self, data_inputs: Any) -> Any:
            return step(data_inputs)

    steps = [(f"step {number}", 1, QUEUED, Call()) for number in range(STEPS)]
    pipeline = Peer(steps, batch_size=batch_size, max_queued_minibatches=QUEUED, use_processes=use_processes)
    started = time.perf_counter()
    got = len(pipeline.transform(items))
    return _rate(got // batch_size, count, started)


def _rate(got: int, count: int, started: float) -> float:
    seconds = time.perf_counter() - started
    if got != count:
        raise RuntimeError(f"{count} minibatches were to come out, {got} did")
    return count / seconds
