"""What a namespace with the Pod Security level `restricted` forbids.

The Job is accepted there all the same: each of its pods is then forbidden, and only an event says so.
https://kubernetes.io/docs/concepts/security/pod-security-standards/
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.finding import Problem
from k8s.schema import Node

from .pod import containers
from .rule import Scene, rule

WHERE = "a namespace that enforces the level `restricted`"
BASELINE = "a namespace that enforces the level `baseline` or `restricted`"
VOLUMES = ("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret")


def _forbidden(path: str, what: str, cure: str, where: str = WHERE) -> Problem:
    return Problem(path, f"{what}: {where} forbids every such pod", cure, "warning")


@rule("PodSpec")
def _host(node: Node, _: Scene) -> Iterator[Problem]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if node.value.get(field):
            yield _forbidden(
                node.at(field), "shares the node's", "remove it; pods have a network of their own", BASELINE
            )
    for index, volume in enumerate(node.value.get("volumes") or []):
        path = f"{node.at('volumes')}[{index}]"
        if "hostPath" in volume:
            cure = "use a PersistentVolumeClaim, if you can"
            yield _forbidden(f"{path}.hostPath", "is a folder of the node", cure, BASELINE)
        for source in set(volume) - {"name", "hostPath", "image", *VOLUMES}:
            yield _forbidden(f"{path}.{source}", "is such a volume", "use a PersistentVolumeClaim, if you can")


@rule("PodSpec")
def _containers(node: Node, _: Scene) -> Iterator[Problem]:
    pod = node.value.get("securityContext") or {}
    for path, container in containers(node):
        own = container.get("securityContext") or {}
        both = {**pod, **own}
        where = f"{path}.securityContext"
        yield from _rights(where, own)
        if both.get("runAsNonRoot") is not True:
            yield _forbidden(f"{where}.runAsNonRoot", "is not true", "set it")
        if both.get("runAsUser") == 0:
            yield _forbidden(f"{where}.runAsUser", "is root", "give another number")
        if (both.get("seccompProfile") or {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield _forbidden(f"{where}.seccompProfile", "is not RuntimeDefault", "set it")


def _rights(where: str, own: Mapping[str, Any]) -> Iterator[Problem]:
    if own.get("privileged"):
        yield _forbidden(f"{where}.privileged", "is true", "remove it", BASELINE)
    if own.get("allowPrivilegeEscalation") is not False:
        yield _forbidden(f"{where}.allowPrivilegeEscalation", "is not false", "set it to false")
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or []):
        yield _forbidden(f"{where}.capabilities.drop", "does not hold ALL", "set it to [ALL]")
    if set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield _forbidden(f"{where}.capabilities.add", "gives rights", "remove them")
