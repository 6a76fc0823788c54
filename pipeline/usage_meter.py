"""What a training costs, measured from its beginning to its end, with what its earlier attempts cost."""

from __future__ import annotations

import logging
import re
import resource
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datajoint.errors import DataJointError

from schemas.attempt import Attempt, Outcome
from schemas.usage import DEVICES, Usage, total

from .errors import PipelineError
from .event_record import EventsUnavailable, Selection
from .gpu_choice import CUDA, OwnGpu
from .gpu_meter import GpuMeter, GpuTotals

if TYPE_CHECKING:
    import torch

    from .running import RunningAttempt

logger = logging.getLogger("trainloom")

HOUR = 3600.0  # s
KWH = 3.6e6  # J
PROCESS = Path("/proc/self")  # proc(5)
RESET_PEAK = "5"  # for clear_refs: begin the peak of resident memory anew
PEAK = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


class UsageMeter:
    """Measures one attempt at a task while `running` lasts; `total` then adds the attempts before it.

    An attempt that ends without a result leaves what it cost in `Attempt.Usage`; of one that was killed the events of
    its GPU tell.
    """

    def __init__(self, gpu: OwnGpu, attempt: RunningAttempt | None) -> None:
        self._gpu = gpu
        self._attempt = attempt
        self._usage: Usage | None = None
        self._uuids: list[str] = []  # of the GPUs that are looked at
        self._meters: list[GpuMeter] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Measure what is done inside."""
        device = self._gpu.device
        began, cpu = time.monotonic(), _cpu_seconds()
        _reset_peaks(device)
        self.also([] if self._gpu.uuid is None else [self._gpu.uuid])
        try:
            yield
        except Exception:
            self._keep(_usage(device, began, cpu, self._meters, len(self._uuids)))
            raise
        except BaseException:  # at once: whoever asked for this waits
            for meter in self._meters:
                meter.abandon()
            raise
        self._usage = _usage(device, began, cpu, self._meters, len(self._uuids))

    def also(self, uuids: Iterable[str]) -> None:
        """Measure these GPUs too, from now on: those of all ranks of a training."""
        others = [uuid for uuid in dict.fromkeys(uuids) if uuid not in self._uuids]
        if others:
            self._uuids += others
            self._meters.append(GpuMeter(others, self._report))
            self._meters[-1].start()

    def total(self) -> Usage:
        """What this attempt cost, and those that came to nothing before it."""
        assert self._usage is not None, "asked when it is over"
        if self._attempt is None:
            return self._usage
        earlier, unmeasured = _earlier(self._attempt)
        return total([*earlier, self._usage], unmeasured)

    def _report(self, fields: dict[str, Any]) -> None:
        if self._attempt is not None and self._attempt.events is not None:
            self._attempt.events.measured(fields)

    def _keep(self, usage: Usage) -> None:
        """Leave what a failed or interrupted attempt cost for the one that goes on."""
        if self._attempt is None:
            return
        try:
            Attempt.Usage().insert1({"attempt_id": self._attempt.claim.attempt, **usage.attempt_columns})
        except (DataJointError, PipelineError) as error:
            logger.warning("what an attempt cost could not be written: %s", error)


def _usage(device: torch.device, began: float, cpu_seconds: float, meters: Sequence[GpuMeter], gpus: int) -> Usage:
    """What was used since that time, by the clock, of processors and of so many GPUs."""
    totals = GpuTotals.together([meter.stop() for meter in meters])
    on_gpu, seconds = device.type == CUDA or bool(totals.names), time.monotonic() - began
    return Usage(
        device=DEVICES.join(totals.names) or str(device),
        seconds=seconds,
        cpu_seconds=_cpu_seconds() - cpu_seconds,
        peak_resident=_peak_resident(),
        gpu_hours=seconds * max(1, gpus) / HOUR if on_gpu else None,
        energy=None if totals.energy is None else totals.energy / KWH,
        peak_memory=_peak_allocated(device) if device.type == CUDA else None,
        peak_gpu_memory=totals.peak_memory,
        utilisation=totals.utilisation,
    )


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(used.ru_utime + used.ru_stime for used in both)


def _reset_peaks(device: torch.device) -> None:
    """Forget the peaks of what ran in this process before."""
    with suppress(OSError):  # not on every system; then the peak is that of the process
        (PROCESS / "clear_refs").write_text(RESET_PEAK)
    if device.type == CUDA:
        import torch

        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # before, there is no peak
            torch.cuda.reset_peak_memory_stats(device)


def _peak_resident() -> int | None:
    with suppress(OSError):
        found = PEAK.search((PROCESS / "status").read_text(encoding="ascii", errors="replace"))
        return int(found[1]) * 1024 if found else None
    return None


def _peak_allocated(device: torch.device) -> int | None:
    import torch

    with suppress(RuntimeError):  # a GPU that broke
        return torch.cuda.max_memory_allocated(device)
    return None


def _earlier(attempt: RunningAttempt) -> tuple[list[Usage], int]:
    """What the attempts at this task cost since its last result, and how many of them cannot tell."""
    (key,) = attempt.claim.key.values()
    tried = Attempt() & {"attempt_key": key, "attempt_table": attempt.queue.table.table_name}
    rows = tried.proj("attempt_start", "attempt_outcome").to_dicts(order_by="attempt_start, attempt_id")
    since = max((place + 1 for place, row in enumerate(rows) if row["attempt_outcome"] == Outcome.FINISHED), default=0)
    ids = [row["attempt_id"] for row in rows[since:] if row["attempt_id"] != attempt.claim.attempt]
    if not ids:
        return [], 0
    told = (Attempt.Usage() & [{"attempt_id": name} for name in ids]).to_dicts()
    kept = {row["attempt_id"]: Usage.of(row) for row in told}
    found = [kept.get(name) or _by_events(attempt, key, name) for name in ids]
    return [usage for usage in found if usage is not None], found.count(None)


def _by_events(attempt: RunningAttempt, key: str, name: str) -> Usage | None:
    """What an attempt that was killed cost until the last look at its GPU."""
    if attempt.events is None:
        return None
    try:
        last = attempt.events.newest(Selection(task=key, kind="gpu", where={"attempt": name}))
    except EventsUnavailable as error:
        logger.warning("what an attempt that was lost cost is not known: %s", error)
        return None
    if last is None:
        return None
    energy = last.get("energy")
    return Usage(
        device=last["name"],
        seconds=last["seconds"],
        gpu_hours=last["seconds"] / HOUR,
        energy=None if energy is None else energy / KWH,
    )
