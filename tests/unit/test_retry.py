"""Whom a failure counts against."""

from __future__ import annotations

import errno
import os

import pytest
from safetensors import SafetensorError

from pipeline.retry import blame_for
from schemas.attempt import Blame


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_trouble_with_a_disk_is_the_workers(number: int) -> None:
    assert blame_for(OSError(number, os.strerror(number))) is Blame.WORKER


def test_a_full_disk_is_the_workers_also_where_a_library_tells_only_the_text() -> None:
    told = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert blame_for(told) is Blame.WORKER


@pytest.mark.parametrize(
    "error", [ValueError("loss is not finite"), FileNotFoundError(errno.ENOENT, "x"), RuntimeError("shapes differ")]
)
def test_what_a_training_raises_is_the_tasks(error: Exception) -> None:
    assert blame_for(error) is Blame.TASK
