"""The `metadata` of rendered objects."""

from __future__ import annotations

from typing import Any

from . import labels
from .values import Values


def metadata(values: Values, name: str, **more_labels: str) -> dict[str, Any]:
    """Name, namespace where one is given, labels and annotations."""
    made: dict[str, Any] = {"name": name}
    if values.namespace:
        made["namespace"] = values.namespace
    made["labels"] = {**values.labels, **labels.common(values.name), **more_labels}
    if values.annotations:
        made["annotations"] = dict(values.annotations)
    return made
