"""Labels by which the objects of a project are found again."""

from __future__ import annotations

NAME = "app.kubernetes.io/name"
INSTANCE = "app.kubernetes.io/instance"
COMPONENT = "app.kubernetes.io/component"
MANAGED_BY = "app.kubernetes.io/managed-by"
GROUP = "trainloom/group"
EXAMPLE = "trainloom/example"
QUEUE = "kueue.x-k8s.io/queue-name"


def common(instance: str) -> dict[str, str]:
    """Those of every object that is rendered for the values named `instance`."""
    return {NAME: "trainloom", INSTANCE: instance, MANAGED_BY: "trainloom"}


def selector(instance: str, group: str | None = None) -> str:
    """The label selector of the workers of `instance`, or of one group of them."""
    chosen = {**common(instance), COMPONENT: "worker", **({GROUP: group} if group else {})}
    return ",".join(f"{key}={value}" for key, value in chosen.items())
