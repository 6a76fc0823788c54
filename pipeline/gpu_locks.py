"""One GPU for each process that trains: which there are, and a lock on each, so that no two of a machine share one.

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

from . import gpu_device, gpu_visible
from .errors import ConfigurationError
from .gpu_device import GpuReading
from .gpu_visible import MIG, VISIBLE, WHOLE

if TYPE_CHECKING:
    from filelock import FileLock

WAIT = 30.0  # s for a GPU whose worker is just ending
PAUSE = 0.5  # s between looks
LIST_LIMIT = 120.0  # s for torch to list the GPUs
GIB = 2**30
LOCKS = Path("/proc/locks")  # proc_locks(5)
# In a process of its own: asking about a GPU takes some of its memory for as long as the process lives.
LIST = (
    "import json, torch; print(json.dumps([str(torch.cuda.get_device_properties(index).uuid) "
    "for index in range(torch.cuda.device_count())]))"
)


class NoGpuFree(ConfigurationError):
    """There are GPUs, and none of them can be had: others use them, or they have too little free memory."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that a process may have.

    Attributes
    ----------
    uuid : what the driver calls it, on every look and in every process of the machine; without ``GPU-``.
    visible : what the environment calls it: a number, or the same as `name`.
    """

    uuid: str
    visible: str

    @property
    def name(self) -> str:
        """What the driver and ``CUDA_VISIBLE_DEVICES`` take, whatever the order that GPUs are counted in."""
        return self.uuid if self.uuid.startswith(MIG) else f"{WHOLE}{self.uuid}"


def available(device: str, env: Mapping[str, str] = os.environ) -> list[Gpu]:
    """The GPUs that workers of this process may have; none where trainings run on another device.

    Parameters
    ----------
    device : the setting of that name: ``auto``, ``cuda``, ``cuda:1``, ``cpu``, …
    """
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cuda"):
        return []
    found = _by_driver(env)
    if found is None:
        found = named(_uuids(), env.get(VISIBLE))
    return found[int(index) : int(index) + 1] if index else found


def bare(uuid: str) -> str:
    """A UUID as torch and the locks have it."""
    return uuid.removeprefix(WHOLE)


def _by_driver(env: Mapping[str, str]) -> list[Gpu] | None:
    """The GPUs as the driver lists them, which costs little; None where torch must be asked."""
    import torch

    count = torch.cuda.device_count()
    if not count:  # also where torch was built without CUDA
        return None
    try:
        seen = gpu_visible.visible(gpu_device.read_all().gpus, env)
    except gpu_device.GpusUnknown:
        return None
    if seen is None or (len(seen) != count and not any(gpu.is_part for gpu in seen)):
        return None
    return [Gpu(bare(gpu.uuid), gpu.uuid) for gpu in seen]


def named(uuids: Sequence[str], visible: str | None) -> list[Gpu]:
    """The GPUs that torch sees, in its order, under the names that `visible` (the environment's value) has for them."""
    names = [str(index) for index in range(len(uuids))]
    if visible is not None:
        names = [name.strip() for name in visible.split(",")][: len(uuids)]
    # Parts of one GPU may have one uuid, but not one name.
    return [
        Gpu(name if name.startswith(MIG) else uuid, name) for uuid, name in zip(map(bare, uuids), names, strict=False)
    ]


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
def held(
    gpus: Sequence[Gpu],
    folder: Path | None = None,
    wait: float | None = None,
    least: int | None = None,
    *,
    inherit: bool = False,
) -> Iterator[Gpu | None]:
    """Lock the GPU with the most free memory that no other process of this user has; None where there are none.

    Parameters
    ----------
    folder : where the locks are; by default a folder of this user that all processes of the machine share.
    wait : seconds until one must be free; by default `WAIT`.
    least : bytes that must be free.
    inherit : use one that a process holds which started this one: a script that a worker runs has its worker's.

    Raises
    ------
    NoGpuFree
        If all of them are in use, or have too little free memory.
    ConfigurationError
        If there is a limit and the driver does not tell their memory.
    """
    if not gpus:
        yield None
        return
    place = folder or private_folder()
    inherited = _inherited(gpus, place) if inherit else None
    if inherited is not None:
        yield inherited
        return
    gpu, lock = _first_free(gpus, place, WAIT if wait is None else wait, least)
    try:
        yield gpu
    finally:
        lock.release()


def _inherited(gpus: Sequence[Gpu], folder: Path) -> Gpu | None:
    """One that a process above this one holds."""
    import psutil

    above = {process.pid for process in psutil.Process().parents()}
    lent = {uuid for uuid, pid in holders(folder).items() if pid in above}
    return next((gpu for gpu in gpus if gpu.uuid in lent), None)


def _first_free(gpus: Sequence[Gpu], folder: Path, wait: float, least: int | None) -> tuple[Gpu, FileLock]:
    """A GPU and the lock that was taken on it."""
    from filelock import FileLock, Timeout

    deadline = time.monotonic() + wait
    while True:
        roomy, small = _by_free_memory(gpus, least)
        for gpu in roomy:
            lock = FileLock(folder / f"{gpu.uuid}.lock")
            with suppress(Timeout):
                lock.acquire(blocking=False)
                return gpu, lock
        if time.monotonic() >= deadline:
            if small:
                lacking = "; ".join(small)
                others = " and other workers have the others" if roomy else ""
                raise NoGpuFree(
                    f"gpu_memory asks for {(least or 0) / GIB:.1f} GiB of free memory, but {lacking}{others}; lower "
                    "it, or see with `trainloom gpu` who uses them"
                )
            raise NoGpuFree(
                "other workers of this machine have every GPU that this one may use; start fewer processes, or stop "
                "the others"
            )
        time.sleep(PAUSE)


def _by_free_memory(gpus: Sequence[Gpu], least: int | None) -> tuple[list[Gpu], list[str]]:
    """Those with enough free memory, the most first, and a phrase for each of the others. Without a limit, those whose
    memory is not told come last, as they stood."""
    free, labels = _free_memory()
    if least is None:
        return sorted(gpus, key=lambda gpu: -free.get(gpu.uuid, -1)), []
    unknown = [gpu.uuid for gpu in gpus if gpu.uuid not in free]
    if unknown:
        raise ConfigurationError(
            f"gpu_memory is set, but the free memory of GPU {unknown[0]} is not known ({labels.get('', 'not told')}); "
            "unset it, or see `trainloom gpu`"
        )
    roomy = [gpu for gpu in gpus if free[gpu.uuid] >= least]
    small = [f"{labels[gpu.uuid]} has {free[gpu.uuid] / GIB:.1f}" for gpu in gpus if gpu not in roomy]
    return sorted(roomy, key=lambda gpu: -free[gpu.uuid]), small


def _free_memory() -> tuple[dict[str, int], dict[str, str]]:
    """Free bytes and how people call it, by UUID; under the empty UUID why nothing is known."""
    try:
        found = gpu_device.read_all().gpus
    except gpu_device.GpusUnknown as error:
        return {}, {"": str(error)}
    free = {bare(gpu.uuid): gpu.free + _own(gpu) for gpu in found if gpu.free is not None}
    return free, {bare(gpu.uuid): gpu.label for gpu in found}


def _own(gpu: GpuReading) -> int:
    """Bytes that this process has there already: torch keeps what earlier trainings took, and gives it to the next."""
    return sum(process.memory or 0 for process in gpu.processes or () if process.pid == os.getpid())


def holders(folder: Path | None = None) -> dict[str, int]:
    """Which process holds which GPU, by UUID, as the kernel has it; those of this user."""
    files = {}
    for path in (private_folder() if folder is None else folder).glob("*.lock"):
        status = path.stat()
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
        files[f"{device}:{status.st_ino}"] = path.stem
    held_by = {}
    with suppress(OSError):  # not on every system
        for line in LOCKS.read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] in files and int(words[4]) > 0:
                held_by[files[words[5]]] = int(words[4])
    return held_by


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
