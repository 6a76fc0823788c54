"""Kinds of objects and the paths under which an API server keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True)
class Resource:
    """A kind of object: its API group (empty for the core), version and plural name."""

    kind: str
    version: str = "v1"
    group: str = ""

    @classmethod
    def of(cls, manifest: Mapping[str, Any]) -> Resource:
        """The kind of a manifest."""
        group, _, version = manifest["apiVersion"].rpartition("/")
        return cls(manifest["kind"], version, group)

    @property
    def plural(self) -> str:
        """As paths and permissions name it; all kinds that are used here form it with an s."""
        return f"{self.kind.lower()}s"

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Of the collection, of one object, or of a part of it; without a namespace for what belongs to none."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        place = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
        rest = "".join(f"/{quote(part, safe='')}" for part in (name, subresource) if part)
        return f"{root}{place}/{self.plural}{rest}"


JOB = Resource("Job", group="batch")
POD = Resource("Pod")
EVENT = Resource("Event")
SECRET = Resource("Secret")
NAMESPACE = Resource("Namespace")
RESOURCE_QUOTA = Resource("ResourceQuota")
CONFIG_MAP = Resource("ConfigMap")
SERVICE = Resource("Service")
SERVICE_ACCOUNT = Resource("ServiceAccount")
ROLE = Resource("Role", group="rbac.authorization.k8s.io")
ROLE_BINDING = Resource("RoleBinding", group="rbac.authorization.k8s.io")
ACCESS_REVIEW = Resource("SelfSubjectAccessReview", group="authorization.k8s.io")
