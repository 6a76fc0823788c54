"""How a rule is written: a function of a part of a manifest, registered for the types that it looks at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from k8s.finding import Problem
from k8s.schema import Node


@dataclass(frozen=True)
class Scene:
    """What a rule may look at besides its part.

    Attributes
    ----------
    manifest : the object that the part belongs to.
    objects : all objects that go to the server together.
    """

    manifest: Mapping[str, Any]
    objects: Sequence[Mapping[str, Any]]

    def config_map(self, name: str) -> Mapping[str, str] | None:
        """The data of a ConfigMap that is rendered too, None where it is not."""
        for candidate in self.objects:
            if candidate.get("kind") == "ConfigMap" and (candidate.get("metadata") or {}).get("name") == name:
                return candidate.get("data") or {}
        return None


Rule = Callable[[Node, Scene], Iterator[Problem]]

RULES: dict[str, list[Rule]] = {}
"""Rules by the type of their part; `rule` fills it as the modules beside this one are imported."""


def rule(*types: str) -> Callable[[Rule], Rule]:
    """Register a rule for parts of these types."""

    def register(function: Rule) -> Rule:
        for name in types:
            RULES.setdefault(name, []).append(function)
        return function

    return register


def repeated(items: Sequence[Mapping[str, Any]], field: str) -> Iterator[tuple[int, Any]]:
    """Positions and values of items whose field says what that of an earlier one said."""
    seen = set()
    for index, item in enumerate(items):
        value = item.get(field)
        if value in seen:
            yield index, value
        seen.add(value)
