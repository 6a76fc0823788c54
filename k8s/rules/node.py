"""Where pods may run: affinity, selectors, tolerations."""

from __future__ import annotations

import re
from collections.abc import Iterator

from k8s import names
from k8s.finding import Problem
from k8s.schema import Node

from .metadata import LABEL_CURE, label_problems
from .rule import Scene, rule

_INTEGER = re.compile(r"[+-]?\d+")


@rule("NodeSelectorRequirement")
def _requirement(node: Node, _: Scene) -> Iterator[Problem]:
    operator, values = node.value.get("operator"), node.value.get("values") or []
    key = node.value.get("key", "x")
    if ".matchFields[" not in node.path and not names.is_qualified(key):
        yield Problem(node.at("key"), f"{key!r} is no key of a label", f"use {LABEL_CURE}")
    if operator in ("In", "NotIn") and not values:
        yield Problem(node.at("values"), f"is empty, and {operator} needs some", "give the values of the label")
    if operator in ("Exists", "DoesNotExist") and values:
        yield Problem(node.at("values"), f"has values, and {operator} takes none", "remove them, or use In")
    if operator in ("Gt", "Lt"):
        if len(values) != 1:
            yield Problem(node.at("values"), f"has {len(values)} values, and {operator} takes one", "give one number")
        elif not _INTEGER.fullmatch(values[0]):
            yield Problem(
                node.at("values"),
                f"is {values[0]!r}, and {operator} compares whole numbers: no node would ever fit",
                "give a number without unit; labels of GPU memory are in MiB",
            )
    elif ".matchFields[" not in node.path:
        for index, value in enumerate(values):
            if not names.is_label_value(value):
                yield Problem(f"{node.at('values')}[{index}]", f"{value!r} is no value of a label", f"use {LABEL_CURE}")


@rule("NodeSelector")
def _terms(node: Node, _: Scene) -> Iterator[Problem]:
    terms = node.value.get("nodeSelectorTerms")
    if terms == []:
        yield Problem(node.at("nodeSelectorTerms"), "is empty", "give a term, or remove the affinity")
    for index, term in enumerate(terms or []):
        if not term.get("matchExpressions") and not term.get("matchFields"):
            path = f"{node.at('nodeSelectorTerms')}[{index}]"
            yield Problem(path, "is empty, which fits no node", "give matchExpressions, or remove it")


@rule("PodSpec")
def _selector(node: Node, _: Scene) -> Iterator[Problem]:
    yield from label_problems(node.at("nodeSelector"), node.value.get("nodeSelector") or {})


@rule("Toleration")
def _toleration(node: Node, _: Scene) -> Iterator[Problem]:
    operator, key = node.value.get("operator", "Equal"), node.value.get("key", "")
    if operator == "Exists" and node.value.get("value"):
        yield Problem(node.at("value"), "is given, and Exists takes none", "remove it, or use operator: Equal")
    if operator == "Equal" and not key:
        yield Problem(node.at("key"), "is missing", "name the taint, or use operator: Exists for all taints")
    if key and not names.is_qualified(key):
        yield Problem(node.at("key"), f"{key!r} is no key of a taint", f"use {LABEL_CURE}")
    if not names.is_label_value(node.value.get("value", "")):
        yield Problem(node.at("value"), f"{node.value['value']!r} is no value of a taint", f"use {LABEL_CURE}")
    if "tolerationSeconds" in node.value and node.value.get("effect") != "NoExecute":
        yield Problem(node.at("tolerationSeconds"), "needs effect: NoExecute", "set the effect, or remove it")


@rule("LabelSelectorRequirement")
def _label_requirement(node: Node, _: Scene) -> Iterator[Problem]:
    operator, values = node.value.get("operator"), node.value.get("values") or []
    if (operator in ("In", "NotIn")) != bool(values) and operator is not None:
        problem = "is empty" if not values else f"has values, and {operator} takes none"
        yield Problem(node.at("values"), problem, "In and NotIn need values, the others take none")


@rule("LabelSelector")
def _match_labels(node: Node, _: Scene) -> Iterator[Problem]:
    yield from label_problems(node.at("matchLabels"), node.value.get("matchLabels") or {})
