"""The pod of a worker."""

from __future__ import annotations

import math
from typing import Any

from . import access, code, folders, placement, quantity, security
from .config import variables
from .values import Group, Values

CONTAINER = "worker"
GRACE_MARGIN = 30  # s that a pod gets beyond its worker's grace, to give back its task and to end
PROGRESS_FILE = f"{folders.TMP}/trainloom-progress.json"
CACHE_SHARE = 0.6
"""Of the scratch folder: the rest is for checkpoints and weights on their way to the store."""


def spec(values: Values, group: Group, job: str) -> dict[str, Any]:
    """The specification of the pods of a Job."""
    made: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": access.worker_account(values),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": group.grace_seconds + GRACE_MARGIN,
        "securityContext": security.pod(values.user),
        "imagePullSecrets": [{"name": name} for name in values.image_pull_secrets],
        "priorityClassName": group.priority_class,
        "runtimeClassName": group.runtime_class,
        "hostNetwork": group.host_network or None,
        "subdomain": job if group.peers else None,
        "dnsPolicy": "ClusterFirstWithHostNet" if group.host_network else None,
        **placement.placement(group),
        "initContainers": code.init_containers(values),
        "containers": [_worker(values, group)],
        "volumes": [*folders.volumes(group), *code.volumes(values)],
    }
    return {field: given for field, given in made.items() if given is not None and given != []}


def _worker(values: Values, group: Group) -> dict[str, Any]:
    made = {
        "name": CONTAINER,
        "image": values.image,
        "imagePullPolicy": values.image_pull_policy,
        "command": list(group.command) if group.command is not None else _command(group),
        "args": list(group.args) if group.args is not None else None,
        "envFrom": [{"configMapRef": {"name": values.name}}],
        "env": _environment(values, group),
        "resources": _resources(group),
        "securityContext": security.container(),
        "livenessProbe": _liveness() if group.liveness and group.command is None else None,
        "volumeMounts": [*folders.mounts(group), *code.mounts(values)],
    }
    return {field: given for field, given in made.items() if given is not None}


def _liveness() -> dict[str, Any]:
    """It asks for the age of a file in the pod, and patiently: a database that is away restarts nobody."""
    return {
        "exec": {"command": ["python", "-m", "pipeline.liveness"]},
        "initialDelaySeconds": 120,
        "periodSeconds": 60,
        "timeoutSeconds": 30,
        "failureThreshold": 10,
    }


def processes(group: Group) -> int:
    """Worker processes in a pod of the group."""
    return group.processes or max(group.gpus, 1)


def _command(group: Group) -> list[str]:
    several = ["--processes", str(processes(group))] if processes(group) > 1 else []
    return ["trainloom", "worker", "--watch" if group.watch else "--once", *several, *group.options]


def _resources(group: Group) -> dict[str, dict[str, str]]:
    """Requests equal limits, so that a node in need evicts others first."""
    shared = {"cpu": group.cpus, "memory": group.memory}
    if group.gpus:
        shared[group.gpu_resource] = str(group.gpus)
    disk = quantity.amount(group.tmp) + quantity.amount(group.scratch)
    return {"requests": {**shared, "ephemeral-storage": f"{math.ceil(disk / folders.MIB)}Mi"}, "limits": dict(shared)}


def _environment(values: Values, group: Group) -> list[dict[str, Any]]:
    """What is the pod's own: where it runs, its credentials, what it can give, and what its group sets."""
    fields = {
        "TRAINLOOM_POD_NAME": "metadata.name",
        "TRAINLOOM_POD_NAMESPACE": "metadata.namespace",
        "TRAINLOOM_NODE_NAME": "spec.nodeName",
    }
    secrets = [
        {"name": variable, "valueFrom": {"secretKeyRef": _reference(secret.name, key, secret.optional)}}
        for secret in values.credentials()
        for variable, key in secret.env.items()
    ]
    plain = {
        "HOME": folders.TMP,
        "TRAINLOOM_IMAGE": values.image,
        "TRAINLOOM_GRACE_SECONDS": str(group.grace_seconds),
        "TRAINLOOM_PROGRESS_FILE": PROGRESS_FILE,
        **code.environment(values),
        **_means(values, group),
        **variables(group.settings),
        **group.env,
    }
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        *secrets,
        *({"name": name, "value": value} for name, value in plain.items()),
    ]


def _reference(name: str, key: str, optional: bool) -> dict[str, Any]:
    return {"name": name, "key": key, **({"optional": True} if optional else {})}


def _means(values: Values, group: Group) -> dict[str, str]:
    """What a worker of the group has; a container sees the cores of its node, and perhaps GPUs that are not its own."""
    means: dict[str, Any] = {
        "torch_threads": max(int(quantity.amount(group.cpus)) // processes(group), 1),
        "dataset_cache_bytes": int(float(quantity.amount(group.scratch)) * CACHE_SHARE),
    }
    if not group.gpus:
        means["device"] = "cpu"
    if "dataset_cache_dir" in {**values.settings, **group.settings}:
        del means["dataset_cache_bytes"]  # that folder is elsewhere
    chosen = variables({name: value for name, value in means.items() if name not in values.settings})
    return chosen if group.gpus else {**chosen, "NVIDIA_VISIBLE_DEVICES": "void"}
