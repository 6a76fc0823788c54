"""DataJoint's way into the store: the storage protocol `trainloom`.

A store specification reads `{"protocol": "trainloom", "location": "<name>"}`; the name is the one under which the
process has attached a store. DataJoint's paths end in the sha256 of the bytes they hold; what precedes it is ignored,
so that the same content is one object however many tables name it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any, BinaryIO

import datajoint as dj
import fsspec
from datajoint import storage_adapter

from .address import checked_sha256
from .errors import NotAnAddress, ObjectMissing, StoreError
from .interface import Store

PROTOCOL = "trainloom"

_attached: dict[str, Store] = {}  # per process: forked children inherit it, spawned ones open their own session


class NotContentAddressed(StoreError, ValueError):
    """A path does not end in the sha256 of the bytes it stands for."""


class NotAttached(StoreError):
    """A specification names a store that this process has not attached."""


def attach(name: str, store: Store) -> None:
    """Let specifications with this location reach `store`; a store attached before under this name is replaced."""
    _attached[name] = store


def detach(name: str) -> None:
    """Undo `attach`; no error if nothing is attached."""
    _attached.pop(name, None)


def register() -> None:
    """Make the protocol known to DataJoint also where its entry point is not installed; may be called repeatedly."""
    # DataJoint offers entry points only, which do not exist in a checkout that was never installed.
    storage_adapter._adapter_registry.setdefault(PROTOCOL, TrainloomStorageAdapter())


class TrainloomStorageAdapter(dj.StorageAdapter):
    """Serves stores with `protocol: trainloom` from what this process has attached."""

    protocol = PROTOCOL
    required_keys = ("protocol", "location")
    allowed_keys = ("protocol", "location")

    def create_filesystem(self, spec: dict[str, Any]) -> StoreFileSystem:
        """The file system over the attached store.

        Raises
        ------
        NotAttached
            If nothing is attached under the specification's location.
        """
        name = spec["location"]
        if name not in _attached:
            raise NotAttached(
                f"No store named {name!r} is open in this process: "
                "call `from trainloom import connect; session = connect()` for the project it belongs to"
            )
        return StoreFileSystem(_attached[name])


class StoreFileSystem(fsspec.AbstractFileSystem):
    """A `Store` as fsspec sees it: files without folders, each named by the sha256 of its content.

    Thread-safety, fork-safety, ownership: those of the store.
    """

    protocol = PROTOCOL
    cachable = False  # fsspec would keep the instance, and the store with it, for ever

    def __init__(self, store: Store) -> None:
        super().__init__()
        self._store = store

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        """Store `value`; with any mode, as content never changes.

        Raises
        ------
        NotContentAddressed
            If the path does not end in the sha256 of `value`.
        """
        found = hashlib.sha256(value).hexdigest()
        if _sha256_of(path) != found:
            raise NotContentAddressed(
                f"The path {path!r} does not end in the sha256 of what shall be written there ({found}): "
                "a trainloom store keeps content-addressed values only, use the column type <stored_blob@store>"
            )
        self._store.put(value, kind="blob")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        """The verified content; raises `ObjectDamaged`, and `FileNotFoundError` as fsspec expects."""
        with _file_not_found():
            return self._store.get_bytes(_sha256_of(path))[start:end]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size in bytes, type and time of creation of an object."""
        with _file_not_found():
            stored = self._store.stat(_sha256_of(path))
        return {"name": path, "size": stored.size, "type": "file", "created": stored.created}

    def exists(self, path: str, **_: Any) -> bool:
        # fsspec's own would take a server that is away for a missing file.
        try:
            self.info(path)
        except (FileNotFoundError, NotContentAddressed):
            return False
        return True

    def created(self, path: str) -> datetime:
        """When the object became visible (UTC)."""
        created: datetime = self.info(path)["created"]
        return created

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """There are no folders: only an object itself is listed, everything else is not found."""
        if not self.exists(path):
            raise FileNotFoundError(path)
        return [self.info(path) if detail else path]

    def rm_file(self, path: str) -> None:
        """Refused: rows of several tables may share the object."""
        raise StoreError(
            f"The object at {path!r} may belong to several rows and is not removed through DataJoint: "
            "delete the rows, then let the project's own garbage collection decide"
        )

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        if mode != "rb":
            raise NotContentAddressed(
                f"The path {path!r} cannot be opened with mode {mode!r}: "
                "its name would have to be the sha256 of bytes not yet written, use the column type <stored_blob@store>"
            )
        with _file_not_found():
            return self._store.open(_sha256_of(path))


@contextmanager
def _file_not_found() -> Iterator[None]:
    """Say `FileNotFoundError`, which DataJoint and fsspec understand, where an object is missing."""
    try:
        yield
    except ObjectMissing as error:
        raise FileNotFoundError(str(error)) from error


def _sha256_of(path: str) -> str:
    """The sha256 in a path's last component, before any extension."""
    try:
        return checked_sha256(PurePosixPath(path).name.split(".")[0])
    except NotAnAddress:
        raise NotContentAddressed(
            f"The path {path!r} does not end in a sha256: "
            "a trainloom store keeps content-addressed values only, use the column type <stored_blob@store>"
        ) from None
