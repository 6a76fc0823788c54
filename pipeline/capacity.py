"""What a worker can give to a training, and which queued ones ask for more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.training_config import TrainingConfig
from schemas.training_result import TrainingResult
from schemas.training_task import TrainingTask

from .gpu_choice import CPU, CUDA, OwnGpu
from .gpu_visible import MIG

if TYPE_CHECKING:
    from .gpu_locks import Gpu
    from .settings import Settings

GIB = 2**30
ANY = 2**31 - 1  # devices: ranks share a CPU, however many they are
# The limit of this container's memory, in cgroups of version 2 and 1; it is no number, or a huge one, where there is
# none.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Capacity:
    """What one process can give.

    Attributes
    ----------
    devices : how many a training may have.
    gpu_memory : bytes of the process's GPU; 0 without one.
    memory : bytes of the machine's or container's memory for this process.
    all_or_one : whether a training may have all of the devices or a single one, and no other number.
    """

    devices: int = ANY
    gpu_memory: int = 0
    memory: int = 2**62
    all_or_one: bool = False

    def __str__(self) -> str:
        count = f"{'1 or ' if self.all_or_one else ''}{self.devices} GPU{'s' if self.devices > 1 else ''}"
        gpu = f"{count} of {self.gpu_memory / GIB:.1f} GiB"
        return f"{gpu if self.gpu_memory else 'no GPU'}, {self.memory / GIB:.1f} GiB of memory"


def capacity_of(settings: Settings, gpu: OwnGpu, there: Sequence[Gpu], group: int | None = None) -> Capacity:
    """That of this process, which has its GPU already.

    Parameters
    ----------
    there : the GPUs that its trainings may have; the other processes of its pool hold one each.
    group : processes of the group across machines that it leads, each with a device; None for a process on its own.
    """
    memory = (settings.memory or memory_limit()) // settings.worker_processes
    kind = gpu.device.type
    if group is not None:
        return Capacity(group, _gpu_memory(gpu) if kind == CUDA else 0, memory, all_or_one=True)
    if kind != CUDA:
        return Capacity(ANY if kind == CPU else 1, 0, memory)
    whole = sum(not other.visible.startswith(MIG) for other in there)
    return Capacity(max(1, whole - settings.worker_processes + 1), _gpu_memory(gpu), memory)


def _gpu_memory(gpu: OwnGpu) -> int:
    import torch

    try:
        return int(torch.cuda.get_device_properties(gpu.device).total_memory)
    except (RuntimeError, AssertionError):  # unusable: the first training says so
        return 0


def memory_limit() -> int:
    """Bytes of memory that this container, or else the machine, has."""
    import psutil

    found = [int(psutil.virtual_memory().total)]
    for path in LIMITS:
        try:
            found.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # the other version, or no limit ("max")
            continue
    return min(found)


def fits(table: Any, capacity: Capacity, job: str) -> str | None:
    """The SQL condition that a job asks for no more than this; None for tables whose tasks ask for nothing.

    A task is found by its key and what it asks for by its configuration's, both by index, for the jobs only that a
    claim looks at. As a value and not as a join, so that no plan reads all of them.

    Parameters
    ----------
    job : the job's key in SQL, with its table.
    """
    if not isinstance(table, TrainingResult):
        return None
    (key,), (config,) = TrainingTask().primary_key, TrainingConfig().primary_key
    too_many = f"NOT IN (1, {capacity.devices})" if capacity.all_or_one else f"> {capacity.devices}"
    return (
        f"(SELECT n.need_devices {too_many} OR n.need_gpu_memory > {capacity.gpu_memory} "
        f"OR n.need_memory > {capacity.memory} FROM {TrainingTask().full_table_name} AS t "
        f"JOIN {TrainingConfig.Need().full_table_name} AS n ON n.{config} = t.{config} WHERE t.{key} = {job}) "
        "IS NOT TRUE"
    )
