"""Values to Kubernetes objects. Pure: nothing is read, nothing is asked."""

from __future__ import annotations

from typing import Any

from . import access, config, job
from .values import Values


def render(values: Values) -> list[dict[str, Any]]:
    """The objects of a project's workers: ConfigMap, ServiceAccounts, Role, RoleBinding, example Secrets, Jobs.

    Example Secrets have names of their own, so that applying them never overwrites real ones.
    """
    return [
        config.config_map(values),
        *access.objects(values),
        *config.example_secrets(values),
        *job.workloads(values),
    ]
