"""Digests of files are remembered while a file does not change, and not longer."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from pipeline import file_digest
from pipeline.file_digest import FileDigests, FileStillWritten


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data.h5"
    path.write_bytes(b"content")
    return path


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take files that were just written for old ones."""
    monkeypatch.setattr(file_digest, "SETTLED", -1)


def forge(folder: Path) -> None:
    """Let the only record claim another digest: who returns it has not read the file."""
    (record,) = (folder / "digests").iterdir()
    record.write_text(json.dumps({**json.loads(record.read_text()), "sha256": "remembered"}))


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_not_read_again(tmp_path: Path, path: Path) -> None:
    assert FileDigests(tmp_path).sha256_of(path) == hashlib.sha256(b"content").hexdigest()
    forge(tmp_path)
    assert FileDigests(tmp_path).sha256_of(path) == "remembered", "another process remembers too"


@pytest.mark.usefixtures("settled")
def test_a_changed_file_is_read_again(tmp_path: Path, path: Path) -> None:
    digests = FileDigests(tmp_path)
    digests.sha256_of(path)
    before = path.stat()
    path.write_bytes(b"CONTENT")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert digests.sha256_of(path) == hashlib.sha256(b"CONTENT").hexdigest()


def test_a_file_written_a_moment_ago_is_not_trusted_to_stay(tmp_path: Path, path: Path) -> None:
    FileDigests(tmp_path).sha256_of(path)
    assert not (tmp_path / "digests").exists()


def test_a_file_of_ones_own_is_remembered_at_once(tmp_path: Path, path: Path) -> None:
    digests = FileDigests(tmp_path)
    digests.remember_written(path, "told")
    assert digests.sha256_of(path) == "told"
    digests.forget(path)
    assert digests.sha256_of(path) == hashlib.sha256(b"content").hexdigest()


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"fingerprint": {}}'])
def test_a_damaged_record_is_ignored(tmp_path: Path, path: Path, damage: bytes) -> None:
    digests = FileDigests(tmp_path)
    digests.sha256_of(path)
    (record,) = (tmp_path / "digests").iterdir()
    record.write_bytes(damage)
    assert digests.sha256_of(path) == hashlib.sha256(b"content").hexdigest()


@pytest.mark.usefixtures("settled")
def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, path: Path) -> None:
    (tmp_path / "file").touch()
    assert FileDigests(tmp_path / "file").sha256_of(path) == hashlib.sha256(b"content").hexdigest()


def test_a_file_that_is_being_written_has_no_digest(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest_of = hashlib.file_digest

    def while_somebody_writes(*arguments: object) -> object:
        with open(path, "ab") as file:
            file.write(b"more")
        return digest_of(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(hashlib, "file_digest", while_somebody_writes)
    with pytest.raises(FileStillWritten, match="changed while it was read"):
        FileDigests(tmp_path).sha256_of(path)
