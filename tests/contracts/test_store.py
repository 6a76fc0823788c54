"""One suite over both stores: what every implementation of `Store` promises."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier
from typing import Any

import pymongo
import pytest
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, BulkWriteError, DuplicateKeyError, OperationFailure

from pipeline.file_digest import FileDigests
from pipeline.store import (
    ContentChanged,
    NotAnAddress,
    ObjectDamaged,
    ObjectMissing,
    Store,
    StoreUnavailable,
    interface,
    parse_address,
)
from pipeline.store.folder import FolderStore
from pipeline.store.gridfs import GridFSStore
from tests.contracts.store_bench import MIB, Bench, FolderBench, GridFSBench, sha256_of


class Pipe(io.RawIOBase):
    """A stream that can be read only once, as a socket is."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._content.readinto(buffer)


class CountingStream(io.BytesIO):
    """Counts the bytes that were read from it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        piece = super().read(size)
        self.count += len(piece)
        return piece


# What is put is got


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_content_of_any_size_comes_back(store: Store, size: int) -> None:
    content = os.urandom(size)
    stored = store.put(content, kind="model")
    assert (stored.sha256, stored.size, stored.kind) == (sha256_of(content), size, "model")
    assert store.get_bytes(stored.sha256) == content


def test_bytes_paths_and_streams_are_one_object(store: Store, tmp_path: Path) -> None:
    content = os.urandom(2 * MIB)
    (tmp_path / "file").write_bytes(content)
    rewindable = io.BytesIO(b"header" + content)
    rewindable.seek(len(b"header"))
    given = [content, bytearray(content), tmp_path / "file", rewindable, Pipe(content)]
    assert {store.put(each).sha256 for each in given} == {sha256_of(content)}
    assert not rewindable.closed
    assert len(list(store.list())) == 1


def test_a_stream_that_cannot_be_rewound_is_stored(store: Store) -> None:
    content = os.urandom(9 * MIB)
    assert store.get_bytes(store.put(Pipe(content)).sha256) == content


def test_reading_in_small_steps_gives_the_content(store: Store) -> None:
    content = os.urandom(MIB + 100)
    with store.open(store.put(content).sha256) as stream:
        assert b"".join(iter(lambda: stream.read(70_001), b"")) == content


def test_stat_knows_times_in_utc(store: Store) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    stored = store.stat(store.put(b"content", kind="checkpoint").sha256)
    assert stored.kind == "checkpoint"
    assert before < stored.created <= datetime.now(UTC) + timedelta(seconds=2)
    assert stored.created.utcoffset() == stored.marked.utcoffset() == timedelta(0)


def test_list_is_ordered_and_complete(store: Store) -> None:
    stored = [store.put(bytes([number])) for number in range(10)]
    assert [each.sha256 for each in store.list()] == sorted(each.sha256 for each in stored)


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list(store.list()) == []


def test_download_writes_a_whole_file_and_nothing_else(store: Store, tmp_path: Path) -> None:
    content = os.urandom(MIB)
    target = tmp_path / "download" / "weights"
    target.parent.mkdir()
    store.download(store.put(content).sha256, target)
    assert target.read_bytes() == content
    assert os.listdir(target.parent) == ["weights"]


# Once, whole, and marked


def test_several_contents_are_put_together(bench: Bench) -> None:
    there = bench.store.put(b"there", kind="model")
    contents = [b"there", b"", b"new", os.urandom(2 * MIB), b"new", bytes(MIB), b"other"]
    given = [(content, "blob") for content in contents]
    assert [*bench.store.put_all(given)] == [sha256_of(content) for content in contents]
    for content in contents:
        assert bench.store.get_bytes(sha256_of(content)) == content
    assert {stored.kind for stored in bench.store.list() if stored.sha256 != there.sha256} == {"blob"}
    assert bench.store.stat(there.sha256).kind == "model"
    assert bench.store.stat(there.sha256).marked >= there.marked
    before = bench.kept_bytes()
    bench.store.put_all(given)
    assert bench.kept_bytes() == before == sum(map(len, set(contents)))


def test_threads_that_put_the_same_contents_together_end_with_one_of_each(bench: Bench) -> None:
    contents = [os.urandom(1000) for _ in range(20)]
    barrier = Barrier(8)

    def put_all(_: int) -> None:
        barrier.wait()
        bench.store.put_all([(content, "") for content in contents])

    with ThreadPoolExecutor(8) as pool:
        [*pool.map(put_all, range(8))]
    assert {stored.sha256 for stored in bench.store.list()} == {sha256_of(content) for content in contents}
    assert all(bench.store.get_bytes(sha256_of(content)) == content for content in contents)
    assert bench.kept_bytes() == sum(map(len, contents))


def test_content_that_is_there_is_not_uploaded_again(bench: Bench) -> None:
    content = os.urandom(3 * MIB)
    first = bench.store.put(content, kind="model")
    again = CountingStream(content)
    second = bench.store.put(again, kind="other")
    assert again.count == len(content), "the second put reads the content once, to hash it"
    assert bench.kept_bytes() == len(content)
    assert (second.created, second.kind) == (first.created, "model")


def test_putting_again_renews_the_mark(bench: Bench) -> None:
    first = bench.store.put(b"content")
    if isinstance(bench, FolderBench):
        os.utime(bench.content(first.sha256).with_name("kind"), (1, 1))
    elif isinstance(bench, GridFSBench):
        bench.bucket["files"].update_one({}, {"$set": {"metadata.marked": datetime.fromtimestamp(1, UTC)}})
    assert bench.store.stat(first.sha256).marked == datetime.fromtimestamp(1, UTC)
    second = bench.store.put(b"content")
    assert second == bench.store.stat(first.sha256)
    assert second.marked >= first.marked
    assert second.created == first.created


def test_content_whose_digest_is_known_is_not_read_when_it_is_there(bench: Bench) -> None:
    content = os.urandom(3 * MIB)
    first = bench.store.put(content)
    again = CountingStream(content)
    second = bench.store.put(again, sha256=sha256_of(content))
    assert again.count == 0
    assert (second.sha256, second.size, second.created) == (first.sha256, first.size, first.created)


def test_a_known_digest_is_checked_when_the_content_is_uploaded(bench: Bench) -> None:
    content = os.urandom(3 * MIB)
    once = CountingStream(content)
    assert bench.store.put(once, sha256=sha256_of(content)).sha256 == sha256_of(content)
    assert once.count == len(content), "one pass over it hashes and uploads"
    before = bench.kept_bytes()
    with pytest.raises(ContentChanged):
        bench.store.put(b"other", sha256="0" * 64)
    assert [stored.sha256 for stored in bench.store.list()] == [sha256_of(content)]
    assert bench.kept_bytes() == before
    with pytest.raises(NotAnAddress):
        bench.store.put(b"other", sha256="../" + "0" * 61)


LARGE = interface.LARGE + 5


def test_large_content_of_a_new_length_is_read_once(mongod_uri: str) -> None:
    client: pymongo.MongoClient[Any]
    content = os.urandom(LARGE)
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        store = GridFSStore(lambda: database)
        once = CountingStream(content)
        assert store.put(once).sha256 == sha256_of(content)
        assert once.count == LARGE
        assert store.get_bytes(sha256_of(content)) == content
        same_length = content[::-1]
        twice = CountingStream(same_length)
        assert store.put(twice).sha256 == sha256_of(same_length)
        assert twice.count == 2 * LARGE, "one may be there already: it is hashed first"
        client.drop_database(database)


@pytest.fixture
def remembering(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that remembers the digests of large files, however young."""
    monkeypatch.setattr("pipeline.store.interface.SETTLED", -(10**18))
    monkeypatch.setattr("pipeline.file_digest.SETTLED", -(10**18))
    bench.store._digests = FileDigests(tmp_path / "cache")
    return bench.store


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are hashed to know their digest."""
    files: list[str] = []
    digest = hashlib.file_digest

    def counted(file: Any, name: Any) -> Any:
        files.append(file.name)
        return digest(file, name)

    monkeypatch.setattr("pipeline.file_digest.hashlib.file_digest", counted)
    return files


def test_an_unchanged_large_file_is_not_read_again(remembering: Store, hashed: list[str], tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(LARGE))
    first = remembering.put(path)
    count = len(hashed)
    monitored = remembering.put(path)
    assert monitored.sha256 == first.sha256 == sha256_of(path.read_bytes())
    assert len(hashed) == count <= 1, "the digest came out of the first upload"


def test_a_changed_large_file_is_another_object(remembering: Store, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(LARGE))
    first, status = remembering.put(path).sha256, path.stat()
    with open(path, "r+b") as file:  # the same length, inode and time of modification
        file.write(b"changed")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = remembering.put(path).sha256
    assert second == sha256_of(path.read_bytes()) != first
    assert remembering.get_bytes(second) == path.read_bytes()


def test_a_file_whose_object_was_deleted_is_uploaded_again(remembering: Store, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(LARGE))
    sha256 = remembering.put(path).sha256
    remembering.delete(sha256)
    assert remembering.put(path).sha256 == sha256
    assert remembering.get_bytes(sha256) == path.read_bytes()


def test_a_file_that_was_just_written_is_always_read(
    bench: Bench, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the resolution of its time stamps it may change unnoticed."""
    monkeypatch.setattr("pipeline.store.interface.SETTLED", 3600 * 10**9)
    monkeypatch.setattr("pipeline.file_digest.SETTLED", 3600 * 10**9)
    bench.store._digests = FileDigests(tmp_path / "cache")
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(LARGE))
    bench.store.put(path)
    before = len(hashed)
    bench.store.put(path)
    bench.store.put(path)
    assert len(hashed) == before + 2


def test_a_file_that_was_young_when_its_upload_began_is_read_again(
    mongod_uri: str, hashed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is old enough when the upload ends, but may have changed unnoticed before it was opened."""
    monkeypatch.setattr("pipeline.store.interface.SETTLED", 3600 * 10**9)
    monkeypatch.setattr("pipeline.file_digest.SETTLED", -(10**18))
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(LARGE))
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        store = GridFSStore(lambda: database, digests=FileDigests(tmp_path / "cache"))
        store.put(path)
        assert hashed == []
        store.put(path)
        assert hashed == [str(path)]
        client.drop_database(database)


# What the loss of a primary looks like


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("size", [1000, 20 * MIB])
def test_an_upload_goes_on_when_answers_are_lost(
    mongod_uri: str, monkeypatch: pytest.MonkeyPatch, written: bool, size: int
) -> None:
    """More often than the driver itself tries again; what was written before the answer was lost is no error."""
    client: pymongo.MongoClient[Any]
    insert_many, losses = Collection.insert_many, 3

    def interrupted(self: Any, documents: Any, *args: Any, **options: Any) -> Any:
        nonlocal losses
        losses -= 1
        if losses < 0:
            return insert_many(self, documents, *args, **options)
        if written:
            with suppress(BulkWriteError):
                insert_many(self, documents, *args, **options)
        raise AutoReconnect("the primary steps down")

    monkeypatch.setattr(Collection, "insert_many", interrupted)
    content = os.urandom(size)
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        store = GridFSStore(lambda: database)
        assert store.get_bytes(store.put(content).sha256) == content
        client.drop_database(database)


def test_an_upload_does_not_wait_for_ever(mongod_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise AutoReconnect("connection refused")

    monkeypatch.setattr(Collection, "insert_many", away)
    monkeypatch.setattr("pipeline.store.mongo_errors.FAILOVER", 0.3)
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        store = GridFSStore(lambda: database)
        with pytest.raises(StoreUnavailable, match="Cannot reach"):
            store.put(b"content")
        assert list(store.list()) == []
        client.drop_database(database)


class Breaking(io.BytesIO):
    """A stream that is read to its end once, and the second time only to a place."""

    def __init__(self, content: bytes, place: int) -> None:
        super().__init__(content)
        self._place = place
        self._passes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self._passes += self.tell() == 0
        if self._passes > 1 and self.tell() >= self._place:
            raise OSError("the disk is gone")
        return super().read(size)


def test_an_upload_whose_source_fails_leaves_nothing(bench: Bench) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        bench.store.put(Breaking(os.urandom(30 * MIB), 20 * MIB))
    assert list(bench.store.list()) == []
    assert bench.kept_bytes() == 0


@pytest.mark.parametrize("failing", [1, 2, 4])
def test_an_upload_of_which_a_part_is_refused_leaves_nothing(
    mongod_uri: str, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """The first, one in the middle, and the last of four."""
    inserted, insert_many = [], Collection.insert_many

    def refused(self: Any, documents: Any, *args: Any, **options: Any) -> Any:
        inserted.append(len(documents))
        if len(inserted) == failing:
            raise OperationFailure("over the quota", code=8000)
        return insert_many(self, documents, *args, **options)

    monkeypatch.setattr(Collection, "insert_many", refused)
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        store = GridFSStore(lambda: database)
        with pytest.raises(StoreUnavailable, match="over the quota"):
            store.put(os.urandom(30 * MIB))
        assert list(store.list()) == []
        assert database["objects"]["chunks"].count_documents({}) == 0
        client.drop_database(database)
    assert len(inserted) == failing


# What the garbage collection asks for


def test_an_object_that_was_put_again_since_it_was_seen_is_not_deleted(bench: Bench) -> None:
    seen = bench.store.put(b"content")
    while bench.store.put(b"content").marked == seen.marked:  # clocks of milliseconds
        pass
    assert not bench.store.delete_unrenewed(seen)
    assert bench.store.get_bytes(seen.sha256) == b"content"
    assert bench.store.delete_unrenewed(bench.store.stat(seen.sha256))
    assert list(bench.store.list()) == []
    assert bench.kept_bytes() == 0
    assert not bench.store.delete_unrenewed(seen), "it is gone"


def test_of_put_and_deletion_at_once_the_object_stays_or_is_uploaded_again(bench: Bench) -> None:
    content = b"contested"
    sha256 = sha256_of(content)
    with ThreadPoolExecutor(2) as threads:
        for _ in range(100):
            seen = bench.store.put(content)
            deletion = threads.submit(bench.store.delete_unrenewed, seen)
            renewal = threads.submit(bench.store.put, content)
            deletion.result()
            if renewal.result().marked != seen.marked:  # else both within a tick of the clock
                assert bench.store.get_bytes(sha256) == content


def test_a_store_belongs_to_the_first_who_claims_it(bench: Bench) -> None:
    with ThreadPoolExecutor(8) as threads:
        owners = set(threads.map(bench.store.claim, [f"{number:032x}" for number in range(8)]))
    assert len(owners) == 1
    assert bench.store.claim("f" * 32) in owners


def test_the_clock_of_the_store_is_that_of_its_marks(store: Store) -> None:
    before = store.now()
    marked = store.put(b"content").marked
    assert before - timedelta(milliseconds=20) <= marked <= store.now() + timedelta(milliseconds=20)


def test_what_a_killed_upload_leaves_is_found_and_dropped(bench: Bench, tmp_path: Path) -> None:
    whole = bench.store.put(os.urandom(10 * MIB))
    (tmp_path / "content").write_bytes(os.urandom(12 * MIB))
    with bench.process("put_gated", tmp_path / "content", 9 * MIB) as uploader:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == "halted\n"
        uploader.kill()
    (left,) = bench.store.unfinished(bench.store.now() + timedelta(hours=1))
    assert left.size == bench.kept_bytes() - whole.size > 0
    assert list(bench.store.unfinished(bench.store.now() - timedelta(hours=1))) == []
    bench.store.drop_unfinished(left)
    bench.store.drop_unfinished(left)
    assert bench.kept_bytes() == whole.size
    assert bench.store.get_bytes(whole.sha256)
    assert list(bench.store.unfinished(bench.store.now() + timedelta(hours=1))) == []


def test_an_uploader_killed_halfway_leaves_nothing_visible(bench: Bench, tmp_path: Path) -> None:
    content = os.urandom(12 * MIB)
    (tmp_path / "content").write_bytes(content)
    with bench.process("put_gated", tmp_path / "content", 9 * MIB) as uploader:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == "halted\n"
        uploader.kill()
    assert 0 < bench.kept_bytes() < len(content), "it was killed in the middle of an upload"
    assert list(bench.store.list()) == []
    with pytest.raises(ObjectMissing):
        bench.store.stat(sha256_of(content))
    with pytest.raises(ObjectMissing):
        bench.store.open(sha256_of(content))
    assert bench.store.get_bytes(bench.store.put(content).sha256) == content


def test_two_processes_storing_the_same_end_with_one_object(bench: Bench, tmp_path: Path) -> None:
    content = os.urandom(2 * MIB)
    (tmp_path / "content").write_bytes(content)
    uploaders = [bench.process("put_gated", tmp_path / "content", MIB) for _ in range(2)]
    for uploader in uploaders:
        assert uploader.stdout is not None
        assert uploader.stdout.readline() == "halted\n"
    # Both found the object absent and are uploading it.
    assert [uploader.communicate("go on\n")[0].strip() for uploader in uploaders] == [sha256_of(content)] * 2
    assert [uploader.returncode for uploader in uploaders] == [0, 0]
    assert len(list(bench.store.list())) == 1
    assert bench.kept_bytes() == len(content)
    assert bench.store.get_bytes(sha256_of(content)) == content


def test_threads_share_a_store(store: Store) -> None:
    contents = [os.urandom(1000) for _ in range(5)] * 8
    with ThreadPoolExecutor(8) as threads:
        digests = [stored.sha256 for stored in threads.map(store.put, contents)]
        assert list(threads.map(store.get_bytes, digests)) == contents
    assert len(list(store.list())) == 5


def test_uploads_that_end_at_the_same_moment_publish_one_object(bench: Bench) -> None:
    class Together(io.BytesIO):
        """Ends its second pass, the upload, when all the others do."""

        ends = 0

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            if not piece:
                self.ends += 1
                if self.ends == 2:
                    everybody.wait()
            return piece

    contents = [os.urandom(100) for _ in range(10)]
    with ThreadPoolExecutor(8) as threads:
        for content in contents:
            everybody = Barrier(8)
            digests = {stored.sha256 for stored in threads.map(bench.store.put, [Together(content) for _ in range(8)])}
            assert digests == {sha256_of(content)}
    assert [stored.sha256 for stored in bench.store.list()] == sorted(map(sha256_of, contents))
    assert bench.kept_bytes() == 100 * len(contents)


def test_a_forked_child_goes_on_using_the_store(bench: Bench) -> None:
    if isinstance(bench, GridFSBench):
        uri, database = bench.arguments[1].split("|")
        clients: list[pymongo.MongoClient[Any]] = []

        def connect() -> Any:
            clients.append(pymongo.MongoClient(uri))
            return clients[-1][database]

        store: Store = GridFSStore(connect)
    else:
        store, clients = bench.store, []
    parents = store.put(b"parent").sha256
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if store.get_bytes(parents) == b"parent" and store.put(b"child") else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert store.get_bytes(sha256_of(b"child")) == b"child"
    for client in clients:
        client.close()


def test_memory_stays_bounded_with_64_mib(bench: Bench, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        for _ in range(64):
            file.write(os.urandom(MIB))
    with bench.process("measure", tmp_path / "large", tmp_path / "copy") as process:
        out, _ = process.communicate()
    assert process.returncode == 0
    assert int(out) < 40 * MIB
    assert (tmp_path / "copy").stat().st_size == 64 * MIB


@pytest.mark.slow
def test_memory_stays_bounded_with_2_gib(bench: Bench, tmp_path: Path) -> None:
    """The content is made while it is read: a file of holes, with something at its end."""
    with open(tmp_path / "content", "wb") as file:
        file.truncate(2 << 30)
        file.seek(-8, os.SEEK_END)
        file.write(b"the end.")
    with bench.process("measure", tmp_path / "content", tmp_path / "copy") as child:
        out, _ = child.communicate(timeout=280)
    assert child.returncode == 0
    assert int(out) < 100 * MIB
    assert (tmp_path / "copy").stat().st_size == 2 << 30
    with open(tmp_path / "copy", "rb") as copy:
        copy.seek(-8, os.SEEK_END)
        assert copy.read() == b"the end."


# Damage


@pytest.mark.parametrize("damage", ["flip_byte", "cut", "append"])
@pytest.mark.parametrize("size", [10, 3 * MIB, 30 * MIB])
def test_damage_is_never_delivered_as_the_object(bench: Bench, damage: str, size: int) -> None:
    sha256 = bench.store.put(os.urandom(size)).sha256
    getattr(bench, damage)(sha256)
    with pytest.raises(ObjectDamaged, match=sha256) as error:
        bench.store.get_bytes(sha256)
    assert bench.store.where in str(error.value)
    with bench.store.open(sha256) as stream, pytest.raises(ObjectDamaged):
        while stream.read(100_000):
            pass


@pytest.mark.parametrize("damage", ["flip_byte", "append"])
def test_who_reads_exactly_as_many_bytes_as_promised_sees_damage_too(bench: Bench, damage: str) -> None:
    sha256 = bench.store.put(os.urandom(3 * MIB)).sha256
    getattr(bench, damage)(sha256)
    with bench.store.open(sha256) as stream, pytest.raises(ObjectDamaged):
        stream.read(bench.store.stat(sha256).size)


def test_a_damaged_object_is_not_downloaded(bench: Bench, tmp_path: Path) -> None:
    sha256 = bench.store.put(os.urandom(3 * MIB)).sha256
    bench.flip_byte(sha256)
    (tmp_path / "download").mkdir()
    with pytest.raises(ObjectDamaged):
        bench.store.download(sha256, tmp_path / "download" / "weights")
    assert os.listdir(tmp_path / "download") == []


def test_a_damaged_object_is_cured_by_deleting_and_storing_again(bench: Bench) -> None:
    content = os.urandom(2 * MIB)
    sha256 = bench.store.put(content).sha256
    bench.flip_byte(sha256)
    bench.store.delete(sha256)
    bench.store.put(content)
    assert bench.store.get_bytes(sha256) == content


def test_content_that_changes_while_it_is_stored_is_refused(bench: Bench) -> None:
    class Growing(io.BytesIO):
        """Something still writes to it."""

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            if not piece:
                self.write(b"more")
            return piece

    with pytest.raises(ContentChanged, match="store it again"):
        bench.store.put(Growing(os.urandom(9 * MIB)))
    assert list(bench.store.list()) == []
    assert bench.kept_bytes() == 0


# Refusals


def test_a_deleted_object_is_gone_with_its_bytes(bench: Bench) -> None:
    kept, dropped = bench.store.put(b"kept"), bench.store.put(os.urandom(3 * MIB))
    bench.store.delete(dropped.sha256)
    bench.store.delete(dropped.sha256)
    with pytest.raises(ObjectMissing, match=dropped.sha256):
        bench.store.stat(dropped.sha256)
    assert [each.sha256 for each in bench.store.list()] == [kept.sha256]
    assert bench.kept_bytes() == len(b"kept")


def test_a_missing_object_is_named(store: Store, tmp_path: Path) -> None:
    missing = sha256_of(b"never stored")
    for look in (store.stat, store.open, store.get_bytes, lambda each: store.download(each, tmp_path / "file")):
        with pytest.raises(ObjectMissing, match=missing):
            look(missing)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["../../../etc/passwd", "", "A" * 64, "0" * 63, "0" * 64 + "\n", "/" + "0" * 63])
def test_what_is_no_sha256_is_refused(store: Store, name: str) -> None:
    for use in (store.stat, store.open, store.delete, store.get_bytes, store.address):
        with pytest.raises(NotAnAddress, match="64 lower-case hexadecimal digits"):
            use(name)


@pytest.mark.parametrize("content", ["text", io.StringIO("text"), None, 5])
def test_what_is_not_bytes_is_refused(store: Store, content: Any) -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        store.put(content)


@pytest.mark.parametrize("kind", ["two words", "x" * 65, "\0", "a\n"])
def test_an_unusual_kind_is_refused(store: Store, kind: str) -> None:
    with pytest.raises(ValueError, match="kind"):
        store.put(b"content", kind=kind)


def test_addresses_are_parsed_strictly(store: Store) -> None:
    sha256 = sha256_of(b"content")
    assert parse_address(store.address(sha256)) == sha256
    wrong = [sha256, f"trainloom:/{sha256}", f"trainloom://{sha256}/", f"trainloom://../{sha256[3:]}", f"x://{sha256}"]
    for text in wrong:
        with pytest.raises(NotAnAddress, match="must read trainloom://<sha256>"):
            parse_address(text)


# Only one of them


def test_folders_and_files_are_private(tmp_path: Path) -> None:
    FolderStore(tmp_path / "store").put(b"content")
    for path in [tmp_path / "store", *(tmp_path / "store").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    assert list(store.list()) == []
    store.delete("0" * 64)
    assert not (tmp_path / "store").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable, match=f"Cannot use the folder store {tmp_path}/file/store"):
        FolderStore(tmp_path / "file" / "store").put(b"content")


def test_a_server_away_is_named_without_its_password() -> None:
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient("mongodb://reader:hush@127.0.0.1:1/?serverSelectionTimeoutMS=100") as client:
        store = GridFSStore(lambda: client["project"])
        uses = (lambda: store.put(b"content"), lambda: store.stat("0" * 64), lambda: list(store.list()))
        for use in uses:
            with pytest.raises(StoreUnavailable, match=r"Cannot reach .* at 127\.0\.0\.1:1") as error:
                use()
            assert "hush" not in str(error.value)


def test_the_server_itself_refuses_a_second_object_of_the_same_content(mongod_uri: str) -> None:
    """The race of two publishers is too narrow to lose on purpose: what decides it is the unique index."""
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        GridFSStore(lambda: database).put(b"content")
        twin = database["objects"]["files"].find_one({}, {"_id": False})
        assert twin is not None
        with pytest.raises(DuplicateKeyError):
            database["objects"]["files"].insert_one(twin)
        client.drop_database(database)


def test_chunks_have_the_size_asked_for(mongod_uri: str) -> None:
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        stored = GridFSStore(lambda: database, bucket="small", chunk_size=300_000).put(os.urandom(2 * MIB))
        sizes = [len(chunk["data"]) for chunk in database["small"]["chunks"].find().sort("n")]
        client.drop_database(database)
    assert sizes == [300_000] * 6 + [2 * MIB - 1_800_000]
    assert stored.size == 2 * MIB


@pytest.mark.parametrize("missing", [0, 11, 12, 13, 29])
def test_a_missing_chunk_is_told_wherever_it_is(mongod_uri: str, missing: int) -> None:
    """In one of several answers of the server, of 12 chunks each."""
    client: pymongo.MongoClient[Any]
    with pymongo.MongoClient(mongod_uri) as client:
        database = client[f"test_{uuid.uuid4().hex}"]
        store = GridFSStore(lambda: database)
        sha256 = store.put(os.urandom(30 * MIB)).sha256
        database["objects"]["chunks"].delete_one({"n": missing})
        with pytest.raises(ObjectDamaged, match=f"chunk {missing} is missing"):
            store.get_bytes(sha256)
        client.drop_database(database)
