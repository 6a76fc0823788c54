"""What the driver says of the GPUs of this machine, through NVML (https://docs.nvidia.com/deploy/nvml-api/)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import PipelineError

MILLI = 1e-3  # NVML gives power in mW and energy in mJ
HIDDEN = 256 << 20  # bytes in use that no listed process has: from there on somebody is not visible from here
T = TypeVar("T")


class GpusUnknown(PipelineError):
    """The driver cannot be asked about the GPUs; the message says why."""


@dataclass(frozen=True)
class GpuProcess:
    """A process on a GPU; `memory` in bytes, None where the driver does not tell."""

    pid: int
    memory: int | None


@dataclass(frozen=True)
class GpuReading:
    """A GPU, or a MIG instance of one, at this moment. None stands for what it does not tell.

    Attributes
    ----------
    index : as NVML counts them, ``"0"``; ``"0:1"`` for MIG instance 1 of GPU 0.
    uuid : ``GPU-…`` or ``MIG-…``, the same on every look.
    total, used, free : memory in bytes.
    utilisation : share of the time in which something was computed, %.
    temperature : °C; that of the whole GPU for a MIG instance.
    power : W; that of the whole GPU for a MIG instance.
    energy : J since the driver was loaded; None for a MIG instance, which shares its GPU's.
    processes : who uses it; None where some of them cannot be seen from here, as in a container.
    """

    index: str
    uuid: str
    name: str
    total: int | None = None
    used: int | None = None
    free: int | None = None
    utilisation: int | None = None
    temperature: int | None = None
    power: float | None = None
    energy: float | None = None
    processes: tuple[GpuProcess, ...] | None = ()

    @property
    def is_part(self) -> bool:
        """Whether it is a MIG instance."""
        return ":" in self.index

    @property
    def label(self) -> str:
        return f"GPU {self.index} ({self.name})"


@dataclass(frozen=True)
class GpuList:
    """The GPUs that can be used, and a sentence for each that cannot be read."""

    gpus: tuple[GpuReading, ...]
    problems: tuple[str, ...]


@contextmanager
def opened() -> Iterator[Any]:
    """NVML, ready to be asked.

    Raises
    ------
    GpusUnknown
        If there is no driver or it refuses, at first or later.
    """
    try:
        import pynvml
    except ImportError as error:
        raise GpusUnknown("nvidia-ml-py is not installed; run `pip install 'trainloom[gpu]'`") from error
    try:
        pynvml.nvmlInit()
        try:
            yield pynvml
        finally:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
    except pynvml.NVMLError as error:
        raise GpusUnknown(reason(pynvml, error)) from error


def reason(nvml: Any, error: Any) -> str:
    """A sentence for an error of NVML."""
    sentences = {
        nvml.NVML_ERROR_LIBRARY_NOT_FOUND: "there is no NVIDIA driver here (libnvidia-ml.so.1 is not found); in a "
        "container, start it with the NVIDIA runtime",
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the NVIDIA driver is installed but not loaded; see `dmesg`, or run "
        "`modprobe nvidia`",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA driver was updated while it ran; restart the machine",
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not ask the NVIDIA driver; see who may read /dev/nvidia*",
        nvml.NVML_ERROR_GPU_IS_LOST: "the GPU has fallen off the bus; restart the machine",
        nvml.NVML_ERROR_RESET_REQUIRED: "the GPU needs a reset; restart the machine",
    }
    return sentences.get(error.value, f"the NVIDIA driver says: {error}")


def read_all() -> GpuList:
    """Every GPU of the machine, MIG instances in place of the GPU that is divided; raises `GpusUnknown`."""
    gpus: list[GpuReading] = []
    problems: list[str] = []
    with opened() as nvml:
        for number in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                found = list(_divided(nvml, number, handle))
            except nvml.NVMLError as error:  # one that is broken hides no other
                problems.append(f"GPU {number}: {reason(nvml, error)}")
                continue
            gpus.extend(found)
            if not found:
                problems.append(f"GPU {number} is in MIG mode and has no instances; make some with `nvidia-smi mig`")
    return GpuList(tuple(gpus), tuple(problems))


def _divided(nvml: Any, number: int, handle: Any) -> Iterator[GpuReading]:
    """The GPU itself, or its MIG instances."""
    mode = answered(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle))
    if mode is None or mode[0] != nvml.NVML_DEVICE_MIG_ENABLE:
        yield read(nvml, str(number), handle)
        return
    for part in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, part)
        except nvml.NVMLError_NotFound:  # places need not be filled
            continue
        yield read(nvml, f"{number}:{part}", instance, whole=handle)


def read(nvml: Any, index: str, handle: Any, whole: Any = None) -> GpuReading:
    """One GPU, or with `whole` (the handle of its GPU) a MIG instance."""
    total, used, free = answered(nvml, lambda: _memory(nvml, handle)) or (None, None, None)
    processes = _processes(nvml, handle)
    if processes is not None and used is not None:
        known = sum(process.memory or 0 for process in processes)
        if used - known > HIDDEN and all(process.memory is not None for process in processes):
            processes = None
    return GpuReading(
        index,
        str(nvml.nvmlDeviceGetUUID(handle)),
        str(nvml.nvmlDeviceGetName(handle)),
        total,
        used,
        free,
        processes=processes,
        **sensors(nvml, handle, whole),
    )


def sensors(nvml: Any, handle: Any, whole: Any = None) -> dict[str, Any]:
    """What changes from moment to moment, by attribute of `GpuReading`."""
    gpu = handle if whole is None else whole
    power = answered(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(gpu))
    energy = None if whole is not None else answered(nvml, lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu))
    return {
        "utilisation": answered(nvml, lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        "temperature": answered(nvml, lambda: int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))),
        "power": None if power is None else power * MILLI,
        "energy": None if energy is None else energy * MILLI,
    }


def used_memory(nvml: Any, handle: Any) -> int | None:
    """Bytes in use, by whomever."""
    memory = answered(nvml, lambda: _memory(nvml, handle))
    return None if memory is None else memory[1]


def _memory(nvml: Any, handle: Any) -> tuple[int, int, int]:
    """Total, used and free bytes; what the driver keeps for itself is not used where it can be told apart."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
    except nvml.NVMLError_FunctionNotFound:  # drivers before 510
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.total, memory.used, memory.free


def _processes(nvml: Any, handle: Any) -> tuple[GpuProcess, ...] | None:
    """Who computes or draws on a GPU, by process id; None where the driver does not tell."""
    found: dict[int, int | None] = {}
    for kind in ("Compute", "Graphics"):
        told = None
        for version in ("_v3", "_v2"):
            ask = getattr(nvml, f"nvmlDeviceGet{kind}RunningProcesses{version}")
            told = answered(nvml, functools.partial(ask, handle))
            if told is not None:
                break
        if told is None and kind == "Compute":
            return None
        found.update((int(process.pid), process.usedGpuMemory) for process in told or ())
    return tuple(GpuProcess(pid, memory) for pid, memory in sorted(found.items()))


def answered(nvml: Any, ask: Callable[[], T]) -> T | None:
    """An answer, None where this GPU, its driver or this user's rights have none; what is worse is raised."""
    try:
        return ask()
    except nvml.NVMLError as error:
        silent = (
            nvml.NVML_ERROR_NOT_SUPPORTED,
            nvml.NVML_ERROR_NO_PERMISSION,
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
            nvml.NVML_ERROR_INVALID_ARGUMENT,  # what a MIG instance has no sensor for
            nvml.NVML_ERROR_NO_DATA,
            nvml.NVML_ERROR_NOT_READY,
        )
        if error.value in silent:
            return None
        raise
