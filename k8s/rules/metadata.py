"""Names, labels and annotations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from k8s import names
from k8s.finding import Problem
from k8s.schema import Node, below

from .rule import Scene, rule

ANNOTATIONS_MAX = 256 * 1024  # bytes, all together
LABEL_CURE = "at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit"


@rule("Job", "ConfigMap", "Secret", "ServiceAccount", "Service", "ScaledJob", "TriggerAuthentication")
def _name(node: Node, _: Scene) -> Iterator[Problem]:
    metadata = node.value.get("metadata") or {}
    name, kind = metadata.get("name"), node.type
    if name is None:
        if not metadata.get("generateName"):
            yield Problem("metadata.name", "is missing", "give one")
        return
    if kind in ("Job", "Service", "ScaledJob"):  # pods, their host names and addresses are made of it
        if not names.is_label(name):
            yield Problem(
                "metadata.name",
                f"{_shown(name)} names no {kind}",
                f"use lower-case letters, digits and hyphens, a letter or digit at both ends, {names.LABEL_MAX} in all",
            )
    elif not names.is_subdomain(name):
        yield Problem(
            "metadata.name",
            f"{_shown(name)} names no {kind}",
            "use lower-case letters, digits, hyphens and dots, a letter or digit at both ends",
        )


@rule("ObjectMeta")
def _labels(node: Node, _: Scene) -> Iterator[Problem]:
    yield from label_problems(node.at("labels"), node.value.get("labels") or {})
    annotations = node.value.get("annotations") or {}
    for key in annotations:
        if not names.is_qualified(key.lower()):
            yield Problem(below(node.at("annotations"), key), "is no key of an annotation", LABEL_CURE)
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_MAX:
        yield Problem(node.at("annotations"), "hold more than 256 KiB", "put the content into a ConfigMap")
    namespace = node.value.get("namespace")
    if namespace is not None and not names.is_label(namespace):
        yield Problem(node.at("namespace"), f"{_shown(namespace)} is no namespace", "use a name such as my-lab")


def label_problems(path: str, labels: Mapping[str, str]) -> Iterator[Problem]:
    """What is wrong with keys and values of labels."""
    for key, value in labels.items():
        where = below(path, key)
        if not names.is_qualified(key):
            yield Problem(where, "is no key of a label", f"use {LABEL_CURE}, perhaps after a domain and a slash")
        if not names.is_label_value(value):
            yield Problem(where, f"{_shown(value)} is no value of a label", f"use {LABEL_CURE}")


@rule("RoleBinding")
def _subjects(node: Node, _: Scene) -> Iterator[Problem]:
    for index, subject in enumerate(node.value.get("subjects") or []):
        if subject.get("kind") == "ServiceAccount" and not subject.get("namespace"):
            yield Problem(f"subjects[{index}].namespace", "is missing", "say in which namespace the ServiceAccount is")


def _shown(text: str) -> str:
    return repr(text if len(text) <= names.LABEL_MAX else f"{text[:40]}… ({len(text)} characters)")
