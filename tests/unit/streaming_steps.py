"""Steps for the tests of streaming pipelines, in a module that spawned processes find."""

from __future__ import annotations

import logging
import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any


def double(items: Any) -> list[Any]:
    return [2 * item for item in items]


def increment(items: Any) -> list[Any]:
    return [item + 1 for item in items]


def unchanged(items: Any) -> Any:
    return items


def in_place(arrays: Any) -> Any:
    for array in arrays:
        array += 1
    return arrays


def uneven(items: Any) -> Any:
    """Some minibatches take longer than those after them."""
    time.sleep(0.003 if items[0] % 3 == 0 else 0.0)
    return items


def without_odd(items: Any) -> list[Any]:
    return [item for item in items if item % 2 == 0]


def no_items(items: Any) -> Any:
    return None


class Multiply:
    """An object with `transform`, whose factor a worker may be given."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def transform(self, items: Any) -> list[Any]:
        return [self.factor * item for item in items]


def shift(items: Any, by: int = 0) -> list[Any]:
    return [item + by for item in items]


class OwnError(Exception):
    """An exception that can be rebuilt."""

    def __init__(self, item: int) -> None:
        super().__init__(item)
        self.item = item


class UnrebuildableError(Exception):
    """An exception that pickle writes and cannot read."""

    def __init__(self, item: int, more: int) -> None:
        super().__init__(f"item {item}")


class Fail:
    """Fails at an item: raises, or ends its process."""

    def __init__(self, how: str, item: int = 35) -> None:
        self.how = how
        self.item = item

    def transform(self, items: Any) -> Any:
        if self.item in items:
            self._fail()
        return items

    def _fail(self) -> None:
        match self.how:
            case "own":
                raise OwnError(self.item)
            case "unrebuildable":
                raise UnrebuildableError(self.item, 1)
            case "stop iteration":
                raise StopIteration
            case "exit":
                sys.exit("enough")
            case "broken pipe":
                raise BrokenPipeError("of the step's own")
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "vanish":
                os._exit(3)
            case "vanish quietly":
                os._exit(0)


class UnreadableResult:
    """Pickles, and cannot be rebuilt."""

    def __reduce__(self) -> Any:
        return _refuse, ()


def _refuse() -> None:
    raise EOFError("not here")


def unreadable(items: Any) -> list[Any]:
    return [UnreadableResult() for _ in items]


def unpicklable(items: Any) -> list[Any]:
    return [lambda: None for _ in items]


def log_each(items: Any) -> Any:
    for item in items:
        logging.getLogger("tests.streaming").info("item %d", item)
        logging.getLogger("tests.streaming").debug("not wanted")
    return items


class Hold:
    """Tells its process id, and then stays in its first call for ever."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def transform(self, items: Any) -> Any:
        (self.folder / str(os.getpid())).touch()
        while True:
            signal.pause()


COUNTERS = struct.Struct("qqq")


class Counted:
    """Counts calls in a file, and the most that the first of two such steps had begun and the second not ended."""

    def __init__(self, path: Path, first: bool) -> None:
        self.path = path
        self.first = first

    def transform(self, items: Any) -> Any:
        with open(self.path, "r+b") as file, mmap.mmap(file.fileno(), COUNTERS.size) as memory:
            if not self.first:
                time.sleep(0.002)  # so that the first has the time to run ahead as far as it may
            begun, ended, most = COUNTERS.unpack_from(memory)
            if self.first:
                struct.pack_into("q", memory, 0, begun + 1)
                struct.pack_into("q", memory, 16, max(most, begun + 1 - ended))
            else:
                struct.pack_into("q", memory, 8, ended + 1)
        return items


class Mean:
    """Learns the mean of all items that it has seen, and subtracts it."""

    def __init__(self) -> None:
        self.count, self.sum = 0, 0.0

    def partial_fit(self, items: Any, expected_outputs: Any = None) -> Mean:
        self.count += len(items)
        self.sum += sum(items)
        return self

    def transform(self, items: Any) -> list[float]:
        return [item - self.sum / self.count for item in items]


class Labels:
    """Learns what is expected of each item."""

    def __init__(self) -> None:
        self.known: dict[Any, Any] = {}

    def fit_transform(self, items: Any, expected_outputs: Any) -> tuple[Labels, list[Any]]:
        self.known.update(zip(items, expected_outputs, strict=True))
        return self, self.transform(items)

    def transform(self, items: Any) -> list[Any]:
        return [self.known[item] for item in items]
