"""Who may do what: pods nothing, a submitter just what submitting, watching and scaling take."""

from __future__ import annotations

from typing import Any

from .metadata import metadata
from .values import Values

SUBMITTER_RULES = (
    {
        "apiGroups": ["batch"],
        "resources": ["jobs"],
        "verbs": ["create", "get", "list", "watch", "patch", "delete"],
    },
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["events"], "verbs": ["list"]},
)


def worker_account(values: Values) -> str:
    """The ServiceAccount of the pods."""
    return values.service_account or values.name


def objects(values: Values) -> list[dict[str, Any]]:
    """ServiceAccounts, Role and RoleBinding; pods get no token and their account no rights."""
    submitter = f"{values.name}-submitter"
    rules = [{key: list(given) for key, given in rule.items()} for rule in SUBMITTER_RULES]
    accounts = [] if values.service_account else [_account(values, values.name)]
    return [
        *accounts,
        _account(values, submitter),
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": metadata(values, submitter),
            "rules": rules,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": metadata(values, submitter),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": submitter},
            "subjects": [
                {
                    "kind": "ServiceAccount",
                    "name": submitter,
                    **({"namespace": values.namespace} if values.namespace else {}),
                }
            ],
        },
    ]


def _account(values: Values, name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(values, name),
        "automountServiceAccountToken": False,
    }
