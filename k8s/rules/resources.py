"""Requests and limits."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from k8s import names, quantity
from k8s.finding import Problem
from k8s.schema import Node, below

from .rule import Scene, rule

STANDARD = ("cpu", "memory", "ephemeral-storage")
HUGE_PAGES = "hugepages-"
LEAST_BYTES = Decimal(2**20)


def is_extended(name: str) -> bool:
    """Whether a resource is one that only whole pieces of are given, such as ``nvidia.com/gpu``."""
    return "/" in name


@rule("ResourceRequirements")
def _requirements(node: Node, _: Scene) -> Iterator[Problem]:
    limits = {name: quantity.amount(text) for name, text in (node.value.get("limits") or {}).items()}
    requests = {name: quantity.amount(text) for name, text in (node.value.get("requests") or {}).items()}
    for field, given in (("limits", limits), ("requests", requests)):
        for name, amount in given.items():
            yield from _resource(below(node.at(field), name), name, amount)
    for name, requested in requests.items():
        where = below(node.at("requests"), name)
        if is_extended(name) or name.startswith(HUGE_PAGES):
            if name not in limits:
                yield Problem(where, "has no limit beside it", f"give limits.{name} the same value")
            elif limits[name] != requested:
                yield Problem(where, f"is {requested}, but the limit is {limits[name]}", "both must be the same")
        elif name in limits and requested > limits[name]:
            texts = node.value["requests"][name], node.value["limits"][name]
            yield Problem(where, f"is {texts[0]}, more than the limit {texts[1]}", "lower it or raise the limit")


def _resource(path: str, name: str, amount: Decimal) -> Iterator[Problem]:
    if not is_extended(name) and name not in STANDARD and not name.startswith(HUGE_PAGES):
        cure = "did you mean nvidia.com/gpu?" if "gpu" in name.lower() else f"there are {', '.join(STANDARD)}"
        yield Problem(path, "is no resource", f"{cure}; others have a domain before a slash")
    elif is_extended(name) and not names.is_qualified(name):
        yield Problem(path, "is no name of a resource", "write domain/name, such as nvidia.com/gpu")
    if amount < 0:
        yield Problem(path, "is negative", "give what is needed")
    elif is_extended(name) and amount != amount.to_integral_value():
        yield Problem(path, f"is {amount}, and there are only whole ones", "give a whole number")
    elif name in ("memory", "ephemeral-storage") and 0 < amount < LEAST_BYTES:
        cure = "add its unit, such as Gi; m means thousandths"
        yield Problem(path, f"is {amount.normalize():f} bytes, with which nothing starts", cure)
