"""The folders of a worker's container: what it may write to, since the root file system is read-only, and claims."""

from __future__ import annotations

from typing import Any

from .config import SCRATCH
from .values import Group, Mount

MIB = 2**20
TMP = "/tmp"
SHM = "/dev/shm"


def volumes(group: Group) -> list[dict[str, Any]]:
    """The volumes of a pod; one for each source, however often it is mounted."""
    made = [
        {"name": "tmp", "emptyDir": {"sizeLimit": group.tmp}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": group.shm}},
        {"name": "scratch", "emptyDir": {"sizeLimit": group.scratch}},
    ]
    for source, name in _names(group).items():
        claim, path = source
        made.append(
            {"name": name, "persistentVolumeClaim": {"claimName": claim}}
            if claim is not None
            else {"name": name, "hostPath": {"path": path, "type": "Directory"}}
        )
    return made


def mounts(group: Group) -> list[dict[str, Any]]:
    """Where the container sees them."""
    made: list[dict[str, Any]] = [
        {"name": "tmp", "mountPath": TMP},
        {"name": "shm", "mountPath": SHM},
        {"name": "scratch", "mountPath": SCRATCH},
    ]
    for mount in group.mounts.values():
        seen: dict[str, Any] = {"name": _names(group)[_source(mount)], "mountPath": mount.path}
        if mount.sub_path is not None:
            seen["subPath"] = mount.sub_path
        if mount.read_only:
            seen["readOnly"] = True
        made.append(seen)
    return made


def _source(mount: Mount) -> tuple[str | None, str | None]:
    return mount.claim, mount.host_path


def _names(group: Group) -> dict[tuple[str | None, str | None], str]:
    """The name of each source's volume: that of the first folder on it."""
    found: dict[tuple[str | None, str | None], str] = {}
    for name, mount in group.mounts.items():
        found.setdefault(_source(mount), name)
    return found
