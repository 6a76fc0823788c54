"""Which GPUs CUDA gives to a process: ``CUDA_VISIBLE_DEVICES``, as NVIDIA's programming guide describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .gpu_device import GpuReading

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
BUS_ORDER = "PCI_BUS_ID"  # the order of NVML
WHOLE, MIG = "GPU-", "MIG-"  # how UUIDs of GPUs and of parts of them begin


def visible(gpus: Sequence[GpuReading], env: Mapping[str, str]) -> list[GpuReading] | None:
    """The GPUs that a process may have, in CUDA's order; None where NVML cannot know that order.

    A MIG instance counts as a GPU, although CUDA takes only the first one of those that a process is given.

    Parameters
    ----------
    gpus : all of the machine.
    """
    named = env.get(VISIBLE)
    names = [] if named is None else [name.strip() for name in named.split(",")]
    numbered = named is None or any(name.isdecimal() for name in names)
    if numbered and env.get(ORDER) != BUS_ORDER and len({gpu.name for gpu in gpus if not gpu.is_part}) > 1:
        return None  # without that setting CUDA puts the fastest first
    if named is None:
        return list(gpus)
    found: list[GpuReading] = []
    for name in names:
        gpu = _by_name(gpus, name)
        if gpu is None:  # the first invalid name ends the list
            break
        if gpu in found:  # and one that stands there twice makes it void
            return []
        found.append(gpu)
    return found


def _by_name(gpus: Sequence[GpuReading], name: str) -> GpuReading | None:
    """The GPU that a number, a UUID or the unique beginning of one names; of a divided GPU its first instance."""
    if name.isdecimal():
        return next((gpu for gpu in gpus if gpu.index.partition(":")[0] == str(int(name))), None)
    found = [gpu for gpu in gpus if name.startswith((WHOLE, MIG)) and gpu.uuid.startswith(name)]
    return found[0] if len(found) == 1 else None
