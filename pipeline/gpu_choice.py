"""Which device the trainings of this process run on: a GPU that it holds alone, or the CPU."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from . import gpu_locks
from .errors import ConfigurationError
from .gpu_locks import Gpu, NoGpuFree
from .gpu_visible import MIG, VISIBLE, WHOLE

if TYPE_CHECKING:
    import torch

    from .settings import Settings

logger = logging.getLogger("trainloom")

AUTO, CUDA, CPU = "auto", "cuda", "cpu"


@contextmanager
def taken(settings: Settings, gpus: Sequence[Gpu], *, inherit: bool = False) -> Iterator[Gpu | None]:
    """Hold one of the GPUs as long as this lasts, or use the one of a process above (`inherit`); None where trainings
    run elsewhere.

    Where the setting `device` is ``auto`` and none can be had, that is the CPU, and it is said once.

    Raises
    ------
    ConfigurationError
        If a GPU is asked for and none can be had.
    """
    if not gpus and settings.device.partition(":")[0] == CUDA:
        raise ConfigurationError(
            f"the device is {settings.device} and torch finds no such GPU here; see `trainloom gpu`, or train without: "
            "--set device=cpu"
        )
    with ExitStack() as held:
        try:
            gpu = held.enter_context(gpu_locks.held(gpus, least=settings.gpu_memory, inherit=inherit))
        except NoGpuFree as error:
            if settings.device != AUTO:
                raise
            _say_once(logging.WARNING, f"trainings run on the CPU: {error}")
            gpu = None
        if not gpus and settings.device == AUTO:
            _say_once(logging.INFO, "trainings run on the CPU: torch can use no GPU here")
        yield gpu


@contextmanager
def alone(settings: Settings, gpus: Sequence[Gpu]) -> Iterator[Settings]:
    """Hold one of the GPUs and make it the only one that CUDA sees in this process; the settings that suit.

    For a process that has not imported torch yet; raises as `taken` does.
    """
    with taken(settings, gpus) as gpu:
        if gpu is not None:
            os.environ[VISIBLE] = gpu.name
            yield settings.model_copy(update={"device": settings.device.partition(":")[0]})
        elif gpus:
            os.environ[VISIBLE] = ""
            yield settings.model_copy(update={"device": CPU})
        else:
            yield settings


class OwnGpu:
    """The device of a session that trains in its own process, such as a notebook's."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._gpu: Gpu | None = None
        self._device: torch.device | None = None  # stays for trainers that are handed out later

    @property
    def device(self) -> torch.device:
        """Where models and batches go."""
        import torch

        if self._device is not None:
            return self._device
        if self._settings.device == AUTO:
            return torch.device(CUDA if torch.cuda.is_available() else CPU)
        return torch.device(self._settings.device)

    @property
    def uuid(self) -> str | None:
        """What the driver calls the GPU; None on other devices, and where nobody has chosen it by its UUID."""
        if self._gpu is not None:
            return self._gpu.name
        named = os.environ.get(VISIBLE, "")  # by `alone`
        return named if self.device.type == CUDA and named.startswith((WHOLE, MIG)) and "," not in named else None

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold a GPU as long as this lasts, chosen and refused as the module's `taken` does."""
        import torch

        kind, _, number = self._settings.device.partition(":")
        seen = gpu_locks.available(kind)
        if any(gpu.name.startswith(MIG) for gpu in seen):
            seen = seen[:1]  # CUDA gives a process only that one
        wanted = seen[int(number) : int(number) + 1] if number else seen
        with taken(self._settings, wanted, inherit=True) as gpu:
            if gpu is None:
                self._device = torch.device(CPU) if wanted else None
                yield
                return
            self._gpu, self._device = gpu, torch.device(CUDA, seen.index(gpu))
            try:
                with torch.cuda.device(self._device):  # for code that only says "cuda"
                    yield
            finally:
                self._gpu = None


@functools.cache
def _say_once(level: int, sentence: str) -> None:
    logger.log(level, "%s", sentence)
