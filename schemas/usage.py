"""What a training cost: device, time, energy and memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

# Of `Attempt.Usage` and `TrainingResult.Usage`; NULL where nothing told it.
DEFINITION = """usage_device           : varchar(255)  # as people call it
        usage_seconds          : float64       # s, by the clock
        usage_cpu_seconds=null : float64       # s of processors, with those of the loader processes
        usage_peak_resident=null : int64       # bytes of the training's process in memory, at most
        usage_gpu_hours=null   : float64       # h, one for every hour of every GPU
        usage_energy=null      : float64       # kWh, of the GPUs, by everything that ran on them
        usage_peak_memory=null : int64         # bytes that torch had on one GPU, at most
        usage_peak_gpu_memory=null : int64     # bytes in use on one GPU, by whomever, at most
        usage_utilisation=null : float64       # mean share of the time in which a GPU computed, in percent"""
PREFIX = "usage_"
DEVICES = ", "  # between the devices of several attempts
MOST_TEXT = 255


@dataclass(frozen=True)
class Usage:
    """What an attempt cost, or several; the columns of the tables say in which unit. None stands for unknown.

    Attributes
    ----------
    attempts, unmeasured : attempts that the values are of, and others that died before they could tell.
    """

    device: str
    seconds: float
    cpu_seconds: float | None = None
    peak_resident: int | None = None
    gpu_hours: float | None = None
    energy: float | None = None
    peak_memory: int | None = None
    peak_gpu_memory: int | None = None
    utilisation: float | None = None
    attempts: int = 1
    unmeasured: int = 0

    @property
    def columns(self) -> dict[str, Any]:
        """A row of `TrainingResult.Usage`, without its key."""
        return {PREFIX + name: value for name, value in asdict(self).items()}

    @property
    def attempt_columns(self) -> dict[str, Any]:
        """A row of `Attempt.Usage`, without its key."""
        row = self.columns
        del row["usage_attempts"], row["usage_unmeasured"]
        return row

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Usage:
        """What a row of either table holds."""
        return cls(**{field.name: row[PREFIX + field.name] for field in fields(cls) if PREFIX + field.name in row})


def total(parts: Iterable[Usage], unmeasured: int = 0) -> Usage:
    """What attempts cost together, the first one first, and how many others are not among them.

    Sums are of what is known; peaks are the highest; the utilisation is weighted by the time on GPUs.
    """
    parts = list(parts)
    devices = dict.fromkeys(part.device for part in parts)
    timed = [part for part in parts if part.utilisation is not None and part.gpu_hours]
    hours = sum(part.gpu_hours or 0.0 for part in timed)
    busy = sum((part.utilisation or 0.0) * (part.gpu_hours or 0.0) for part in timed)
    return Usage(
        DEVICES.join(devices)[:MOST_TEXT],
        sum(part.seconds for part in parts),
        _sum(part.cpu_seconds for part in parts),
        _most(part.peak_resident for part in parts),
        _sum(part.gpu_hours for part in parts),
        _sum(part.energy for part in parts),
        _most(part.peak_memory for part in parts),
        _most(part.peak_gpu_memory for part in parts),
        busy / hours if hours else None,
        sum(part.attempts for part in parts),
        unmeasured + sum(part.unmeasured for part in parts),
    )


def _sum(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _most(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
