"""A driver with made-up GPUs, behind the functions of NVML's C library: nvidia-ml-py's own code runs against it.

What is in the library is what its header says: functions that take pointers and return a code. They are looked up by
name in ``pynvml.nvmlLib``, which is this object instead of ``libnvidia-ml.so.1``.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import pynvml

GIB = 2**30
CONFIGURATION = "FAKE_NVML"  # the environment variable that hands a driver on to other processes


@dataclass
class FakeGpu:
    """A GPU; `broken` is the code that every question about it gets, `silent` names questions it has no answer to.

    Units are NVML's: bytes, %, °C, mW, mJ.
    """

    uuid: str
    name: str = "NVIDIA Test 16GB"
    total: int = 16 * GIB
    used: int = 0
    utilisation: int = 0
    temperature: int = 40
    power: int = 100_000
    energy: int = 0
    processes: list[tuple[int, int]] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    mig: bool = False
    broken: int = 0
    silent: list[str] = field(default_factory=list)


class FakeLibrary:
    """The library. `refusal` is the code that `nvmlInit` returns; `on_look` is called before each reading of power."""

    def __init__(self, gpus: list[FakeGpu], refusal: int = 0, old: bool = False) -> None:
        self.gpus = gpus
        self.refusal = refusal
        self.old = old  # a driver without the functions that came later
        self.open = 0
        self.looks = 0
        self.on_look: Callable[[FakeLibrary], None] = lambda library: None

    def _all(self) -> list[tuple[FakeGpu, FakeGpu | None]]:
        """Every device with its parent; its place plus one is its handle."""
        found: list[tuple[FakeGpu, FakeGpu | None]] = []
        for gpu in self.gpus:
            found.append((gpu, None))
            found.extend((FakeGpu(**part), gpu) for part in gpu.parts)
        return found

    def _device(self, handle: Any) -> tuple[FakeGpu, FakeGpu | None]:
        return self._all()[ctypes.cast(handle, ctypes.c_void_p).value - 1]  # type: ignore[operator]

    def _hand_out(self, place: Any, wanted: str) -> int:
        for number, (gpu, _) in enumerate(self._all(), 1):
            if gpu.uuid == wanted:
                address = ctypes.cast(ctypes.c_void_p(number), type(place._obj))
                ctypes.pointer(place._obj)[0] = address
                return gpu.broken
        return pynvml.NVML_ERROR_NOT_FOUND

    def _tell(self, handle: Any, question: str, write: Callable[[FakeGpu], None]) -> int:
        gpu, parent = self._device(handle)
        if gpu.broken or (parent is not None and parent.broken):
            return gpu.broken or parent.broken  # type: ignore[union-attr]
        if question in gpu.silent:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        write(gpu)
        return pynvml.NVML_SUCCESS

    def nvmlInitWithFlags(self, flags: int) -> int:
        self.open += not self.refusal
        return self.refusal

    def nvmlShutdown(self) -> int:
        self.open -= 1
        return pynvml.NVML_SUCCESS

    def nvmlErrorString(self, code: Any) -> bytes:
        return f"code {code.value}".encode()

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, device: Any) -> int:
        return self._hand_out(device, self.gpus[index.value].uuid)

    def nvmlDeviceGetHandleByUUID(self, uuid: Any, device: Any) -> int:
        return self._hand_out(device, uuid.value.decode())

    def nvmlDeviceGetIndex(self, handle: Any, index: Any) -> int:
        number = next(place for place, gpu in enumerate(self.gpus) if gpu is self._device(handle)[0])
        return self._tell(handle, "index", lambda gpu: setattr(index._obj, "value", number))

    def nvmlDeviceGetUUID(self, handle: Any, text: Any, length: Any) -> int:
        return self._tell(handle, "uuid", lambda gpu: setattr(text, "value", gpu.uuid.encode()))

    def nvmlDeviceGetName(self, handle: Any, text: Any, length: Any) -> int:
        return self._tell(handle, "name", lambda gpu: setattr(text, "value", gpu.name.encode()))

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        def write(gpu: FakeGpu) -> None:
            memory._obj.total, memory._obj.used, memory._obj.free = gpu.total, gpu.used, gpu.total - gpu.used

        return self._tell(handle, "memory", write)

    @property
    def nvmlDeviceGetMemoryInfo_v2(self) -> Callable[[Any, Any], int]:
        if self.old:
            raise AttributeError("undefined symbol")
        return self.nvmlDeviceGetMemoryInfo

    def nvmlDeviceGetUtilizationRates(self, handle: Any, rates: Any) -> int:
        if self._device(handle)[1] is not None:
            return pynvml.NVML_ERROR_NOT_SUPPORTED
        return self._tell(handle, "utilisation", lambda gpu: setattr(rates._obj, "gpu", gpu.utilisation))

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: Any, value: Any) -> int:
        if self._device(handle)[1] is not None:
            return pynvml.NVML_ERROR_INVALID_ARGUMENT
        return self._tell(handle, "temperature", lambda gpu: setattr(value._obj, "value", gpu.temperature))

    def nvmlDeviceGetPowerUsage(self, handle: Any, value: Any) -> int:
        self.looks += 1
        self.on_look(self)
        return self._tell(handle, "power", lambda gpu: setattr(value._obj, "value", gpu.power))

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:
        return self._tell(handle, "energy", lambda gpu: setattr(value._obj, "value", gpu.energy))

    def nvmlDeviceGetMigMode(self, handle: Any, current: Any, pending: Any) -> int:
        return self._tell(handle, "mig", lambda gpu: setattr(current._obj, "value", int(gpu.mig)))

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, count: Any) -> int:
        count._obj.value = 7
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: Any, device: Any) -> int:
        parts = self._device(handle)[0].parts
        if index.value >= len(parts):
            return pynvml.NVML_ERROR_NOT_FOUND
        return self._hand_out(device, parts[index.value]["uuid"])

    def nvmlDeviceIsMigDeviceHandle(self, handle: Any, is_part: Any) -> int:
        is_part._obj.value = int(self._device(handle)[1] is not None)
        return pynvml.NVML_SUCCESS

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: Any, device: Any) -> int:
        parent = self._device(handle)[1]
        return pynvml.NVML_ERROR_INVALID_ARGUMENT if parent is None else self._hand_out(device, parent.uuid)

    @property
    def nvmlDeviceGetComputeRunningProcesses_v3(self) -> Callable[[Any, Any, Any], int]:
        if self.old:
            raise AttributeError("undefined symbol")
        return self.nvmlDeviceGetComputeRunningProcesses_v2

    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle: Any, count: Any, infos: Any) -> int:
        def write(gpu: FakeGpu) -> None:
            count._obj.value = len(gpu.processes)
            for place, (pid, memory) in enumerate(gpu.processes if infos is not None else ()):
                infos[place].pid, infos[place].usedGpuMemory = pid, memory

        code = self._tell(handle, "processes", write)
        short = infos is None and count._obj.value
        return pynvml.NVML_ERROR_INSUFFICIENT_SIZE if code == pynvml.NVML_SUCCESS and short else code

    def nvmlDeviceGetGraphicsRunningProcesses_v3(self, handle: Any, count: Any, infos: Any) -> int:
        count._obj.value = 0
        return pynvml.NVML_SUCCESS


@contextmanager
def driver(*gpus: FakeGpu, refusal: int = 0, old: bool = False) -> Iterator[FakeLibrary]:
    """A driver that knows these GPUs, as long as this lasts; processes that call `adopt` get one too."""
    library = FakeLibrary(list(gpus), refusal, old)
    before = pynvml.nvmlLib
    _install(library)
    os.environ[CONFIGURATION] = json.dumps({"gpus": [asdict(gpu) for gpu in gpus], "refusal": refusal, "old": old})
    try:
        yield library
    finally:
        _install(before)
        del os.environ[CONFIGURATION]


def adopt() -> None:
    """In another process: install the driver that the environment describes."""
    told = json.loads(os.environ[CONFIGURATION])
    _install(FakeLibrary([FakeGpu(**gpu) for gpu in told["gpus"]], told["refusal"], told["old"]))


def _install(library: Any) -> None:
    pynvml.nvmlLib = library
    pynvml._nvmlGetFunctionPointer_cache.clear()


def two() -> tuple[FakeGpu, FakeGpu]:
    """The first one is busier than the second."""
    first = FakeGpu("GPU-aaaa0000-0000-0000-0000-000000000000", used=6 * GIB, processes=[(1, 6 * GIB)])
    return first, replace(first, uuid="GPU-bbbb0000-0000-0000-0000-000000000000", used=0, processes=[])
