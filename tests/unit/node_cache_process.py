"""What another process does with a node cache in the tests: `python node_cache_process.py ACTION CACHE BUDGET ...`."""

from __future__ import annotations

import io
import resource
import sys
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.node_cache import CacheFull, NodeCache
from pipeline.store.folder import FolderStore


class GatedStore(FolderStore):
    """Delivers an object's first MiB, then says so on standard output and waits for a line."""

    def open(self, sha256: str) -> BinaryIO:
        with super().open(sha256) as stream:
            content = stream.read()

        class Gated(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell():
                    announce_and_wait("halfway")
                return super().read(size)

        return Gated(content)


def announce_and_wait(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()


def hold(cache: NodeCache, sha256: str, source: str) -> None:
    """Fetch, print the inode, and use the file until a line comes."""
    announce_and_wait(str(cache.fetch("data", sha256, source).stat().st_ino))


def fill_halfway(cache: NodeCache, sha256: str, store: str) -> None:
    cache.fetch("data", sha256, store=GatedStore(store))


def fill_full_disk(cache: NodeCache, sha256: str, source: str) -> None:
    """Fetch where no file may become larger than 1 MiB, which the system reports as it does a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        cache.fetch("data", sha256, source)
    except CacheFull as error:
        print(error, flush=True)


if __name__ == "__main__":
    _, action, folder, budget, *rest = sys.argv
    actions: dict[str, Any] = {"hold": hold, "fill_halfway": fill_halfway, "fill_full_disk": fill_full_disk}
    actions[action](NodeCache(Path(folder), int(budget)), *rest)
