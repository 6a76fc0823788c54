"""Checkpoints on the node, in the store and in the ledger, with disks, stores and databases that fail."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint_folder import CheckpointFolder
from pipeline.checkpoint_record import Recorded, dropped
from pipeline.checkpoint_uploader import CheckpointUploader
from pipeline.checkpoints import CheckpointKeeper
from pipeline.errors import DatabaseUnavailable
from pipeline.store.errors import StoreUnavailable
from pipeline.store.folder import FolderStore
from pipeline.store.interface import StoredObject
from tests.resumable_training import FileLedger
from trainers.contract import Retention

LONG = 60.0
"""Seconds that nothing here comes near to."""


class LedgerOfOneThread(FileLedger):
    """A ledger that only the thread that made it may use, and that is away as often as it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.thread = threading.current_thread()
        self.failures: list[Exception] = []

    def record(self, *entry: Any) -> None:
        assert threading.current_thread() is self.thread
        if self.failures:
            raise self.failures.pop()
        super().record(*entry)

    def forget(self, sha256: str) -> None:
        assert threading.current_thread() is self.thread
        super().forget(sha256)


class Gated(FolderStore):
    """A store whose uploads wait for a gate to open."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.came = threading.Event()

    def _upload(self, *parts: Any) -> StoredObject:
        self.came.set()
        assert self.gate.wait(LONG)
        return super()._upload(*parts)


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


@pytest.fixture
def ledger(tmp_path: Path) -> LedgerOfOneThread:
    return LedgerOfOneThread(tmp_path / "ledger.json")


@pytest.fixture
def keeper(tmp_path: Path, store: FolderStore, ledger: LedgerOfOneThread) -> Callable[..., CheckpointKeeper]:
    """Makes a keeper, as every attempt at the task does."""

    def make(folder: str = "node", in_store: FolderStore = store) -> CheckpointKeeper:
        return CheckpointKeeper(tmp_path / folder, in_store, ledger)

    return make


def content(number: int, size: int = 1000) -> bytes:
    return f"state {number} ".encode() * (size // 8)


def save_all(keeper: CheckpointKeeper, numbers: range, **params: Any) -> None:
    """Save so many checkpoints, each of which comes to the store before the next."""
    for number in numbers:
        keeper.save(content(number), epoch=number, step=0, **params)
        assert keeper._uploader.flush(LONG)
        keeper.poll()


def epochs(found: list[Recorded]) -> list[int]:
    return sorted(one.epoch for one in found)


def on_node(folder: Path) -> list[int]:
    return epochs(CheckpointFolder(folder).list())


def in_store(store: FolderStore) -> set[str]:
    return {found.sha256 for found in store.list()}


def file_of(folder: Path, epoch: int) -> Path:
    [path] = folder.glob(f"epoch{epoch:06d}_*.checkpoint")
    return path


def warnings(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING)


def test_the_newest_is_loaded_on_this_node_and_on_any_other(
    keeper: Callable[..., CheckpointKeeper], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    first = keeper()
    assert first.load() is None
    first.save(content(1), epoch=0, step=7)
    first.save(content(2), epoch=1, step=3, score=0.25)
    assert first.close(LONG)
    assert keeper().load() == content(2)
    elsewhere = keeper("other node")
    assert elsewhere.load() == content(2)
    assert on_node(tmp_path / "other node") == [1]  # kept, so that loading it again needs no store
    assert warnings(caplog) == ""


def test_an_upload_is_recorded_by_the_thread_of_the_training(
    keeper: Callable[..., CheckpointKeeper], store: FolderStore, ledger: LedgerOfOneThread
) -> None:
    one = keeper()
    one.save(content(1), epoch=2, step=5, score=0.5)
    assert one._uploader.flush(LONG)
    assert ledger.newest_first() == []
    one.poll()
    [recorded] = ledger.newest_first()
    assert (recorded.size, recorded.epoch, recorded.step, recorded.score) == (len(content(1)), 2, 5, 0.5)
    assert store.stat(recorded.sha256).kind == "checkpoint"
    assert one.close(LONG)


@pytest.mark.feature("T6")
@pytest.mark.parametrize(
    ("retention", "stay"),
    [
        (Retention(), [8, 9]),
        (Retention(last=1), [9]),
        (Retention(last=1, best=2), [3, 6, 9]),
        (Retention(last=1, best=2, direction="max"), [2, 5, 9]),
        (Retention(last=2, every=3), [3, 6, 8, 9]),
        (Retention(last=100), [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
    ids=str,
)
def test_so_many_stay_on_the_node_and_in_the_store(
    keeper: Callable[..., CheckpointKeeper],
    store: FolderStore,
    ledger: LedgerOfOneThread,
    tmp_path: Path,
    retention: Retention,
    stay: list[int],
) -> None:
    scores = [None, 4.0, 9.0, 1.0, float("nan"), 8.0, 0.5, 5.0, 3.0, 2.0]
    one = keeper()
    one.retain(retention)
    for number in range(1, 10):
        save_all(one, range(number, number + 1), score=scores[number])
    assert one.close(LONG)
    assert on_node(tmp_path / "node") == epochs(ledger.newest_first()) == stay
    assert in_store(store) == {found.sha256 for found in ledger.newest_first()}


@pytest.mark.feature("T6")
def test_the_best_and_every_so_manieth_stay_when_the_training_is_over(
    keeper: Callable[..., CheckpointKeeper], store: FolderStore, ledger: LedgerOfOneThread, tmp_path: Path
) -> None:
    first = keeper()
    first.retain(Retention(last=2, best=1, every=4))
    for number in range(1, 6):
        save_all(first, range(number, number + 1), score=abs(number - 3.0))
    assert first.close(LONG)
    other = keeper("other node")
    other.retain(Retention(last=2, best=1, every=4))
    other.load()
    save_all(other, range(6, 10), score=9.0)
    kept = other.kept_for_good(LONG)
    assert [one.epoch for one in kept] == [3, 4, 8]
    other.discard({one.sha256 for one in kept})
    assert in_store(store) == {one.sha256 for one in kept}
    assert ledger.newest_first() == []
    assert not (tmp_path / "other node").exists()


def test_nothing_stays_where_nobody_asked_for_it(keeper: Callable[..., CheckpointKeeper], store: FolderStore) -> None:
    one = keeper()
    save_all(one, range(1, 4), score=1.0)
    assert one.kept_for_good(LONG) == []
    one.discard()
    assert in_store(store) == set()


def test_a_training_is_not_over_before_what_stays_is_in_the_store(
    keeper: Callable[..., CheckpointKeeper], tmp_path: Path
) -> None:
    gated = Gated(tmp_path / "gated")
    one = keeper(in_store=gated)
    one.retain(Retention(last=1, every=1))
    one.save(content(1), epoch=1, step=0, score=1.0)
    with pytest.raises(StoreUnavailable, match="not be uploaded yet"):
        one.kept_for_good(0.01)
    gated.gate.set()
    assert [found.epoch for found in one.kept_for_good(LONG)] == [1]


def test_checkpoints_within_an_epoch_count_as_last_only() -> None:
    found = [Recorded(str(number), 1, 2, number, None) for number in range(5)]
    assert {one.step for one in dropped(found, Retention(last=1, best=3, every=1))} == {1, 2, 3}


def test_earlier_attempts_count(
    keeper: Callable[..., CheckpointKeeper], ledger: LedgerOfOneThread, tmp_path: Path
) -> None:
    first = keeper()
    save_all(first, range(1, 4))
    assert first.close(LONG)
    second = keeper()
    second.load()
    save_all(second, range(4, 5))
    assert second.close(LONG)
    assert on_node(tmp_path / "node") == epochs(ledger.newest_first()) == [3, 4]


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "cut off": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "changed": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_left_out_for_the_copy_in_the_store(
    keeper: Callable[..., CheckpointKeeper], tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    one = keeper()
    save_all(one, range(1, 3))
    assert one.close(LONG)
    DAMAGE[damage](file_of(tmp_path / "node", 2))
    assert keeper().load() == content(2)
    assert "checkpoint of epoch 2, step 0 is left out" in warnings(caplog)


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_damaged_everywhere_is_left_out_for_the_one_before(
    keeper: Callable[..., CheckpointKeeper],
    store: FolderStore,
    ledger: LedgerOfOneThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    one = keeper()
    save_all(one, range(1, 3))
    assert one.close(LONG)
    sha256 = ledger.newest_first()[0].sha256
    DAMAGE[damage](file_of(tmp_path / "node", 2))
    DAMAGE[damage](store._folder(sha256) / "content")
    second = keeper()
    assert second.load() == content(1)
    assert warnings(caplog).count("checkpoint of epoch 2, step 0 is left out") == 2
    # The resumed training comes to the same state again, and now it is kept whole.
    save_all(second, range(2, 3))
    assert second.close(LONG)
    assert store.get_bytes(sha256) == content(2)
    assert keeper("other node").load() == content(2)


def test_one_missing_in_the_store_is_left_out_for_the_one_before(
    keeper: Callable[..., CheckpointKeeper],
    store: FolderStore,
    ledger: LedgerOfOneThread,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = keeper()
    save_all(one, range(1, 3))
    assert one.close(LONG)
    store.delete(ledger.newest_first()[0].sha256)
    assert keeper("other node").load() == content(1)
    assert "checkpoint of epoch 2, step 0 is left out" in warnings(caplog)
    assert epochs(ledger.newest_first()) == [1]


def test_half_written_files_are_not_seen_and_removed(keeper: Callable[..., CheckpointKeeper], tmp_path: Path) -> None:
    one = keeper()
    one.save(content(1), epoch=1, step=0)
    assert one.close(LONG)
    (tmp_path / "node" / ".unfinished-abc").write_bytes(content(2)[:10])
    (tmp_path / "node" / "notes.txt").write_text("not ours")
    assert keeper().load() == content(1)
    assert sorted(path.name for path in (tmp_path / "node").iterdir() if path.suffix != ".checkpoint") == ["notes.txt"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for two checkpoints of 60 kB and no third."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_ends_nothing(
    keeper: Callable[..., CheckpointKeeper],
    small_disk: Path,
    ledger: LedgerOfOneThread,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = keeper("disk/node")
    one.save(content(1, 60_000), epoch=1, step=0)
    (small_disk / "ballast").write_bytes(b"x" * 60_000)
    one.save(content(2, 60_000), epoch=2, step=0)
    assert os.strerror(errno.ENOSPC) in warnings(caplog)
    assert on_node(small_disk / "node") == [1]
    assert not list((small_disk / "node").glob(".*"))
    # It went to the store from memory, and from there it is read although the disk is still full.
    assert one.close(LONG)
    assert epochs(ledger.newest_first()) == [1, 2]
    second = keeper("disk/node")
    assert second.load() == content(2, 60_000)
    (small_disk / "ballast").unlink()
    second.save(content(3, 60_000), epoch=3, step=0)
    assert second.close(LONG)
    assert 3 in on_node(small_disk / "node")


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A file where the store's folder would be: nothing can be read or written there."""
    blocked = tmp_path / "store"
    blocked.write_text("")
    return blocked


def test_while_the_store_is_away_checkpoints_stay_on_the_node_and_follow_later(
    keeper: Callable[..., CheckpointKeeper],
    away: Path,
    ledger: LedgerOfOneThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = keeper()
    one.load()
    assert one.store_away_s == 0.0
    for number in range(1, 4):
        one.save(content(number), epoch=number, step=0)
        assert not one._uploader.flush(LONG)
    assert one.store_away_s > 0.0
    assert on_node(tmp_path / "node") == [2, 3]
    assert warnings(caplog).count("could not be uploaded") == 1
    away.unlink()
    assert one.close(LONG)
    assert one.store_away_s == 0.0
    assert epochs(ledger.newest_first()) == [2, 3]
    assert "Checkpoints are uploaded again" in warnings(caplog)


def test_a_store_that_stays_away_leaves_the_checkpoint_on_the_node(
    keeper: Callable[..., CheckpointKeeper], away: Path, ledger: LedgerOfOneThread
) -> None:
    one = keeper()
    one.save(content(1), epoch=1, step=0)
    assert not one.close(LONG)
    second = keeper()
    assert second.load() == content(1)
    away.unlink()
    # What an attempt could not bring to the store, the next one does.
    assert second.close(LONG)
    assert epochs(ledger.newest_first()) == [1]


def test_a_newer_checkpoint_behind_a_store_that_is_away_is_waited_for(
    keeper: Callable[..., CheckpointKeeper], tmp_path: Path
) -> None:
    one = keeper()
    save_all(one, range(1, 2))
    assert one.close(LONG)
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreUnavailable):
        keeper("other node").load()


def test_the_training_does_not_wait_for_a_slow_store(
    keeper: Callable[..., CheckpointKeeper],
    ledger: LedgerOfOneThread,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Gated(tmp_path / "slow")
    one = keeper(in_store=store)
    one.save(content(1), epoch=1, step=0)
    assert store.came.wait(LONG)
    for number in range(2, 6):
        one.save(content(number), epoch=number, step=0)
        one.poll()
    assert ledger.newest_first() == []
    assert on_node(tmp_path / "node") == [4, 5]
    store.gate.set()
    assert one.close(LONG)
    # Those that needed not stay by then were not uploaded; the first was on its way.
    assert epochs(ledger.newest_first()) == [4, 5]
    assert warnings(caplog) == ""


def test_closing_waits_only_so_long(keeper: Callable[..., CheckpointKeeper], tmp_path: Path) -> None:
    store = Gated(tmp_path / "slow")
    one = keeper(in_store=store)
    one.save(content(1), epoch=1, step=0)
    assert store.came.wait(LONG)
    assert one.close(0.01) is False
    assert on_node(tmp_path / "node") == [1]
    store.gate.set()


def test_a_database_that_is_away_is_told_later(
    keeper: Callable[..., CheckpointKeeper], ledger: LedgerOfOneThread, caplog: pytest.LogCaptureFixture
) -> None:
    one = keeper()
    ledger.failures.append(DatabaseUnavailable("no server answers"))
    save_all(one, range(1, 2))
    assert ledger.newest_first() == []
    assert "could not be recorded (no server answers)" in warnings(caplog)
    save_all(one, range(2, 3))
    assert epochs(ledger.newest_first()) == [1, 2]
    assert one.close(LONG)


def test_close_tells_that_the_database_does_not_know(
    keeper: Callable[..., CheckpointKeeper], ledger: LedgerOfOneThread
) -> None:
    one = keeper()
    one.save(content(1), epoch=1, step=0)
    ledger.failures.extend([DatabaseUnavailable("away")] * 2)
    assert one.close(LONG) is False


def test_a_lost_lease_ends_the_training(keeper: Callable[..., CheckpointKeeper], ledger: LedgerOfOneThread) -> None:
    class LeaseLost(Exception):
        pass

    one = keeper()
    one.save(content(1), epoch=1, step=0)
    assert one._uploader.flush(LONG)
    ledger.failures.append(LeaseLost())
    with pytest.raises(LeaseLost):
        one.poll()
    assert one.close(LONG)


def test_discarding_removes_everything(
    keeper: Callable[..., CheckpointKeeper], store: FolderStore, ledger: LedgerOfOneThread, tmp_path: Path
) -> None:
    one = keeper()
    save_all(one, range(1, 4))
    assert one.close(LONG)
    one.discard()
    assert in_store(store) == set()
    assert ledger.newest_first() == []
    assert not (tmp_path / "node").exists()
    one.discard()


def test_a_state_that_was_damaged_on_the_node_never_comes_into_the_store(
    store: FolderStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uploader = CheckpointUploader(store)
    file = tmp_path / "state"
    file.write_bytes(content(1))
    uploader.upload(Recorded(hashlib.sha256(content(2)).hexdigest(), len(content(2)), 3, 0, None), file, ())
    assert uploader.flush(LONG)  # it is not tried again
    uploader.end(LONG)
    assert not uploader.uploaded
    assert in_store(store) == set()
    assert "The checkpoint of epoch 3, step 0 was damaged on the node" in warnings(caplog)


def test_deletions_asked_for_are_done_before_the_thread_ends(store: FolderStore) -> None:
    uploader = CheckpointUploader(store)
    doomed = [store.put(content(number)).sha256 for number in range(20)]
    for sha256 in doomed:
        uploader.delete(sha256)
    uploader.end(LONG)
    assert in_store(store) == set()


def test_a_task_without_checkpoints_starts_no_thread(keeper: Callable[..., CheckpointKeeper], tmp_path: Path) -> None:
    before = threading.active_count()
    one = keeper()
    assert one.load() is None
    one.poll()
    assert one.close(LONG)
    one.discard()
    assert threading.active_count() == before
    assert not (tmp_path / "node").exists()
