"""The column type `<stored_blob@store>`: a value outside the database, named and verified by the sha256 of its bytes.

The value is packed with `datajoint.blob`, a plain data format (numbers, text, arrays, containers, dates): unlike a
pickle it can hold no code, so that reading a row executes nothing. The column itself is json:
`{"sha256", "size", "store", "path"}`. It works on every DataJoint store; equal values are one object of it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from datajoint import blob
from datajoint.builtin_codecs.schema import SchemaCodec
from datajoint.errors import MissingExternalFile

from .errors import SchemaError


class StoredBlobError(SchemaError):
    """A value kept outside the database cannot be read back."""


class StoredBlobMissing(StoredBlobError):
    """The store does not hold the object that a row names."""


class StoredBlobDamaged(StoredBlobError):
    """The stored bytes are not those that the row names."""


@dataclass(frozen=True)
class Uploaded:
    """Stands for a value in a row to insert whose packed bytes lie in the column's store already."""

    sha256: str
    size: int


def pack(value: Any) -> bytes:
    """The bytes that a value is stored as: equal values give equal bytes."""
    packed: bytes = blob.pack(value, compress=True)
    return packed


class StoredBlob(SchemaCodec):
    """Codec `stored_blob`; to be used with a store, as in `history : <stored_blob@external_training_result>`."""

    name = "stored_blob"

    def encode(
        self,
        value: Any,
        *,
        key: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
        store_name: str | None = None,
    ) -> dict[str, Any]:
        """Pack `value`, write it to the store and return what the column holds; of `Uploaded` only the last.

        Raises
        ------
        DataJointError
            If a type in `value` cannot be packed or the store is not configured.
        """
        store_name = store_name or None  # `@` alone means the default store
        backend = self._get_backend(store_name, config=self._codec_config(key, context))
        content = None if isinstance(value, Uploaded) else pack(value)
        named = value if content is None else Uploaded(hashlib.sha256(content).hexdigest(), len(content))
        folders = (backend.spec["hash_prefix"].strip("/"), named.sha256[:2], named.sha256)
        path = "/".join(part for part in folders if part)
        if content is not None:
            self._put(backend, content, path)
        return {"sha256": named.sha256, "size": named.size, "store": store_name, "path": path}

    @staticmethod
    def _put(backend: Any, content: bytes, path: str) -> None:
        try:
            backend.put_buffer(content, path)
        except FileNotFoundError:
            # On stores in a folder DataJoint gives the temporary file of all writers of a path one name: another
            # process, which wrote the same content, has renamed it already.
            backend.put_buffer(content, path)

    def decode(self, stored: Any, *, key: dict[str, Any] | None = None, context: dict[str, Any] | None = None) -> Any:
        """Read, verify and unpack.

        Raises
        ------
        StoredBlobMissing
            If the object is not in the store.
        StoredBlobDamaged
            If its bytes are not those the row names; they are not unpacked then.
        """
        if isinstance(stored, str):
            stored = json.loads(stored)
        sha256, store = stored["sha256"], stored["store"] or "default"
        backend = self._get_backend(stored["store"], config=self._codec_config(key, context))
        try:
            content = backend.get_buffer(stored["path"])
        except MissingExternalFile as error:
            raise StoredBlobMissing(
                f"The object {sha256} is not in the store {store!r}: restore the store from a backup, "
                "or delete the row and compute it again"
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if found != sha256:
            raise StoredBlobDamaged(
                f"The object {sha256} in the store {store!r} is damaged (its bytes have the sha256 {found}): "
                f"restore {stored['path']} from a backup, or delete the object and the row and compute it again"
            )
        return blob.unpack(content)
