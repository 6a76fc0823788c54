"""Seeds derived from numbers, and the three global random generators that a user's dataset may draw from."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(seed: int, *numbers: int) -> int:
    """Derive an independent seed from a seed and any numbers, such as (seed, epoch, index).

    The value is the first 8 bytes of the BLAKE2b digest (RFC 7693) of the decimal numbers joined by commas, less the
    lowest bit: an integer in [0, 2**63) that is the same on every machine and never depends on Python's hash seed.
    """
    text = ",".join(str(int(number)) for number in (seed, *numbers))
    digest = hashlib.blake2b(text.encode("ascii"), digest_size=8, person=b"trainloom-seed").digest()
    return int.from_bytes(digest, "little") >> 1


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
