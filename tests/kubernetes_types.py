"""The types of the Kubernetes API that `k8s/types.yaml` holds, read from the official client where it is installed.

`python -m tests.kubernetes_types > k8s/types.yaml` writes the file anew, from a client of version 37 or later.
"""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

import yaml

KINDS = ("Job", "ConfigMap", "Secret", "ServiceAccount", "Role", "RoleBinding", "Service")
LONG_NAMES = {"ResourceClaim": "CoreV1ResourceClaim", "Subject": "RbacV1Subject"}
SHORT_NAMES = {long: short for short, long in LONG_NAMES.items()}
CHECKED_VOLUMES = (
    "ConfigMap|CSI|DownwardAPI|EmptyDir|Ephemeral|HostPath|Image|NFS|PersistentVolumeClaim|Projected|Secret"
)
OPAQUE = re.compile(
    r".*Status|ManagedFieldsEntry|OwnerReference|EphemeralContainer|V1alpha\d.*|EvictionResponder|WorkloadReference"
    rf"|JobSchedulingConfiguration|PodSchedulingGroup|(?!({CHECKED_VOLUMES})V).*VolumeSource"
)
"""Types that are not looked into: filled in by servers, still changing, or volumes that few clusters offer."""
QUANTITIES = {
    "ResourceRequirements.limits",
    "ResourceRequirements.requests",
    "VolumeResourceRequirements.limits",
    "VolumeResourceRequirements.requests",
    "PodSpec.overhead",
    "EmptyDirVolumeSource.sizeLimit",
    "ResourceFieldSelector.divisor",
}
BASIC = {"str": "text", "datetime": "text", "bytes": "text", "bytearray": "text", "int": "int", "bool": "bool"}
HEADER = """\
# Types of the Kubernetes API for the kinds that are rendered: type, field, type of the field; ! marks fields that
# must be there, [x] a list, {{each: x}} a mapping, `any` what is not looked into. Written by
# `python -m tests.kubernetes_types` from version {version} of the official client.
"""


def types() -> dict[str, dict[str, Any]]:
    """Types of fields by field and by type; the name of a required field ends in ``!``."""
    found: dict[str, dict[str, Any]] = {}
    waiting = list(KINDS)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        model, found[name] = _model(name), {}
        for attribute, field in model.attribute_map.items():
            written, used = _written(model.openapi_types[attribute], f"{name}.{field}")
            found[name][field + "!" * _is_required(model, attribute)] = written
            waiting += used
    return found


def _model(name: str) -> Any:
    from kubernetes.client import models

    return getattr(models, LONG_NAMES.get(name, f"V1{name}"))


def _is_required(model: Any, attribute: str) -> bool:
    """Only clients from version 37 on tell."""
    field = getattr(model, "model_fields", {}).get(attribute)
    return field is not None and bool(field.is_required())


def _written(openapi: str, where: str) -> tuple[Any, list[str]]:
    """A type as the file has it, and the types to look into for it."""
    if found := re.fullmatch(r"list\[(.*)\]", openapi, re.IGNORECASE):
        written, used = _written(found[1], where)
        return [written], used
    if found := re.fullmatch(r"dict[\[(]\w+, ?(.*)[\])]", openapi, re.IGNORECASE):
        written, used = _written(found[1], where)
        return {"each": written}, used
    if where in QUANTITIES:
        return "quantity", []
    if openapi in BASIC:
        return BASIC[openapi], []
    name = SHORT_NAMES.get(openapi, openapi.removeprefix("V1"))
    return ("any", []) if openapi == "object" or OPAQUE.fullmatch(name) else (name, [name])


def main() -> None:
    """Print the file."""
    print(HEADER.format(version=metadata.version("kubernetes")), end="")
    for name, fields in sorted(types().items()):
        text = yaml.safe_dump(fields, default_flow_style=True, width=80, sort_keys=True)
        print(f"{name}:\n  " + text.strip().replace("\n", "\n  "))


if __name__ == "__main__":
    main()
