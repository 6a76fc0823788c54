"""The global random generators: seeding them, and their states in a form that a checkpoint holds."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def seed(value: int) -> None:
    """Seed torch's global generators, those of accelerators too."""
    if torch.accelerator.is_available():
        torch.manual_seed(value)
    else:
        torch.default_generator.manual_seed(value)  # the other takes 0.2 ms to find no accelerator


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """63 bits that differ for every (seed, epoch, rank): neighbouring seeds must not share epochs, as a sum of both
    would. The first rank has those of a process that trains alone."""
    text = f"{seed}:{epoch}:{rank}" if rank else f"{seed}:{epoch}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def capture(device: torch.device) -> dict[str, Any]:
    """The states of the generators of Python, NumPy (legacy) and torch; those of all GPUs if `device` is one."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    states: dict[str, Any] = {
        "python": [version, torch.tensor(numbers, dtype=torch.int64), gauss],
        "numpy": [kind, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state_all()
        states["cuda_device"] = device.index
    return states


def restore(states: Mapping[str, Any], device: torch.device) -> None:
    """Put captured states back. `device` gets the state of the GPU that the training ran on, whatever its number."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    if device.type == "cuda" and "cuda" in states:
        for number, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, number)
        torch.cuda.set_rng_state(states["cuda"][states["cuda_device"]], device)
