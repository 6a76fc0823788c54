"""Upload and download of a large object, hashing included, beside the driver's own GridFS on the same server."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import gridfs

from benchmarks.comparison import Bar, Check, Comparison, Program, interleave
from benchmarks.scratch_project import scratch_project
from pipeline.store.gridfs import CHUNK_SIZE, GridFSStore
from pipeline.store.interface import PIECE

SIZE = 200 << 20
"""Bytes of the object."""
OLD = 10.0
"""Seconds that the file has not changed: what was written just now is always hashed."""


CHUNKS = {"255 KiB": 255 << 10, "4 MiB": 4 << 20, "8 MiB": 8 << 20}
"""Other sizes of chunks by name; the first is what GridFS takes by itself."""
CHUNKED = 64 << 20
"""Bytes of the object that is cut into them."""


def measure(pairs: int) -> list[Comparison | Check]:
    """Compare first uploads, downloads, second uploads with first ones, and sizes of chunks."""
    with scratch_project() as session:
        return [*_beside_the_driver(session.store, pairs), *_chunk_sizes(session.store, pairs)]


def _beside_the_driver(store: Any, pairs: int) -> list[Comparison]:
    with tempfile.TemporaryDirectory() as folder:
        transfers = _Transfers(store, Path(folder))
        uploads: dict[str, Program] = {"put": transfers.put, "raw put": transfers.put_raw, "again": transfers.put_again}
        downloads: dict[str, Program] = {"get": transfers.get, "raw get": transfers.get_raw}
        # One after the other: the server is busy for a while with what was uploaded.
        rates = {**interleave(uploads, pairs), **interleave(downloads, pairs)}
    megabytes = f"{SIZE >> 20} MiB"
    return [
        Comparison(
            f"upload of {megabytes} / GridFSBucket", rates["put"], rates["raw put"], "MB/s", Bar(0.9, at_most=False)
        ),
        Comparison(
            f"download of {megabytes} / GridFSBucket", rates["get"], rates["raw get"], "MB/s", Bar(0.9, at_most=False)
        ),
        Comparison(
            f"second upload of a file of {megabytes} / the first",
            rates["again"],
            rates["put"],
            "MB/s",
            Bar(10, at_most=False),
        ),
    ]


def _chunk_sizes(store: Any, pairs: int) -> list[Comparison]:
    """Every other size of chunks beside the one that is used."""
    content = os.urandom(CHUNKED)
    sha256 = hashlib.sha256(content).hexdigest()

    def programs(name: str, size: int) -> dict[str, Program]:
        bucket = GridFSStore(lambda: store._database, bucket=f"chunks{size}", chunk_size=size)
        bucket.put(content)

        def put(_: int) -> float:
            bucket.delete(sha256)
            return _rate(lambda: bucket.put(content), CHUNKED)

        def get(_: int) -> float:
            return _rate(lambda: bucket.get_bytes(sha256), CHUNKED)

        return {f"put {name}": put, f"get {name}": get}

    used = f"{CHUNK_SIZE >> 20} MiB"
    sizes = {used: CHUNK_SIZE, **CHUNKS}
    rates = interleave({key: run for name in sizes for key, run in programs(name, sizes[name]).items()}, pairs)
    return [
        Comparison(f"{what} in chunks of {name} / of {used}", rates[f"{key} {name}"], rates[f"{key} {used}"], "MB/s")
        for name in CHUNKS
        for key, what in {"put": "upload", "get": "download"}.items()
    ]


class _Transfers:
    """The same content goes into our store and into a bucket of the driver's, with chunks of the same size."""

    def __init__(self, store: Any, folder: Path) -> None:
        self._store = store
        self._raw = gridfs.GridFSBucket(store._database, "raw", chunk_size_bytes=CHUNK_SIZE)
        self._file, self._copy = folder / "content", folder / "copy"
        self._file.write_bytes(os.urandom(SIZE))
        os.utime(self._file, (time.time() - OLD, time.time() - OLD))
        time.sleep(3)  # the time of the change itself cannot be set back
        self._sha256 = hashlib.sha256(self._file.read_bytes()).hexdigest()
        self._store.put(self._file)
        self._raw_id = self._put_raw()

    def put(self, _: int) -> float:
        self._store.delete(self._sha256)
        return self._settled(lambda: self._store.put(self._file))

    def put_raw(self, _: int) -> float:
        self._raw.delete(self._raw_id)

        def upload() -> None:
            self._raw_id = self._put_raw()

        return self._settled(upload)

    def put_again(self, _: int) -> float:
        self._store.put(self._file)  # whatever ran before
        return _rate(lambda: self._store.put(self._file))

    def get(self, _: int) -> float:
        return self._warm(self._copied)

    def get_raw(self, _: int) -> float:
        return self._warm(lambda copy: self._raw.download_to_stream(self._raw_id, copy))

    def _copied(self, copy: BinaryIO) -> None:
        with self._store.open(self._sha256) as stream:
            shutil.copyfileobj(stream, copy, PIECE)

    def _settled(self, upload: Callable[[], object]) -> float:
        """An upload when the server has written what came before."""
        self._store._database.client.admin.command("fsync")
        return _rate(upload)

    def _warm(self, download: Callable[[BinaryIO], object]) -> float:
        """A download of what the server has read just now: its cache holds no two objects of this size."""
        with self._copy.open("wb") as copy:
            download(copy)
        with self._copy.open("wb") as copy:
            return _rate(lambda: download(copy))

    def _put_raw(self) -> Any:
        file: BinaryIO
        with self._file.open("rb") as file:
            return self._raw.upload_from_stream("content", file)


def _rate(work: Callable[[], object], size: int = SIZE) -> float:
    """Megabytes per second for so many bytes."""
    started = time.perf_counter()
    work()
    return size / 1e6 / (time.perf_counter() - started)
