"""Steps for the tests of streaming pipelines, in a module that spawned processes find."""

from __future__ import annotations

from typing import Any


def double(items: Any) -> list[Any]:
    return [2 * item for item in items]


def increment(items: Any) -> list[Any]:
    return [item + 1 for item in items]


def unchanged(items: Any) -> Any:
    return items


class Multiply:
    """An object with `transform`, whose factor a worker may be given."""

    def __init__(self, factor: int = 1) -> None:
        self.factor = factor

    def transform(self, items: Any) -> list[Any]:
        return [self.factor * item for item in items]
