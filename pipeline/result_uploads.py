"""What a finished training leaves in the store: its weights and the values that its rows only name."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas import stored_blob
from schemas.training_result import EXTERNAL_STORE

from .store import datajoint_adapter
from .store.interface import Store

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SMALL = 1 << 20  # bytes of weights that go into the store together with the blobs


def upload(
    store: Store, weights: Path, blobs: Mapping[str, Any], moved: Callable[[], None] = lambda: None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Put the weights, if there are any, and every value of `blobs` into the store; harmless a second time. `moved` is
    called whenever a part of large weights was read on its way there.

    Returns the rows of artifacts, and what stands for the blobs in a row to insert.
    """
    packed = {name: _packed(name, value) for name, value in blobs.items()}
    contents = [(content, "blob") for content in packed.values()]
    size = weights.stat().st_size if weights.is_file() else None
    if size is not None and size <= SMALL:
        contents.append((weights.read_bytes(), "weights"))
    stored = store.put_all(contents)
    uploaded = _references(packed, stored)
    if size is None:
        return [], uploaded
    artifact = {
        "artifact_name": "weights",
        "artifact_sha256": stored[-1] if size <= SMALL else _put(store, weights, moved),
        "artifact_size": size,
        "artifact_kind": _format_of(weights),
    }
    return [artifact], uploaded


def upload_blobs(store: Store, blobs: Mapping[str, Any]) -> dict[str, Any]:
    """Put every value into the store; what stands for them in a row to insert. Harmless a second time."""
    packed = {name: _packed(name, value) for name, value in blobs.items()}
    return _references(packed, store.put_all([(content, "blob") for content in packed.values()]))


def takes_blobs(table: Any) -> bool:
    """Whether the blobs of this table lie in our store; then nothing slow is left for the insert's transaction."""
    protocol: str = table.connection._config.stores[EXTERNAL_STORE]["protocol"]
    return protocol == datajoint_adapter.PROTOCOL


def _references(packed: Mapping[str, bytes], stored: Sequence[str]) -> dict[str, Any]:
    """What stands in a row for contents, the first of those whose sha256 are given."""
    return {
        name: stored_blob.Uploaded(sha256, len(content))
        for (name, content), sha256 in zip(packed.items(), stored, strict=False)
    }


def watched(file: Path | int, moved: Callable[[], None]) -> io.BufferedReader:
    """A file to upload, by its path or its descriptor, which stays open; `moved` is called whenever a part is read."""
    return io.BufferedReader(_WatchedFile(file, moved))


class _WatchedFile(io.FileIO):
    """A file that tells when it is read."""

    def __init__(self, file: Path | int, moved: Callable[[], None]) -> None:
        super().__init__(file, closefd=not isinstance(file, int))
        self._moved = moved

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        self._moved()
        return super().readinto(buffer)


def _put(store: Store, weights: Path, moved: Callable[[], None]) -> str:
    with watched(weights, moved) as stream:
        return store.put(stream, kind="weights").sha256


def _packed(name: str, value: Any) -> bytes:
    return _packed_texts(tuple(value.items())) if name == "code_texts" else stored_blob.pack(value)


@functools.lru_cache(maxsize=16)
def _packed_texts(texts: tuple[tuple[str, str], ...]) -> bytes:
    """Packed once: the code of one task is mostly that of the next, and compressing it takes milliseconds."""
    return stored_blob.pack(dict(texts))


def _format_of(path: Path) -> str:
    """The format of a weights file, by its first bytes: a safetensors file begins with the size of a JSON header,
    torch.save's is a zip."""
    with path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"PK"):
        return "torch"
    return "safetensors" if head[8:] == b"{" else "bytes"
