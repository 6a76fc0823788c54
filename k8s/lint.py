"""What is wrong with manifests, found before any server sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .finding import Finding
from .manifest import label

__all__ = ["Finding", "lint"]


def lint(objects: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Everything that is wrong with the objects, in their order."""
    return [finding for manifest in objects for finding in _of(manifest)]


def _of(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    if not manifest.get("kind"):
        yield Finding(label(manifest), "kind", "is missing", "name one, such as Job")
