"""Where bytes are kept: content-addressed objects behind one small interface."""

from __future__ import annotations

from .interface import (
    ContentChanged,
    NotAnAddress,
    ObjectDamaged,
    ObjectMissing,
    Store,
    StoredObject,
    StoreError,
    StoreUnavailable,
    parse_address,
)

__all__ = [
    "ContentChanged",
    "NotAnAddress",
    "ObjectDamaged",
    "ObjectMissing",
    "Store",
    "StoreError",
    "StoreUnavailable",
    "StoredObject",
    "parse_address",
]
