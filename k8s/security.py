"""Pods without rights: they fit a namespace that enforces the Pod Security level `restricted`."""

from __future__ import annotations

from typing import Any


def pod(user: int) -> dict[str, Any]:
    """The security context of a pod whose processes run as this user and group."""
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        # Large claims would otherwise be walked through at every start.
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container() -> dict[str, Any]:
    """The security context of a container."""
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
