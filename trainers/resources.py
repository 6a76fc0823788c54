"""What a training needs of the worker that trains it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.contract import TrainerError

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]i?|Ki|)B?")
MOST = 2**62  # bytes


@dataclass(frozen=True)
class ResourcePolicy:
    """The parameters of a trainer that say it, beside `devices`. A worker takes only tasks whose needs it can meet; the
    training itself is the same whatever they are.

    Args:
        gpu_memory: memory that each of its GPUs must have, in bytes or such as "10Gi"; None also lets CPUs train it.
            Cards have a little less than their name says: "10Gi" suits a card of 11 GB.
        memory: memory of the machine, or of the pod, that the worker process must have for itself, in the same form.

    Raises:
        TrainerError: names the parameter and the rule.
    """

    gpu_memory: int | str | None = None
    memory: int | str | None = None

    def __post_init__(self) -> None:
        for name in ("gpu_memory", "memory"):
            bytes_of(getattr(self, name), name)


def bytes_of(size: int | str | None, name: str) -> int:
    """A size in bytes; 0 for None.

    Raises:
        TrainerError: it is none.
    """
    if size is None:
        return 0
    found = SIZE.fullmatch(size.strip()) if isinstance(size, str) else None
    value = float(found[1]) * UNITS[found[2]] if found else size
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST:
        raise TrainerError(f'{name} is {size!r}; it must be a number of bytes or a size such as "10Gi".')
    return int(value)


def needs_of(params: Mapping[str, Any], *, on_devices: bool = True) -> dict[str, int]:
    """What a training with these parameters needs: ``devices``, ``gpu_memory`` and ``memory`` (bytes, 0 for any).

    Args:
        on_devices: whether its trainer takes part in trainings on several devices.
    """
    return {
        "devices": int(params.get("devices", 1)) if on_devices else 1,
        **{name: bytes_of(params.get(name), name) for name in ("gpu_memory", "memory")},
    }
