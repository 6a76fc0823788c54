"""Processes that are killed or stopped in the middle of an upload: never half an object, and nothing that stays."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from pipeline.store import ObjectMissing
from tests.contracts.store_bench import MIB, Bench, sha256_of

HOUR = timedelta(hours=1)
SIZE = 24 * MIB  # several batches of chunks, and hashed before it is uploaded
POINTS = [("put_halted", SIZE, "halfway"), ("put_halted", SIZE, "unpublished"), ("put_all_halted", 1000, "unpublished")]
PUBLISHED = [("put_halted", SIZE, "published"), ("put_all_halted", 1000, "published")]


@contextmanager
def uploading(bench: Bench, path: Path, action: str, point: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has come to a point of the upload of a file and waits there for a line."""
    with bench.process(action, path, point) as uploader:
        try:
            assert uploader.stdout is not None
            assert uploader.stdout.readline() == "halted\n"
            yield uploader
        finally:
            uploader.kill()


def content_of(path: Path, size: int) -> bytes:
    path.write_bytes(os.urandom(size))
    return path.read_bytes()


def put_elsewhere(bench: Bench, path: Path) -> str:
    """What another process is told when it stores a file."""
    with bench.process("put", path) as other:
        told, _ = other.communicate()
    assert other.returncode == 0
    return told.strip()


@pytest.mark.feature("S17")
@pytest.mark.parametrize(("action", "size", "point"), POINTS)
def test_an_upload_killed_before_it_is_published_leaves_nothing_visible(
    bench: Bench, tmp_path: Path, action: str, size: int, point: str
) -> None:
    path = tmp_path / "content"
    content = content_of(path, size)
    with uploading(bench, path, action, point) as uploader:
        uploader.kill()
    remains = bench.kept_bytes()
    assert remains > 0
    assert (remains == size) == (point == "unpublished")
    assert list(bench.store.list()) == []
    for look in (bench.store.stat, bench.store.open):
        with pytest.raises(ObjectMissing):
            look(sha256_of(content))

    assert put_elsewhere(bench, path) == sha256_of(content)
    assert bench.store.get_bytes(sha256_of(content)) == content
    assert list(bench.store.unfinished(bench.store.now() - HOUR)) == [], "not before the grace period is over"
    (left,) = bench.store.unfinished(bench.store.now() + HOUR)
    assert remains <= left.size <= remains + 100
    bench.store.drop_unfinished(left)
    assert bench.kept_bytes() == size
    assert bench.store.get_bytes(sha256_of(content)) == content
    assert list(bench.store.unfinished(bench.store.now() + HOUR)) == []


@pytest.mark.parametrize(("action", "size", "point"), PUBLISHED)
def test_an_upload_killed_after_it_was_published_leaves_its_object(
    bench: Bench, tmp_path: Path, action: str, size: int, point: str
) -> None:
    path = tmp_path / "content"
    content = content_of(path, size)
    with uploading(bench, path, action, point) as uploader:
        uploader.kill()
    assert bench.store.get_bytes(sha256_of(content)) == content
    assert list(bench.store.unfinished(bench.store.now() + HOUR)) == []
    assert put_elsewhere(bench, path) == sha256_of(content)
    assert bench.kept_bytes() == size


@pytest.mark.parametrize(("action", "size", "point"), POINTS)
def test_an_upload_stopped_for_less_than_the_grace_goes_on_after_a_sweep(
    bench: Bench, tmp_path: Path, action: str, size: int, point: str
) -> None:
    path = tmp_path / "content"
    content = content_of(path, size)
    with uploading(bench, path, action, point) as uploader:
        uploader.send_signal(signal.SIGSTOP)
        os.waitpid(uploader.pid, os.WUNTRACED)
        for left in bench.store.unfinished(bench.store.now() - HOUR):
            bench.store.drop_unfinished(left)
        uploader.send_signal(signal.SIGCONT)
        told, _ = uploader.communicate("go on\n")
    assert (uploader.returncode, told.strip()) == (0, sha256_of(content))
    assert bench.store.get_bytes(sha256_of(content)) == content
    assert bench.kept_bytes() == size
    assert list(bench.store.unfinished(bench.store.now() + HOUR)) == []


@pytest.mark.parametrize(("action", "size", "point"), POINTS)
def test_an_upload_stopped_for_longer_than_the_grace_fails_and_publishes_nothing(
    bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str], action: str, size: int, point: str
) -> None:
    path = tmp_path / "content"
    content = content_of(path, size)
    with uploading(bench, path, action, point) as uploader:
        uploader.send_signal(signal.SIGSTOP)
        os.waitpid(uploader.pid, os.WUNTRACED)
        for left in bench.store.unfinished(bench.store.now() + HOUR):
            bench.store.drop_unfinished(left)
        uploader.send_signal(signal.SIGCONT)
        uploader.communicate("go on\n")
    assert uploader.returncode == 1
    assert "pipeline.store.errors." in capfd.readouterr().err
    assert list(bench.store.list()) == []
    assert put_elsewhere(bench, path) == sha256_of(content)
    assert bench.store.get_bytes(sha256_of(content)) == content


@pytest.mark.parametrize(("action", "size", "point"), POINTS)
def test_an_upload_that_is_published_while_it_is_swept_stays_whole(
    bench: Bench, tmp_path: Path, action: str, size: int, point: str
) -> None:
    path = tmp_path / "content"
    content = content_of(path, size)
    with uploading(bench, path, action, point) as uploader:
        found = list(bench.store.unfinished(bench.store.now() + HOUR))
        uploader.communicate("go on\n")
    assert len(found) == 1
    for left in found:
        bench.store.drop_unfinished(left)
    assert bench.store.get_bytes(sha256_of(content)) == content
