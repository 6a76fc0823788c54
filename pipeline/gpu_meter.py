"""Looks at the GPUs of a training while it runs: utilisation, memory, temperature, power, and what they sum up to."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import gpu_device
from .gpu_device import GpusUnknown

logger = logging.getLogger("trainloom")

INTERVAL = 5.0  # s between looks
STOP_LIMIT = 5.0  # s for the last look; a driver that hangs holds nobody up
Report = Callable[[dict[str, Any]], None]


@dataclass
class _Watched:
    """One GPU, and what was seen of it.

    Attributes
    ----------
    counter, power : of the last look, J and W.
    energy : J since the first look; None while nothing tells it.
    """

    handle: Any
    whole: Any  # of a MIG instance, whose share of the energy nobody tells
    index: str
    name: str
    uuid: str
    looks: int = 0
    counter: float | None = None
    energy: float | None = None
    power: float | None = None
    busy: int = 0
    busy_looks: int = 0
    peak: int | None = None

    def add(self, found: dict[str, Any], used: int | None, seconds: float) -> None:
        """A look, so many seconds after the one before."""
        counter, power = found["energy"], found["power"]
        if self.looks and counter is not None and self.counter is not None:
            # It begins again at zero when the driver is loaded anew.
            self.energy = (self.energy or 0.0) + max(0.0, counter - self.counter)
        elif self.looks and counter is None and self.whole is None and power is not None and self.power is not None:
            self.energy = (self.energy or 0.0) + (power + self.power) / 2 * seconds
        self.counter, self.power = counter, power
        if found["utilisation"] is not None and self.looks:  # the first one tells of the time before
            self.busy += found["utilisation"]
            self.busy_looks += 1
        if used is not None:
            self.peak = max(used, self.peak or 0)
        self.looks += 1


@dataclass(frozen=True)
class GpuTotals:
    """What a training took of its GPUs together; None where nothing told it.

    Attributes
    ----------
    names : of the GPUs, each once.
    energy : J, by everything that ran on them.
    peak_memory : the most bytes in use on one of them, by whomever.
    utilisation : mean share of the time in which something was computed, %.
    """

    names: tuple[str, ...] = ()
    energy: float | None = None
    peak_memory: int | None = None
    utilisation: float | None = None

    @classmethod
    def together(cls, several: Sequence[GpuTotals]) -> GpuTotals:
        """Those of several meters as if one had looked at all their GPUs; each counts alike."""
        energies = [totals.energy for totals in several if totals.energy is not None]
        peaks = [totals.peak_memory for totals in several if totals.peak_memory is not None]
        busy = [totals.utilisation for totals in several if totals.utilisation is not None]
        return cls(
            tuple(dict.fromkeys(name for totals in several for name in totals.names)),
            sum(energies) if energies else None,
            max(peaks) if peaks else None,
            sum(busy) / len(busy) if busy else None,
        )


class GpuMeter:
    """A thread that looks at GPUs every `interval` seconds (by default `INTERVAL`), from `start` to `stop`.

    It waits nearly all the time, and the driver answers without holding Python up. What cannot be asked, or not any
    more, is said once and ends the looks, never the training.
    """

    def __init__(self, uuids: Sequence[str], report: Report, interval: float | None = None) -> None:
        """`report` is called from the thread with the fields of an event for each GPU at each look."""
        self._uuids = tuple(uuids)
        self._report = report
        self._interval = INTERVAL if interval is None else interval
        self._stop = threading.Event()
        self._watched: list[_Watched] = []
        self._thread = threading.Thread(target=self._run, name="gpu-meter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> GpuTotals:
        """Look a last time and end; what was seen."""
        self._stop.set()
        self._thread.join(STOP_LIMIT)
        watched = list(self._watched)
        energies = [gpu.energy for gpu in watched if gpu.energy is not None]
        peaks = [gpu.peak for gpu in watched if gpu.peak is not None]
        busy_looks = sum(gpu.busy_looks for gpu in watched)
        return GpuTotals(
            tuple(dict.fromkeys(gpu.name for gpu in watched)),
            sum(energies) if energies else None,
            max(peaks) if peaks else None,
            sum(gpu.busy for gpu in watched) / busy_looks if busy_looks else None,
        )

    def abandon(self) -> None:
        """Look no more; nobody waits for it."""
        self._stop.set()

    def _run(self) -> None:
        try:
            with gpu_device.opened() as nvml:
                self._watched = [_watched(nvml, uuid) for uuid in self._uuids]
                self._look_until_stopped(nvml)
        except GpusUnknown as error:
            logger.warning("the GPU is not watched any longer, the training goes on: %s", error)

    def _look_until_stopped(self, nvml: Any) -> None:
        began = before = time.monotonic()
        last = False
        while True:
            now = time.monotonic()
            for gpu in self._watched:
                found = gpu_device.sensors(nvml, gpu.handle, gpu.whole)
                used = gpu_device.used_memory(nvml, gpu.handle)
                gpu.add(found, used, now - before)
                self._report(_fields(gpu, found, used, now - began))
            if last:
                return
            before = now
            last = self._stop.wait(self._interval)


def _watched(nvml: Any, uuid: str) -> _Watched:
    handle = nvml.nvmlDeviceGetHandleByUUID(uuid)
    part = bool(gpu_device.answered(nvml, lambda: nvml.nvmlDeviceIsMigDeviceHandle(handle).value))
    whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if part else None
    index = str(nvml.nvmlDeviceGetIndex(handle if whole is None else whole))
    name = str(nvml.nvmlDeviceGetName(handle))
    return _Watched(handle, whole, index, name, uuid)


def _fields(gpu: _Watched, found: dict[str, Any], used: int | None, seconds: float) -> dict[str, Any]:
    """An event of kind ``gpu``: memory in bytes; energy, in J, and seconds since the attempt began."""
    fields = {
        "gpu": gpu.uuid,
        "index": gpu.index,
        "name": gpu.name,
        **{name: found[name] for name in ("utilisation", "temperature", "power")},
        "memory": used,
        "energy": gpu.energy,
        "seconds": round(seconds, 3),
    }
    return {name: value for name, value in fields.items() if value is not None}
