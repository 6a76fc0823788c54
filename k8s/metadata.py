"""The `metadata` of rendered objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import labels
from .values import Values


def metadata(values: Values, name: str, own: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Name, namespace where one is given, labels (those of the object itself are `own`) and annotations."""
    made: dict[str, Any] = {"name": name}
    if values.namespace is not None:
        made["namespace"] = values.namespace
    made["labels"] = {**values.labels, **labels.common(values.name), **(own or {})}
    if values.annotations:
        made["annotations"] = dict(values.annotations)
    return made
