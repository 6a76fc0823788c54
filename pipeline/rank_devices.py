"""A device for each rank of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from . import gpu_locks
from .errors import ConfigurationError
from .gpu_choice import CPU, CUDA, OwnGpu
from .gpu_locks import Gpu
from .gpu_visible import MIG


@contextmanager
def taken(own: OwnGpu, devices: int, there: Sequence[Gpu], least: int | None = None) -> Iterator[dict[int, str]]:
    """Hold so many GPUs as long as this lasts, the process's own and others; what makes each the only one that CUDA
    sees, by rank. Empty where trainings run on the CPU, which all ranks share.

    Parameters
    ----------
    there : those that this process may have.
    least : bytes that must be free on each of the others.

    Raises
    ------
    ConfigurationError
        If there are fewer, or others have them.
    """
    kind = own.device.type
    if kind == CPU:
        yield {}
        return
    others = [gpu for gpu in there if gpu.visible != own.uuid and not gpu.visible.startswith(MIG)]
    if kind != CUDA or own.uuid is None or len(others) + 1 < devices:
        count = f"{len(others) + 1} GPU{'s' if others else ''}" if kind == CUDA else f"the device {own.device}"
        raise ConfigurationError(
            f"the training asks for {devices} devices, and this worker may use {count}; let a worker take it that has "
            "as many (see `trainloom gpu`), or train it on CPUs: --set device=cpu"
        )
    with ExitStack() as held:
        names = [own.uuid]
        for _ in range(devices - 1):
            gpu = held.enter_context(gpu_locks.held([gpu for gpu in others if gpu.visible not in names], least=least))
            assert gpu is not None, "one of several was asked for"
            names.append(gpu.visible)
        yield dict(enumerate(names))
