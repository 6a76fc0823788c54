"""Which file system a folder lies on. Database servers lose data on most network shares."""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.errors import ConfigurationError

MOUNT_TABLE = Path("/proc/self/mounts")
KERNEL_TYPES = {"afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
FUSE_TYPES = {"ceph", "gcsfuse", "glusterfs", "rclone", "s3fs", "sshfs"}
NETWORK_TYPES = frozenset(KERNEL_TYPES | {f"fuse.{kind}" for kind in FUSE_TYPES})


def file_system(path: Path) -> str | None:
    """The type of the file system (`ext4`, `nfs4`, …) that `path` is or would be on; None where nobody tells."""
    try:
        lines = MOUNT_TABLE.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return None
    path = path.resolve()
    found, depth = None, 0
    for line in lines:
        _, point, kind = line.split(" ")[:3]
        mount = Path(_unescape(point))
        # of two mounts at one point the later hides the earlier
        if path.is_relative_to(mount) and len(mount.parts) >= depth:
            found, depth = kind, len(mount.parts)
    return found


def refuse_network_share(path: Path) -> None:
    """Raise `ConfigurationError` where `path` lies on a network share."""
    kind = file_system(path)
    if kind in NETWORK_TYPES:
        raise ConfigurationError(
            f"{path} lies on a network share ({kind}), where database servers lose data; name a folder on a local disk "
            f"in TRAINLOOM_HOME, or give the addresses of servers that run elsewhere."
        )


def _unescape(text: str) -> str:
    """Undo the octal escapes (`\\040` for a space) of fstab(5)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
