"""Memory that a process keeps."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# Arrays that are freed and taken anew, as those of one photograph after the other are; prints the pages that the system
# had to give meanwhile.
PROGRAM = """
import resource, sys
import numpy as np
from datasets_impl.allocator import keep_freed_memory

def work():
    kept = [np.ones(size, np.uint8) for size in (1_200_000, 200_000, 4_000_000)]

if sys.argv[1:]:
    keep_freed_memory()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(*arguments: str) -> int:
    told = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True)
    return int(told.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")
def test_freed_memory_is_not_taken_from_the_system_again() -> None:
    assert pages("keep") < pages() / 10
