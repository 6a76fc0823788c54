"""On which nodes workers may run."""

from __future__ import annotations

from typing import Any

from . import quantity
from .values import Group, NodeRequirement, Toleration

GPU_MEMORY_SHARE = 0.92
"""Labels of GPU feature discovery are in MiB and not nominal: 39538 on a card of 40 GB, 22731 on one of 24."""
MIB = 2**20


def placement(group: Group) -> dict[str, Any]:
    """The fields of a pod that say where it may run."""
    tolerations = group.tolerations
    if tolerations is None and group.gpus:
        tolerations = (Toleration(key=group.gpu_resource, operator="Exists", effect="NoSchedule"),)
    made = {
        "nodeSelector": dict(group.node_selector),
        "affinity": _affinity(group),
        "tolerations": [_toleration(item) for item in tolerations or ()],
    }
    return {field: given for field, given in made.items() if given}


def gpu_memory_label(group: Group) -> str:
    """The label of a node that holds the memory of its GPUs."""
    return f"{group.gpu_resource}.memory"


def _affinity(group: Group) -> dict[str, Any]:
    required = [_expression(item) for item in group.required_nodes]
    if group.gpu_memory is not None:
        least = int(float(quantity.amount(group.gpu_memory)) * GPU_MEMORY_SHARE / MIB)
        required.append({"key": gpu_memory_label(group), "operator": "Gt", "values": [str(least)]})
    nodes: dict[str, Any] = {}
    if required:
        terms = [{"matchExpressions": required}]
        nodes["requiredDuringSchedulingIgnoredDuringExecution"] = {"nodeSelectorTerms": terms}
    if group.preferred_nodes:
        nodes["preferredDuringSchedulingIgnoredDuringExecution"] = [
            {"weight": item.weight, "preference": {"matchExpressions": [_expression(item)]}}
            for item in group.preferred_nodes
        ]
    return {"nodeAffinity": nodes} if nodes else {}


def _expression(item: NodeRequirement) -> dict[str, Any]:
    values = {"values": list(item.values)} if item.values else {}
    return {"key": item.key, "operator": item.operator, **values}


def _toleration(item: Toleration) -> dict[str, Any]:
    made = {
        "key": item.key,
        "operator": item.operator,
        "value": item.value,
        "effect": item.effect,
        "tolerationSeconds": item.seconds,
    }
    return {field: given for field, given in made.items() if given is not None}
