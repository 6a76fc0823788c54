"""The pod of a worker."""

from __future__ import annotations

from typing import Any

from . import access
from .config import setting_text
from .values import Group, Values

CONTAINER = "worker"
GRACE_MARGIN = 30  # s that a pod gets beyond its worker's grace, to upload and to give its task back
TMP = "/tmp"
SHM = "/dev/shm"
SCRATCH = "/scratch"
PROGRESS_FILE = f"{TMP}/trainloom-progress"


def spec(values: Values, group: Group) -> dict[str, Any]:
    """The pod's specification."""
    made: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": access.worker_account(values),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": group.grace_seconds + GRACE_MARGIN,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": values.user,
            "runAsGroup": values.user,
            "fsGroup": values.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_worker(values, group)],
        "volumes": _volumes(group),
    }
    return made


def _worker(values: Values, group: Group) -> dict[str, Any]:
    command = ["trainloom", "worker", "--once"]
    if group.gpus > 1 or group.processes:
        command += ["--processes", str(group.processes or group.gpus)]
    resources: dict[str, str] = {"cpu": group.cpus, "memory": group.memory}
    if group.gpus:
        resources[group.gpu_resource] = str(group.gpus)
    return {
        "name": CONTAINER,
        "image": values.image,
        "command": list(group.command or command),
        **({"args": list(group.args)} if group.args is not None else {}),
        "envFrom": [{"configMapRef": {"name": values.name}}],
        "env": _environment(values, group),
        "resources": {"requests": dict(resources), "limits": dict(resources)},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "tmp", "mountPath": TMP},
            {"name": "shm", "mountPath": SHM},
            {"name": "scratch", "mountPath": SCRATCH},
        ],
    }


def _environment(values: Values, group: Group) -> list[dict[str, Any]]:
    plain = {
        "HOME": TMP,
        "TRAINLOOM_GRACE_SECONDS": str(group.grace_seconds),
        "TRAINLOOM_PROGRESS_FILE": PROGRESS_FILE,
        "TRAINLOOM_DATASET_DIR": f"{SCRATCH}/datasets",
        "TRAINLOOM_DATASET_CACHE_DIR": f"{SCRATCH}/cache",
        "TRAINLOOM_MODEL_SAVE_DIR": f"{SCRATCH}/models",
        "TRAINLOOM_IMAGE": values.image,
        **{f"TRAINLOOM_{name.upper()}": setting_text(value) for name, value in group.settings.items()},
        **group.env,
    }
    fields = {
        "TRAINLOOM_POD_NAME": "metadata.name",
        "TRAINLOOM_POD_NAMESPACE": "metadata.namespace",
        "TRAINLOOM_NODE_NAME": "spec.nodeName",
    }
    return [
        *({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()),
        *(
            {"name": variable, "valueFrom": {"secretKeyRef": {"name": secret.name, "key": key}}}
            for secret in values.secrets
            for variable, key in secret.env.items()
        ),
        *({"name": name, "value": value} for name, value in plain.items()),
    ]


def _volumes(group: Group) -> list[dict[str, Any]]:
    return [
        {"name": "tmp", "emptyDir": {"sizeLimit": group.tmp}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": group.shm}},
        {"name": "scratch", "emptyDir": {"sizeLimit": group.scratch}},
    ]
