"""Seeds derived from numbers, and the three global random generators that a user's dataset may draw from."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)  # 2**64 / golden ratio, odd


def mix(seed: int, *numbers: int) -> int:
    """Derive an independent seed from a seed and any numbers, such as (seed, epoch, index).

    The value is the first 8 bytes of the BLAKE2b digest (RFC 7693) of the decimal numbers joined by commas, less the
    lowest bit: an integer in [0, 2**63) that is the same on every machine and never depends on Python's hash seed.
    """
    text = ",".join(str(int(number)) for number in (seed, *numbers))
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8, person=b"trainloom-seed").digest()
    return int.from_bytes(digest, "little") >> 1


def uniform_draws(seed: int, epoch: int, indices: torch.Tensor, count: int) -> torch.Tensor:
    """Uniform numbers in [0, 1) that depend on (seed, epoch, index) and their place alone.

    The finalizer of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number generators") on
    counters: first of the example, then of the number. The upper 53 bits of each result are used.

    Args:
        indices: of examples, int64 of shape (k,).
        count: how many numbers each example gets.

    Returns:
        float64 of shape (k, count).
    """
    base = np.uint64(mix(seed, epoch))
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is what is meant
        of_example = _split_mix(base + (indices.numpy().astype(np.uint64) + np.uint64(1)) * _GOLDEN)
        places = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
        bits = _split_mix(of_example[:, None] + places[None, :])
    return torch.from_numpy((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _split_mix(numbers: np.ndarray) -> np.ndarray:
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return numbers ^ (numbers >> np.uint64(31))


def seed_global_randomness(value: int) -> None:
    """Seed the global generators of torch (CPU), NumPy (legacy) and Python from a value in [0, 2**63)."""
    # torch.manual_seed would reset the generators of every accelerator too, and with them the dropout of a model there.
    torch.default_generator.manual_seed(value)
    np.random.seed(value & 0xFFFF_FFFF)
    random.seed(value)


@contextmanager
def preserved_global_randomness() -> Iterator[None]:
    """Put the global generators of torch (CPU), NumPy and Python back as they were before the body."""
    torch_state = torch.get_rng_state()
    numpy_state = np.random.get_state()
    python_state = random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
