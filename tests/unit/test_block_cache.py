"""The node's blocks: bounded, shared, verified, and never in the way."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from datasets_impl import block_cache
from datasets_impl.block_cache import BlockCache

SIZE = 1000


def block(number: int) -> tuple[str, bytes]:
    content = number.to_bytes(2, "big") * (SIZE // 2)
    return hashlib.sha256(content).hexdigest(), content


def kept(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("??/*")}


def age(folder: Path, sha256: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(folder / sha256[:2] / sha256, (then, then))


def test_a_block_comes_back_in_another_process_too(tmp_path: Path) -> None:
    BlockCache(tmp_path, 10 * SIZE).put(*block(1))
    found = BlockCache(tmp_path, 10 * SIZE).get(block(1)[0])
    assert found is not None
    assert found.tobytes() == block(1)[1]
    assert BlockCache(tmp_path, 10 * SIZE).get(block(2)[0]) is None


def test_a_damaged_block_is_not_given_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sha256, content = block(1)
    BlockCache(tmp_path, 10 * SIZE).put(sha256, content)
    (tmp_path / sha256[:2] / sha256).write_bytes(content[:-1] + b"x")
    cache = BlockCache(tmp_path, 10 * SIZE)
    assert cache.get(sha256) is None
    assert "damaged" in caplog.text
    cache.put(sha256, content)
    assert cache.get(sha256) is not None


def test_the_least_recently_used_make_room_and_the_budget_holds(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, 4 * SIZE)
    for number in range(4):
        cache.put(*block(number))
        age(tmp_path, block(number)[0], 3 * block_cache.RECENT - number)
    cache.get(block(0)[0])  # used now
    cache.put(*block(4))
    assert kept(tmp_path) == {block(number)[0] for number in (0, 2, 3, 4)}


def test_what_was_used_lately_stays_and_new_blocks_are_not_kept(tmp_path: Path) -> None:
    """Otherwise a training that goes through more than the cache holds would find nothing there in its next epoch."""
    cache = BlockCache(tmp_path, 4 * SIZE)
    for number in range(8):
        cache.put(*block(number))
    assert kept(tmp_path) == {block(number)[0] for number in range(4)}


@pytest.mark.parametrize("budget", [0, SIZE - 1])
def test_without_room_nothing_is_written(tmp_path: Path, budget: int) -> None:
    cache = BlockCache(tmp_path / "blocks", budget)
    cache.put(*block(1))
    assert not (tmp_path / "blocks").exists()


def test_a_folder_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = BlockCache(tmp_path / "file" / "blocks", 10 * SIZE)
    cache.put(*block(1))
    assert cache.get(block(1)[0]) is None


def test_a_disk_that_fills_up_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache = BlockCache(tmp_path, 10 * SIZE)
    monkeypatch.setattr(block_cache.os, "replace", full)
    cache.put(*block(1))
    assert "No space left" in caplog.text
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "lock"] == []
