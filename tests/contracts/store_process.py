"""What another process does with a store in the tests: `python store_process.py FACTORY ARGUMENT ACTION ...`."""

from __future__ import annotations

import io
import resource
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pymongo

from pipeline.store.folder import FolderStore
from pipeline.store.gridfs import GridFSStore
from pipeline.store.interface import Store


def open_store(factory: str, argument: str) -> Store:
    """The store `folder ROOT` or `gridfs URI|DATABASE`."""
    if factory == "folder":
        return FolderStore(argument)
    uri, database = argument.split("|")
    return GridFSStore(lambda: pymongo.MongoClient(uri)[database])


SENT = 8 << 20  # bytes that a store sends together


class GatedStream(io.BytesIO):
    """Stops once in the second pass (the upload), after `gate` bytes and when it has `begun`: prints "halted" and waits
    for a line."""

    def __init__(self, content: bytes, gate: int, begun: Callable[[], bool]) -> None:
        super().__init__(content)
        self._gate: int | None = gate
        self._begun = begun
        self._passes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._passes += self.tell() == 0
        if self._passes == 2 and self._gate is not None and self.tell() >= self._gate:
            self._gate = None
            while not self._begun():
                time.sleep(0.01)
            _halt()
        return super().read(size)


def peak_memory() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def put_gated(store: Store, path: str, gate: str) -> Any:
    def begun() -> bool:
        """Whether something is stored of what was read so far, if that is enough to be sent."""
        return int(gate) < SENT or any(store.unfinished(store.now() + timedelta(hours=1)))

    return store.put(GatedStream(Path(path).read_bytes(), int(gate), begun)).sha256


def halt_at(store: Any, point: str) -> None:
    """Let this process print "halted" and wait for a line, once, the next time that an upload comes to a point:
    ``unpublished``, when all of its bytes are stored, or ``published``, when its object is visible."""
    for name in ("_publish", "_publish_together"):
        if hasattr(store, name):
            setattr(store, name, _halting(getattr(store, name), point))


def _halting(publish: Callable[..., Any], point: str) -> Callable[..., Any]:
    def halted(*args: Any) -> Any:
        if point == "unpublished":
            _halt()
        published = publish(*args)
        if point == "published":
            _halt()
        return published

    return halted


def _halt() -> None:
    print("halted", flush=True)
    sys.stdin.readline()


def put(store: Store, path: str) -> Any:
    return store.put(Path(path)).sha256


def put_halted(store: Store, path: str, point: str) -> Any:
    if point == "halfway":
        return put_gated(store, path, str(Path(path).stat().st_size // 2))
    halt_at(store, point)
    return put(store, path)


def put_all_halted(store: Store, path: str, point: str) -> Any:
    """The same with a content that is stored together with others."""
    halt_at(store, point)
    return store.put_all([(Path(path).read_bytes(), "")])[0]


def measure(store: Store, path: str, copy: str) -> Any:
    """Bytes by which storing and downloading a large file raised the peak over that of a small one."""
    store.download(store.put(b"small").sha256, copy)
    before = peak_memory()
    store.download(store.put(Path(path)).sha256, copy)
    return peak_memory() - before


if __name__ == "__main__":
    _, factory, argument, chosen, *rest = sys.argv
    actions: dict[str, Callable[..., Any]] = {
        action.__name__: action for action in (put, put_gated, put_halted, put_all_halted, measure)
    }
    print(actions[chosen](open_store(factory, argument), *rest), flush=True)
