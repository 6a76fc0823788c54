"""The GPUs of this machine and who uses them, as a table has it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from . import gpu_device, gpu_locks, gpu_visible
from .gpu_device import GpuReading

Tasks = Callable[[Collection[int]], Mapping[int, str]]
"""Which task each of these processes trains, by process id; those that train none are left out."""


def listing(tasks: Tasks) -> dict[str, Any]:
    """What there is.

    Returns
    -------
    dict
        ``gpus``: a dict for each GPU or MIG instance with ``index``, ``uuid``, ``name``, ``memory_total``,
        ``memory_used`` and ``memory_free`` (bytes), ``utilisation`` (%), ``temperature`` (°C), ``power`` (W),
        ``visible`` (whether this environment gives it to CUDA), ``held_by`` (the process of ours that has its lock),
        ``users`` and ``users_known`` (False where others may use it that cannot be seen from here). None stands for
        unknown. A user has ``pid``, ``user``, ``command``, ``memory`` (bytes) and ``task``. ``problems``: a sentence
        for each GPU that cannot be read, or why there is none.
    """
    try:
        found = gpu_device.read_all()
    except gpu_device.GpusUnknown as error:
        return {"gpus": [], "problems": [str(error)]}
    seen = gpu_visible.visible(found.gpus, os.environ)
    holders = gpu_locks.holders()
    trained = tasks(holders.values()) if holders else {}
    rows = []
    for gpu in found.gpus:
        holder = holders.get(gpu_locks.bare(gpu.uuid))
        rows.append(
            {
                "index": gpu.index,
                "uuid": gpu.uuid,
                "name": gpu.name,
                **{f"memory_{name}": getattr(gpu, name) for name in ("total", "used", "free")},
                **{name: getattr(gpu, name) for name in ("utilisation", "temperature", "power")},
                "visible": None if seen is None else gpu in seen,
                "held_by": holder,
                "users": _users(gpu, holder, trained),
                "users_known": gpu.processes is not None,
            }
        )
    problems = found.problems if rows or found.problems else ("the NVIDIA driver knows no GPU",)
    return {"gpus": rows, "problems": list(problems)}


def _users(gpu: GpuReading, holder: int | None, tasks: Mapping[int, str]) -> list[dict[str, Any]]:
    """The processes on a GPU, and the one that holds it, which may not be there yet."""
    memory: dict[int, int | None] = {process.pid: process.memory for process in gpu.processes or ()}
    if holder is not None:
        memory.setdefault(holder, None)
    return [
        {"pid": pid, **_identity(pid), "memory": memory[pid], "task": tasks.get(pid)}
        for pid in sorted(memory, key=lambda pid: (pid != holder, pid))
    ]


def _identity(pid: int) -> dict[str, str | None]:
    """Whose a process is and what it runs, without the arguments, which may hold secrets."""
    import psutil

    user = command = None
    with suppress(psutil.Error):  # ended meanwhile, of another namespace, or not to be asked by this user
        process = psutil.Process(pid)
        command = process.name()
        user = process.username()
        line = process.cmdline()
        if len(line) > 1 and line[1].endswith(".py"):
            command = f"{command} {Path(line[1]).name}"
        elif len(line) > 2 and line[1] == "-m":
            command = f"{command} -m {line[2]}"
    return {"user": user, "command": command}
