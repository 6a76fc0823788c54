"""Settings of torch that change the bits of a result."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def default_threads(worker_processes: int = 1) -> int:
    """Torch threads for each of `worker_processes` on this machine: an equal share of the usable cores, at least 1."""
    return max(1, len(os.sched_getaffinity(0)) // max(1, worker_processes))


def settle(threads: int | None = None, deterministic: bool = False) -> dict[str, Any]:
    """Set what a training's bits depend on and return the record of all of it, ready for `pin`.

    Args:
        threads: number of torch's threads within an operation; None leaves torch's own.
        deterministic: take operations whose result does not vary from run to run, and refuse those that have none.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    _set_deterministic(deterministic)
    return record()


def record() -> dict[str, Any]:
    """The present settings, as values that JSON holds."""
    return {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_tf32": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "mkldnn": torch.backends.mkldnn.enabled,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": str(torch.__version__),
    }


def pin(recorded: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Apply recorded settings; returns what could not be had here: name to (recorded value, value here).

    The processor, the version of torch and the threads between operations cannot be changed in a running process.
    """
    torch.set_num_threads(recorded["threads"])
    _set_deterministic(recorded["deterministic"])
    torch.backends.cudnn.benchmark = recorded["cudnn_benchmark"]
    torch.backends.cudnn.allow_tf32 = recorded["cudnn_tf32"]
    torch.set_float32_matmul_precision(recorded["float32_matmul_precision"])
    torch.backends.mkldnn.enabled = recorded["mkldnn"]
    here = record()
    return {name: (value, here.get(name)) for name, value in recorded.items() if here.get(name) != value}


@contextmanager
def during(*, tf32: bool | None = None, deterministic: bool = False) -> Iterator[None]:
    """Change settings for a while and put them back as they were.

    Args:
        tf32: whether float32 matrix products and convolutions on NVIDIA GPUs round their factors to 10 bits of
            mantissa; None leaves both as they are.
        deterministic: as in `settle`; False leaves that as it is.
    """
    # The older of torch's two interfaces, like `record`: torch refuses to read by one what was set by the other.
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    varying = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    slow = torch.backends.cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        if tf32 is not None:
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            torch.backends.cudnn.allow_tf32 = tf32
        if deterministic:
            _set_deterministic(True)
        yield
    finally:
        if tf32 is not None:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]
        if deterministic:
            torch.use_deterministic_algorithms(varying[0], warn_only=varying[1])
            torch.backends.cudnn.deterministic, torch.utils.deterministic.fill_uninitialized_memory = slow  # type: ignore[attr-defined]


def _set_deterministic(deterministic: bool) -> None:
    if deterministic:
        # cuBLAS reads it when it is first used and torch refuses to multiply deterministically without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    # Filling every new tensor would cost time and changes no result of a program that reads only what it wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
