"""The node's cache of data files, with real files and real processes."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.node_cache import CacheFull, DataFileChanged, DataFileMissing, DataFileName, NodeCache
from pipeline.store import ObjectDamaged
from pipeline.store.folder import FolderStore

MIB = 1 << 20
CHILD = str(Path(__file__).with_name("node_cache_process.py"))
NOTHING = hashlib.sha256(b"never seen").hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[NodeCache]:
    with NodeCache(tmp_path / "cache", budget_bytes=10 * MIB) as cache:
        yield cache


MakeSource = Callable[..., tuple[Path, str]]


@pytest.fixture
def make_source(tmp_path: Path) -> MakeSource:
    """Writes a data file and returns it with its sha256."""

    def make(content: bytes = b"examples", name: str = "digits.h5") -> tuple[Path, str]:
        path = tmp_path / "datasets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path, hashlib.sha256(content).hexdigest()

    return make


StartProcess = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[StartProcess]:
    """Starts another process on the same cache; all of them are ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(action: str, *rest: object, budget: int = 10 * MIB) -> subprocess.Popen[str]:
        command = [sys.executable, CHILD, action, str(tmp_path / "cache"), str(budget), *map(str, rest)]
        root = str(Path(__file__).parents[2])
        started.append(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": root},
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def files_in(folder: Path) -> list[Path]:
    """The data files of a cache, whole or not."""
    own = {"locks", "digests"}
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(path.relative_to(folder) for path in files if path.relative_to(folder).parts[0] not in own)


@pytest.mark.feature("S16")
def test_a_data_file_is_copied_once_and_read_only(cache: NodeCache, make_source: MakeSource, tmp_path: Path) -> None:
    source, sha256 = make_source()
    path = cache.fetch("digits.h5", sha256, source)
    assert path == tmp_path / "cache" / sha256 / "digits.h5" == cache.directory(sha256) / "digits.h5"
    assert path.read_bytes() == b"examples"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    inode = path.stat().st_ino
    assert cache.fetch("digits.h5", sha256, source).stat().st_ino == inode
    assert files_in(tmp_path / "cache") == [Path(sha256) / "digits.h5"]


def test_a_name_may_lie_in_a_subfolder(cache: NodeCache, make_source: MakeSource) -> None:
    source, sha256 = make_source(name="mice/one.h5")
    assert cache.fetch("mice/one.h5", sha256, source) == cache.directory(sha256) / "mice" / "one.h5"


def test_files_of_one_name_and_different_content_live_side_by_side(cache: NodeCache, make_source: MakeSource) -> None:
    first = cache.fetch("digits.h5", *reversed(make_source(b"one")))
    second = cache.fetch("digits.h5", *reversed(make_source(b"two")))
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"two")


def test_writing_into_the_original_does_not_reach_the_copy(cache: NodeCache, make_source: MakeSource) -> None:
    source, sha256 = make_source()
    path = cache.fetch("digits.h5", sha256, source)
    source.write_bytes(b"other")
    assert path.read_bytes() == b"examples"


@pytest.mark.feature("S16")
def test_a_node_without_the_file_fills_its_cache_from_the_store(cache: NodeCache, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    content = os.urandom(3 * MIB)
    sha256 = store.put(content).sha256
    assert cache.fetch("digits.h5", sha256, tmp_path / "nowhere" / "digits.h5", store=store).read_bytes() == content
    store.delete(sha256)
    assert cache.fetch("digits.h5", sha256, store=store).read_bytes() == content, "the copy needs the store no more"


def test_a_damaged_object_does_not_reach_the_cache(cache: NodeCache, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    sha256 = store.put(b"examples").sha256
    next((tmp_path / "store").rglob("content")).write_bytes(b"exambles")
    with pytest.raises(ObjectDamaged, match=sha256):
        cache.fetch("digits.h5", sha256, store=store)
    assert files_in(tmp_path / "cache") == []


@pytest.mark.feature("S16")
@pytest.mark.parametrize("copy_is_there", [False, True])
def test_a_file_that_changed_under_its_key_is_an_error(
    cache: NodeCache, make_source: MakeSource, tmp_path: Path, copy_is_there: bool
) -> None:
    source, sha256 = make_source(b"as inserted")
    if copy_is_there:
        cache.fetch("digits.h5", sha256, source)
    before = source.stat()
    _, other = make_source(b"altered now")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time: only the content tells
    with pytest.raises(DataFileChanged, match=f"{sha256} then, {other} now.*insert the new one"):
        cache.fetch("digits.h5", sha256, source)
    assert len(files_in(tmp_path / "cache")) == int(copy_is_there)


def test_a_copy_that_somebody_altered_is_made_again(cache: NodeCache, make_source: MakeSource) -> None:
    source, sha256 = make_source()
    path = cache.fetch("digits.h5", sha256, source)
    path.chmod(0o600)
    path.write_bytes(b"exambles")
    assert cache.fetch("digits.h5", sha256, source).read_bytes() == b"examples"


def test_a_file_that_is_nowhere_is_named(cache: NodeCache, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with pytest.raises(DataFileMissing, match=rf"digits.h5 .*{NOTHING}.* is not in {tmp_path} nor in the folder store"):
        cache.fetch("digits.h5", NOTHING, tmp_path / "digits.h5", store=store)
    with pytest.raises(DataFileMissing, match="is not in the cache"):
        cache.fetch("digits.h5", NOTHING)


@pytest.mark.parametrize("name", ["", ".", "../other", "/etc/passwd", "a/../../b", "a\0b"])
def test_a_name_that_leads_elsewhere_is_refused(cache: NodeCache, make_source: MakeSource, name: str) -> None:
    source, sha256 = make_source()
    with pytest.raises(DataFileName, match="relative name"):
        cache.fetch(name, sha256, source)


# Size


def test_the_least_recently_used_file_makes_room(cache: NodeCache, make_source: MakeSource, tmp_path: Path) -> None:
    sources = [make_source(bytes([number]) * 4 * MIB, f"{number}") for number in range(3)]
    for number, (source, sha256) in enumerate(sources[:2]):
        cache.fetch("data", sha256, source)
        os.utime(tmp_path / "cache" / "locks" / f"{sha256}.use", (1000 - number, 1000 - number))
    cache.close()
    cache.fetch("data", sources[2][1], sources[2][0])
    assert not cache.directory(sources[1][1]).exists(), "used before the other"
    assert cache.directory(sources[0][1]).exists()
    assert len(files_in(tmp_path / "cache")) == 2


def test_a_file_in_use_is_not_evicted_until_its_process_is_gone(
    cache: NodeCache, make_source: MakeSource, start_process: StartProcess
) -> None:
    (used, used_sha256), (new, new_sha256) = make_source(b"a" * 6 * MIB, "a"), make_source(b"b" * 6 * MIB, "b")
    process = start_process("hold", used_sha256, used)
    assert line_of(process)
    with pytest.raises(CacheFull, match="is in use"):
        cache.fetch("data", new_sha256, new)
    assert cache.directory(used_sha256).exists()
    process.kill()
    process.wait()
    cache.fetch("data", new_sha256, new)
    assert not cache.directory(used_sha256).exists()


def test_own_files_are_in_use_until_released(cache: NodeCache, make_source: MakeSource) -> None:
    (used, used_sha256), (new, new_sha256) = make_source(b"a" * 6 * MIB, "a"), make_source(b"b" * 6 * MIB, "b")
    cache.fetch("data", used_sha256, used)
    with pytest.raises(CacheFull):
        cache.fetch("data", new_sha256, new)
    cache.release(used_sha256)
    cache.fetch("data", new_sha256, new)


def test_a_forked_child_that_closes_leaves_its_parents_files_in_use(cache: NodeCache, make_source: MakeSource) -> None:
    (used, used_sha256), (new, new_sha256) = make_source(b"a" * 6 * MIB, "a"), make_source(b"b" * 6 * MIB, "b")
    cache.fetch("data", used_sha256, used)
    child = os.fork()
    if child == 0:
        cache.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(CacheFull):
        cache.fetch("data", new_sha256, new)


def test_a_file_larger_than_the_budget_is_a_sentence(cache: NodeCache, make_source: MakeSource, tmp_path: Path) -> None:
    source, sha256 = make_source(b"a" * 11 * MIB)
    with pytest.raises(CacheFull, match=f"no room for {11 * MIB} bytes: its budget is {10 * MIB} bytes"):
        cache.fetch("data", sha256, source)
    assert files_in(tmp_path / "cache") == []


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    make_source: MakeSource, start_process: StartProcess, tmp_path: Path
) -> None:
    source, sha256 = make_source(b"a" * 2 * MIB)
    out, _ = start_process("fill_full_disk", sha256, source).communicate()
    assert f"no room for {2 * MIB} bytes" in out
    assert "free space on it" in out
    assert files_in(tmp_path / "cache") == []


# Many at once


@pytest.mark.feature("S16")
def test_processes_that_want_the_same_file_share_one_copy(
    make_source: MakeSource, start_process: StartProcess, tmp_path: Path
) -> None:
    source, sha256 = make_source(os.urandom(4 * MIB))
    inodes = {line_of(process) for process in [start_process("hold", sha256, source) for _ in range(4)]}
    assert inodes == {str((tmp_path / "cache" / sha256 / "data").stat().st_ino)}


def test_threads_share_a_cache(cache: NodeCache, make_source: MakeSource, tmp_path: Path) -> None:
    sources = [make_source(bytes([number]) * 100_000, f"{number}") for number in range(4)] * 4
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda each: cache.fetch("data", each[1], each[0]), sources))
    assert [path.read_bytes()[:1] for path in paths] == [source.read_bytes()[:1] for source, _ in sources]
    assert len(files_in(tmp_path / "cache")) == 4


def test_a_process_killed_while_it_fills_leaves_nothing_that_counts(
    cache: NodeCache, start_process: StartProcess, tmp_path: Path
) -> None:
    store = FolderStore(tmp_path / "store")
    first, second = store.put(b"a" * 6 * MIB).sha256, store.put(b"b" * 6 * MIB).sha256
    process = start_process("fill_halfway", first, tmp_path / "store")
    assert line_of(process) == "halfway"
    assert not (cache.directory(first) / "data").exists()
    with pytest.raises(CacheFull):
        cache.fetch("data", second, store=store)  # room is taken, though nothing is there yet
    process.kill()
    process.wait()
    cache.fetch("data", second, store=store)
    assert files_in(tmp_path / "cache") == [Path(second) / "data"]


def test_a_copy_tells_that_it_moves(tmp_path: Path, make_source: MakeSource) -> None:
    source, sha256 = make_source(bytes(3 * MIB))
    told: list[None] = []
    with NodeCache(tmp_path / "cache", 10 * MIB, moved=lambda: told.append(None)) as cache:
        cache.fetch("digits.h5", sha256, source)
    assert len(told) >= 3


def test_waiting_for_another_process_that_makes_the_copy_is_told(
    tmp_path: Path, make_source: MakeSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sha256 = make_source()
    monkeypatch.setattr("pipeline.node_cache.WAIT", 0.01)
    told = threading.Event()
    with NodeCache(tmp_path / "cache", 10 * MIB, moved=told.set) as cache, ThreadPoolExecutor(1) as other:
        (tmp_path / "cache" / "locks").mkdir(parents=True)
        with FileLock(tmp_path / "cache" / "locks" / f"{sha256}.fill"):
            copied = other.submit(cache.fetch, "digits.h5", sha256, source)
            assert told.wait(60)
            assert not copied.done()
        assert copied.result(60).read_bytes() == b"examples"
