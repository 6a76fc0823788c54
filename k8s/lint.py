"""What is wrong with manifests, found before any server sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from . import schema
from .finding import Finding, Problem
from .manifest import label
from .rules import container, environment, job, metadata, node, pod, pod_security, resources
from .rules.rule import RULES, Scene

__all__ = ["Finding", "lint"]

MODULES = (container, environment, job, metadata, node, pod, pod_security, resources)
"""Imported for the rules that they register."""


def lint(objects: Iterable[Mapping[str, Any]]) -> list[Finding]:
    """Everything that is wrong with the objects, in their order."""
    objects = list(objects)
    structure = [schema.checked(manifest) for manifest in objects]
    together = [cleaned for cleaned, _ in structure]
    return [
        Finding(problem.path, problem.problem, problem.cure, problem.severity, label(manifest))
        for manifest, (cleaned, wrong) in zip(objects, structure, strict=True)
        for problem in (*wrong, *_semantic(Scene(cleaned, together), {problem.path for problem in wrong}))
    ]


def _semantic(scene: Scene, known: set[str]) -> Iterator[Problem]:
    """What the rules find in the parts whose structure is right, but for what is `known` to be wrong."""
    for part in schema.nodes(scene.manifest):
        for rule in RULES.get(part.type, ()):
            for problem in rule(part, scene):
                if problem.path not in known:
                    yield problem
