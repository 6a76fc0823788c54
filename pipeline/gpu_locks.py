"""One GPU for each worker process: which there are, and a lock on each, so that no two workers of a machine share one.

A lock belongs to the process that computes on the GPU and ends with it, however that dies.
"""

from __future__ import annotations

import functools
import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import ConfigurationError

if TYPE_CHECKING:
    from filelock import FileLock

VISIBLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"  # how names of parts of a GPU begin
WAIT = 30.0  # s for a GPU whose worker is just ending
PAUSE = 0.5  # s between looks
LIST_LIMIT = 120.0  # s for torch to list the GPUs
# In a process of its own: asking about a GPU takes some of its memory for as long as the process lives.
LIST = (
    "import json, torch; print(json.dumps([str(torch.cuda.get_device_properties(index).uuid) "
    "for index in range(torch.cuda.device_count())]))"
)


@dataclass(frozen=True)
class Gpu:
    """A GPU that a worker process may have.

    Attributes
    ----------
    uuid : what the driver calls it, on every look and in every process of the machine.
    visible : what makes it the only one that CUDA sees, as the value of ``CUDA_VISIBLE_DEVICES``.
    """

    uuid: str
    visible: str


def available(device: str, env: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that workers of this process may have; none where trainings run on another device.

    Parameters
    ----------
    device : the setting of that name: ``auto``, ``cuda``, ``cuda:1``, ``cpu``, …
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cuda"):
        return []
    found = named(_uuids(), env.get(VISIBLE))
    return found[int(index) : int(index) + 1] if index else found


def named(uuids: Sequence[str], visible: str | None) -> list[Gpu]:
    """The GPUs that torch sees, in its order, under the names that `visible` (the environment's value) has for them."""
    names = [str(index) for index in range(len(uuids))]
    if visible is not None:
        names = [name.strip() for name in visible.split(",")][: len(uuids)]
    # Parts of one GPU may have one uuid, but not one name.
    return [Gpu(name if name.startswith(MIG) else uuid, name) for uuid, name in zip(uuids, names, strict=False)]


@functools.cache
def _uuids() -> tuple[str, ...]:
    import torch

    if not torch.cuda.device_count():  # also where torch was built without CUDA
        return ()
    try:
        told = subprocess.run(
            [sys.executable, "-c", LIST], capture_output=True, text=True, check=True, timeout=LIST_LIMIT
        )
        return tuple(json.loads(told.stdout))
    except (subprocess.SubprocessError, ValueError) as error:
        raise ConfigurationError(
            "the GPUs of this machine cannot be listed; see `trainloom doctor`, or train without them: --set device=cpu"
        ) from error


@contextmanager
def held(gpus: Sequence[Gpu], folder: Path | None = None, wait: float = WAIT) -> Iterator[Gpu | None]:
    """Lock one of the GPUs that no other process of this machine has; None where there are none.

    Parameters
    ----------
    folder : where the locks are; by default a folder of this user that all processes of the machine share.
    wait : seconds until one must be free.

    Raises
    ------
    ConfigurationError
        If all of them are in use.
    """
    if not gpus:
        yield None
        return
    gpu, lock = _first_free(gpus, private_folder() if folder is None else folder, wait)
    try:
        yield gpu
    finally:
        lock.release()


def _first_free(gpus: Sequence[Gpu], folder: Path, wait: float) -> tuple[Gpu, FileLock]:
    """A GPU and the lock that was taken on it."""
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + wait
    while True:
        for gpu in gpus:
            lock = FileLock(folder / f"{gpu.uuid}.lock")
            with suppress(Timeout):
                lock.acquire(blocking=False)
                return gpu, lock
        if time.monotonic() >= deadline:
            raise ConfigurationError(
                "other workers of this machine have every GPU that this one may use; start fewer processes, or stop "
                "the others"
            )
        time.sleep(PAUSE)


def private_folder(folder: Path | None = None) -> Path:
    """A folder of this user alone, the same for all its processes on this machine, made where it is missing.

    Raises
    ------
    ConfigurationError
        If somebody else made it, or can write to it.
    """
    if folder is None:
        folder = Path(f"/tmp/trainloom-gpus-{os.geteuid()}")  # not TMPDIR, which is often one job's
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigurationError(f"the folder {folder} is not this user's alone; have it removed")
    return folder
