"""Who may do what: pods nothing, a submitter just what submitting, watching and scaling take."""

from __future__ import annotations

from typing import Any

from .metadata import metadata
from .values import Subject, Values

RBAC = "rbac.authorization.k8s.io"
SUBMITTER_RULES = (
    ("batch", "jobs", ("create", "get", "list", "watch", "patch", "delete")),
    ("", "pods", ("get", "list", "watch")),
    ("", "pods/log", ("get",)),
    ("", "events", ("list",)),
)
"""API group, resource and verbs; no access to Secrets."""


def worker_account(values: Values) -> str:
    """The ServiceAccount of the pods."""
    return values.service_account or values.name


def objects(values: Values) -> list[dict[str, Any]]:
    """ServiceAccounts, Role and RoleBinding: pods get no token and their account no rights.

    An account for submitting from inside the cluster is bound to the Role where the namespace is known, since a binding
    must name it.
    """
    submitter = f"{values.name}-submitter"
    accounts = [submitter] if values.service_account else [values.name, submitter]
    subjects = [_subject(item, values) for item in values.submitters]
    if values.namespace is not None:
        subjects.append({"kind": "ServiceAccount", "name": submitter, "namespace": values.namespace})
    binding = {
        "apiVersion": f"{RBAC}/v1",
        "kind": "RoleBinding",
        "metadata": metadata(values, submitter),
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": submitter},
        "subjects": subjects,
    }
    return [*(_account(values, name) for name in accounts), _role(values, submitter), *([binding] if subjects else [])]


def _account(values: Values, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(values, name),
        "automountServiceAccountToken": False,
    }


def _role(values: Values, name: str) -> dict[str, Any]:
    return {
        "apiVersion": f"{RBAC}/v1",
        "kind": "Role",
        "metadata": metadata(values, name),
        "rules": [
            {"apiGroups": [group], "resources": [resource], "verbs": list(verbs)}
            for group, resource, verbs in SUBMITTER_RULES
        ],
    }


def _subject(subject: Subject, values: Values) -> dict[str, Any]:
    if subject.kind != "ServiceAccount":
        return {"apiGroup": RBAC, "kind": subject.kind, "name": subject.name}
    namespace = subject.namespace or values.namespace
    return {"kind": subject.kind, "name": subject.name, **({"namespace": namespace} if namespace else {})}
